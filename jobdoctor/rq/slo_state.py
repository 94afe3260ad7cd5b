"""What is known of each promised job's runs in the last hour, in Redis, for all workers: who may stay in a fast queue.

**Which time.** The promise is from enqueue to done, but what clogs a queue is the time a job keeps a worker busy: its
service time, from dequeue to reap. A job that is late because others were before it is a victim, and moving it away
would cure nothing; one whose 95th percentile of the service time alone is beyond its promise cannot keep it in any
queue, and makes others break theirs. So service times are counted here, without the time in which the job was ready to
run and had no processor: that is the host's fault, and moving every job of a crowded host would help nobody.

**State.** One hash for each job (``jobdoctor:slo:<job>``), of constant size: six slices of ten minutes, each with its
number, how many runs it has seen, how many of them were late, and a histogram on a log scale whose edges are those of
the promise (4 buckets to a doubling), so that "more than 5 % late" and "95th percentile beyond the promise" are the
same, exactly. Every change is one Lua script, with the time as an argument.

**Entering** (the job is moved): at least 5 runs in the window, at least 3 of them late, and more than 5 % late. If 5 %
were, three of five would be late by chance once in a thousand times.
**Leaving**: 20 runs in a row, wherever they ran, within 80 % of the promise; or no run at all for an hour. What was
counted before is then forgotten. 20 is 1 / (1 - 0.95); the gap between 100 % and 80 % is the hysteresis.
**Probes**: while the job is moved, one is run in its own queue every 20 service times, but at least a minute and at
most an hour apart: they take at most a twentieth of one worker.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from jobdoctor.config import Settings

#: Set by `jobdoctor run --slo` for its worker: "all", or the longest promise it listens to.
VARIABLE = "JOBDOCTOR_PROMISES"
STATE_PREFIX = "jobdoctor:slo:"
INDEX_KEY = "jobdoctor:slo"
#: The field of RQ's job hash that says where a moved job came from: "<queue>|<ms since the epoch>|<token>".
MARK = "jobdoctor_demoted"

_LOWEST, _HIGHEST = -12, 32  # buckets: from an eighth of the promise to 256 times
_PER_DOUBLING = 4


class Limits(NamedTuple):
    """In ms and counts. Where they come from is said above."""

    slice_ms: int = 600_000
    slices: int = 6
    quantile: float = 0.95
    min_samples: int = 5
    min_late: int = 3
    leave_share: float = 0.8  # of the promise
    leave_after: int = 20  # good runs in a row
    probe_every: int = 20  # service times
    probe_least_ms: int = 60_000
    probe_most_ms: int = 3_600_000
    keep_ms: int = 86_400_000  # the state of a job that is no longer run
    look_back: int = 32  # places at the end of the slowest queue among which a moved job is put by its age

    @property
    def window_ms(self) -> int:
        return self.slice_ms * self.slices


LIMITS = Limits()


class SloState(Struct, frozen=True):
    """How a promised job stands now."""

    job: str
    slo_ms: float
    samples: int  # runs in the last hour
    late: int  # of them, longer than the promise
    p95_ms: float | None  # of the service time; to within a tenth. None: no run in the last hour
    demoted_since_ns: int | None = None  # None: it runs in its own queue
    moved: int = 0  # jobs moved since then
    probes: int = 0  # run in its own queue since then
    good_in_a_row: int = 0
    demotions: int = 0  # how often it was demoted, as far back as the state goes
    returned_at_ns: int | None = None  # from the last demotion


# KEYS: state, index. ARGV: now_ms, took_ms, slo_ms, job, then the limits.
_RECORD = """
local key, now, took, slo = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local slice_ms, slices, quantile = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local min_samples, min_late = tonumber(ARGV[8]), tonumber(ARGV[9])
local leave_share, leave_after = tonumber(ARGV[10]), tonumber(ARGV[11])
local probe_every, probe_least, probe_most = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local keep, per_doubling = tonumber(ARGV[15]), tonumber(ARGV[18])
local lowest, highest = tonumber(ARGV[16]), tonumber(ARGV[17])

if redis.call('HGET', key, 'slo_ms') ~= ARGV[3] then  -- another promise: nothing was measured against it yet
  redis.call('DEL', key)
  redis.call('HSET', key, 'slo_ms', ARGV[3])
end

local function forget(slot)
  local fields = {'s' .. slot, 'n' .. slot, 'o' .. slot}
  for bucket = lowest, highest do
    fields[#fields + 1] = 'h' .. slot .. ':' .. bucket
  end
  redis.call('HDEL', key, unpack(fields))
end

local slice = math.floor(now / slice_ms)
local slot = slice % slices
local known = tonumber(redis.call('HGET', key, 's' .. slot) or '-1')
if known > slice then
  return 0  -- told so late that its hour is over
end
if known < slice then
  forget(slot)
  redis.call('HSET', key, 's' .. slot, slice)
end
local bucket = lowest
if took > 0 then
  bucket = math.ceil(per_doubling * math.log(took / slo) / math.log(2) - 1e-9)
end
bucket = math.max(lowest, math.min(highest, bucket)) + 0  -- no -0
redis.call('HINCRBY', key, 'n' .. slot, 1)
redis.call('HINCRBY', key, 'h' .. slot .. ':' .. bucket, 1)
if took > slo then
  redis.call('HINCRBY', key, 'o' .. slot, 1)
end
redis.call('HSET', key, 'seen_at', ARGV[1])
redis.call('PEXPIRE', key, keep)
redis.call('ZADD', KEYS[2], ARGV[1], ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', now - keep))

if redis.call('HEXISTS', key, 'demoted_at') == 1 then
  if took > leave_share * slo then
    redis.call('HSET', key, 'good', 0)
    return 0
  end
  if redis.call('HINCRBY', key, 'good', 1) < leave_after then
    return 0
  end
  for each = 0, slices - 1 do
    forget(each)
  end
  redis.call('HDEL', key, 'demoted_at', 'probe_at', 'good')
  redis.call('HSET', key, 'returned_at', ARGV[1])
  return 2
end

local samples, late = 0, 0
for each = 0, slices - 1 do
  local counted = redis.call('HMGET', key, 's' .. each, 'n' .. each, 'o' .. each)
  if counted[1] and tonumber(counted[1]) > slice - slices then
    samples = samples + tonumber(counted[2] or '0')
    late = late + tonumber(counted[3] or '0')
  end
end
if samples < min_samples or late < min_late or late <= (1 - quantile) * samples + 1e-9 then
  return 0
end
local pause = math.max(probe_least, math.min(probe_most, probe_every * took))
redis.call('HSET', key, 'demoted_at', ARGV[1], 'probe_at', string.format('%.0f', now + pause), 'good', 0,
  'moved', 0, 'probes', 0, 'pause', string.format('%.0f', pause), 'samples', samples, 'late', late)
redis.call('HINCRBY', key, 'demotions', 1)
return 1
"""

# The job has just been taken out of its queue. Returns {0}: run it, jobs of its kind may; {1, samples, late, slo_ms,
# moved}: it was moved; {2}: run it, as a probe; {3}: run it, this one is not to be moved.
# KEYS: state, job, slowest queue, intermediate queue, queues, workers of the slowest queue, note of the intermediate
# queue. ARGV: now_ms, window_ms, job id, slowest queue's name, mark, was it put in the intermediate queue?, look_back,
# prefix of jobs' keys.
_TAKE = """
local key, job, slowest = KEYS[1], KEYS[2], KEYS[3]
local state = redis.call('HMGET', key, 'demoted_at', 'probe_at', 'seen_at', 'pause')
if not state[1] then
  return {0}
end
local mark = redis.call('HGET', job, '@MARK@')
if mark == ARGV[5] then
  return {1, 0, 0, '0', 0}  -- asked again: the answer was lost on the way
end
local now = tonumber(ARGV[1])
if now - tonumber(state[3] or '0') > tonumber(ARGV[2]) then
  redis.call('HDEL', key, 'demoted_at', 'probe_at', 'good')
  redis.call('HSET', key, 'returned_at', ARGV[1])
  return {0}
end
-- A worker that was killed stays in the set of those that listen, until another one cleans it; its own key is gone
-- sooner. Some are looked at: where none of them lives, the job runs here.
local function heard()
  for _, worker in ipairs(redis.call('SRANDMEMBER', KEYS[6], 10)) do
    if redis.call('EXISTS', worker) == 1 then
      return true
    end
  end
  return false
end
if mark or redis.call('HGET', job, 'status') ~= 'queued' or redis.call('PTTL', job) ~= -1 or not heard() then
  return {3}
end
if now >= tonumber(state[2]) then
  redis.call('HSET', key, 'probe_at', string.format('%.0f', now + tonumber(state[4])))
  redis.call('HINCRBY', key, 'probes', 1)
  return {2}
end
local in_between = ARGV[6] == '1'
if in_between and not redis.call('LPOS', KEYS[4], ARGV[3]) then
  return {3}  -- RQ has dealt with it meanwhile
end

-- First what may be refused for want of memory: then nothing has happened.
redis.call('HSET', job, '@MARK@', ARGV[5], 'origin', ARGV[4])
redis.call('SADD', KEYS[5], slowest)

-- By its age among the last ones; before all of these at most.
local enqueued = redis.call('HGET', job, 'enqueued_at')
local last = redis.call('LRANGE', slowest, -tonumber(ARGV[7]), -1)
local younger = 0
if enqueued then
  for place = #last, 1, -1 do
    local other = redis.call('HGET', ARGV[8] .. last[place], 'enqueued_at')
    if not other or other <= enqueued then
      break
    end
    younger = younger + 1
  end
end
if younger == 0 then
  redis.call('RPUSH', slowest, ARGV[3])
else
  redis.call('LTRIM', slowest, 0, -younger - 1)
  redis.call('RPUSH', slowest, ARGV[3], unpack(last, #last - younger + 1))
end
if in_between then
  redis.call('LREM', KEYS[4], 1, ARGV[3])
  redis.call('DEL', KEYS[7])
end
local why = redis.call('HMGET', key, 'samples', 'late', 'slo_ms')
return {1, tonumber(why[1] or '0'), tonumber(why[2] or '0'), why[3] or '0', redis.call('HINCRBY', key, 'moved', 1)}
"""

RECORD_SCRIPT = _RECORD
TAKE_SCRIPT = _TAKE.replace("@MARK@", MARK)


def minded(settings: Settings) -> bool:
    """Whether this process's worker minds the promises: as the settings say, or else when `jobdoctor run --slo` began
    it."""
    if settings.anti_clogging is not None:
        return settings.anti_clogging
    return bool(os.environ.get(VARIABLE))


def state_key(job: str) -> str:
    """Where a job's state is."""
    return f"{STATE_PREFIX}{job}"


def record(connection: Any, job: str, *, now_ms: int, took_ms: float, slo_ms: float, limits: Limits = LIMITS) -> str:
    """Counts a run of a promised job. "demoted" or "returned" when that changed how the job stands, else empty."""
    script = connection.register_script(RECORD_SCRIPT)
    changed = script(
        keys=[state_key(job), INDEX_KEY],
        args=[
            now_ms, f"{took_ms:.3f}", f"{slo_ms:g}", job, limits.slice_ms, limits.slices, limits.quantile,
            limits.min_samples, limits.min_late, limits.leave_share, limits.leave_after, limits.probe_every,
            limits.probe_least_ms, limits.probe_most_ms, limits.keep_ms, _LOWEST, _HIGHEST, _PER_DOUBLING,
        ],
    )  # fmt: skip
    return ("", "demoted", "returned")[int(changed)]


def forget(connection: Any, job: str) -> None:
    """A job that is exempt has no state."""
    connection.delete(state_key(job))
    connection.zrem(INDEX_KEY, job)


def read_states(connection: Any, *, now_ms: int | None = None, limits: Limits = LIMITS) -> list[SloState]:
    """How the promised jobs stand, demoted ones first, then by name. Reads only."""
    if now_ms is None:
        import time

        now_ms = time.time_ns() // 1_000_000
    names = [_text(name) for name in connection.zrange(INDEX_KEY, 0, -1)]
    pipeline = connection.pipeline(transaction=False)
    for name in names:
        pipeline.hgetall(state_key(name))
    found = [
        _state(name, {_text(field): _text(value) for field, value in fields.items()}, now_ms, limits)
        for name, fields in zip(names, pipeline.execute(), strict=True)
        if fields
    ]
    return sorted(found, key=lambda state: (state.demoted_since_ns is None, state.job))


def _state(job: str, fields: dict[str, str], now_ms: int, limits: Limits) -> SloState:
    slo_ms = float(fields["slo_ms"])
    oldest = now_ms // limits.slice_ms - limits.slices
    slots = [slot for slot in range(limits.slices) if int(fields.get(f"s{slot}", -1)) > oldest]
    samples = sum(int(fields.get(f"n{slot}", 0)) for slot in slots)
    counts = [
        (bucket, sum(int(fields.get(f"h{slot}:{bucket}", 0)) for slot in slots))
        for bucket in range(_LOWEST, _HIGHEST + 1)
    ]
    demoted_at = fields.get("demoted_at")
    returned_at = fields.get("returned_at")
    return SloState(
        job=job,
        slo_ms=slo_ms,
        samples=samples,
        late=sum(int(fields.get(f"o{slot}", 0)) for slot in slots),
        p95_ms=_quantile(counts, samples, slo_ms, limits.quantile),
        demoted_since_ns=None if demoted_at is None else int(demoted_at) * 1_000_000,
        moved=int(fields.get("moved", 0)),
        probes=int(fields.get("probes", 0)),
        good_in_a_row=int(fields.get("good", 0)),
        demotions=int(fields.get("demotions", 0)),
        returned_at_ns=None if returned_at is None else int(returned_at) * 1_000_000,
    )


def _quantile(counts: list[tuple[int, int]], samples: int, slo_ms: float, quantile: float) -> float | None:
    """The middle (of the logarithm) of the bucket in which the quantile lies."""
    if not samples:
        return None
    rank = math.ceil(quantile * samples - 1e-9)
    for bucket, count in counts:
        rank -= count
        if rank <= 0:
            return float(slo_ms * 2 ** ((bucket - 0.5) / _PER_DOUBLING))
    return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
