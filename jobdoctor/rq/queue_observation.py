"""A sample of all queues now and then, for the whole fleet: their depth, the age of their oldest job, who listens.

Witnesses and collectors call :func:`observe` when they have a moment; whoever comes first in ten seconds takes the
sample, for all the others. It goes to a bounded stream of its own, from where collectors bring it to the store. RQ is
not imported: a witness is a program that does not know it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from jobdoctor import wire
from jobdoctor.model import QueueSample, QueuesSample
from jobdoctor.rq import queue_state

#: Seconds between two samples of the fleet.
EVERY_S = 10.0
_TURN_KEY = "jobdoctor:queues:turn"
#: Different lists of queues in a sample; fleets have a few.
_MOST_POOLS = 100


def observe(connection: Any) -> bool:
    """Takes the sample when it is time; false when another one has. Raises what the client raises."""
    if not connection.set(_TURN_KEY, "1", nx=True, px=int(EVERY_S * 950)):
        return False
    sample = sample_of(queue_state.read(connection))
    connection.xadd(wire.SAMPLES_KEY, wire.encode_sample(sample), maxlen=wire.SAMPLES_MAXLEN, approximate=True)
    return True


def sample_of(state: queue_state.QueuesState) -> QueuesSample:
    """What of the state is kept."""
    pools = Counter(tuple(worker.queues) for worker in state.workers)
    return QueuesSample(
        at_ns=state.at_ns,
        queues=[
            QueueSample(
                queue.name,
                queue.depth,
                queue.oldest_at_ns,
                queue.started,
                queue.scheduled,
                queue.deferred,
                sum(number for queues, number in pools.items() if queue.name in queues),
            )
            for queue in state.queues
        ],
        pools=[(list(queues), number) for queues, number in pools.most_common(_MOST_POOLS)],
        suspended=state.suspended,
    )
