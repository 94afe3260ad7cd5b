"""The store's tables, the same on SQLite and PostgreSQL.

Rollups hold the long history, exemplars hold full detail for a few executions of each job, trace rows hold every
execution in one line for a while. Names begin with ``jobdoctor_`` so that they may live in a database that has other
tables. Instants are ns since the epoch.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, LargeBinary, MetaData, Table, Text

#: Raised by every change that an older jobdoctor could not read or would write wrongly.
SCHEMA_VERSION = 1

#: Longest text that goes into a key: PostgreSQL's B-tree refuses entries above 2.7 KB.
MAX_KEY_CHARACTERS = 500

OUTCOMES = ("finished", "failed", "retried", "timeout", "killed", "stopped")

metadata = MetaData()

schema = Table("jobdoctor_schema", metadata, Column("version", Integer, nullable=False))

#: Every job ever seen.
jobs = Table(
    "jobdoctor_jobs",
    metadata,
    Column("job", Text, primary_key=True),
    Column("executions", BigInteger, nullable=False),
    Column("first_at_ns", BigInteger, nullable=False),
    Column("last_at_ns", BigInteger, nullable=False),
)

#: Ids of what has been added, so that the second delivery of an entry changes nothing.
seen = Table(
    "jobdoctor_seen",
    metadata,
    Column("id", Text, primary_key=True),
    Column("added_at_ns", BigInteger, nullable=False, index=True),
)

#: One row for each job, queue and minute (an hour, once it is old) in which executions ended.
rollups = Table(
    "jobdoctor_rollups",
    metadata,
    Column("job", Text, primary_key=True),
    Column("at_ns", BigInteger, primary_key=True),
    Column("queue", Text, primary_key=True),
    Column("executions", BigInteger, nullable=False),
    *(Column(outcome, BigInteger, nullable=False) for outcome in OUTCOMES),
    Column("wait", LargeBinary, nullable=False),  # sketches, in ms
    Column("run", LargeBinary, nullable=False),
    Index("jobdoctor_rollups_at", "at_ns"),
    sqlite_with_rowid=False,
)

#: Full detail of a few executions of each job.
exemplars = Table(
    "jobdoctor_exemplars",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("job", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("reaped_at_ns", BigInteger, nullable=False),
    Column("run_ns", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("profiled", Boolean, nullable=False),
    Column("packed", LargeBinary, nullable=False),
    Index("jobdoctor_exemplars_job", "job", "reaped_at_ns"),
    Index("jobdoctor_exemplars_job_id", "job_id"),
)

#: Every execution in one line: the fields of model.TraceRow.
trace = Table(
    "jobdoctor_trace",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("job_id", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("created_at_ns", BigInteger, nullable=False),
    Column("enqueued_at_ns", BigInteger, nullable=False),
    Column("dequeued_at_ns", BigInteger, nullable=False),
    Column("reaped_at_ns", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("scheduled", Boolean, nullable=False),
    Column("args_hash", Text, nullable=False),
    Column("result_digest", Text, nullable=False),
    Column("error_digest", Text, nullable=False),
    Column("error_type", Text, nullable=False),
    Column("trigger_kind", Text, nullable=False),
    Column("trigger_callsite", Text, nullable=False),
    Column("parent_job", Text, nullable=False),
    Column("parent_execution_id", Text, nullable=False),
    Column("writes", BigInteger),
    Column("worker_queues", Text, nullable=False),  # JSON
    Column("queue_depth", BigInteger),
    # Later than the table: see ``later``.
    Column("route", Text, nullable=False, server_default=""),
    Column("depends_on", Text, nullable=False, server_default="[]"),  # JSON
    Index("jobdoctor_trace_at", "reaped_at_ns"),
    Index("jobdoctor_trace_job", "job", "reaped_at_ns"),
    Index("jobdoctor_trace_job_id", "job_id"),
)

#: Columns that a table of an earlier version lacks. They are added by the first writer; until then a reader takes their
#: default. Versions that do not know them go on reading and writing.
later = (trace.c.route, trace.c.depends_on)

#: Database connections of executions: whose session was it that blocked another?
sessions = Table(
    "jobdoctor_sessions",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("job", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("from_ns", BigInteger, nullable=False),
    Column("to_ns", BigInteger, nullable=False),
    Index("jobdoctor_sessions_backend", "backend", "to_ns"),
    Index("jobdoctor_sessions_to", "to_ns"),
)

#: Waits for locks whose holder was seen: the other side of ``sessions``.
lock_waits = Table(
    "jobdoctor_lock_waits",
    metadata,
    Column("execution_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("job", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("statement", Text, nullable=False),
    Column("blocking_statement", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("blocking_job", Text, nullable=False),  # empty: found by the session
    Column("at_ns", BigInteger, nullable=False),
    Column("waited_ns", BigInteger, nullable=False),
    Index("jobdoctor_lock_waits_at", "at_ns"),
)

#: Queues at a moment: the fields of model.QueueSample.
queue_samples = Table(
    "jobdoctor_queue_samples",
    metadata,
    Column("at_ns", BigInteger, primary_key=True),
    Column("queue", Text, primary_key=True),
    Column("depth", BigInteger, nullable=False),
    Column("oldest_at_ns", BigInteger),
    Column("started", Integer, nullable=False),
    Column("scheduled", BigInteger, nullable=False),
    Column("deferred", BigInteger, nullable=False),
    Column("workers", Integer, nullable=False),
    sqlite_with_rowid=False,
)

#: Workers at a moment, by what they listen to.
pool_samples = Table(
    "jobdoctor_pool_samples",
    metadata,
    Column("at_ns", BigInteger, primary_key=True),
    Column("queues", Text, primary_key=True),  # JSON, in their order
    Column("workers", Integer, nullable=False),
    sqlite_with_rowid=False,
)

#: Moments at which all workers were suspended.
suspensions = Table("jobdoctor_suspensions", metadata, Column("at_ns", BigInteger, primary_key=True))

#: Deploys and incidents.
marks = Table(
    "jobdoctor_marks",
    metadata,
    Column("at_ns", BigInteger, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("label", Text, primary_key=True),
)

#: What findings promised, for each the last time before a deploy: the fields of model.Prediction.
predictions = Table(
    "jobdoctor_predictions",
    metadata,
    Column("job", Text, primary_key=True),
    Column("code", Text, primary_key=True),
    Column("callsite", Text, primary_key=True),
    Column("first_at_ns", BigInteger, primary_key=True),
    Column("at_ns", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("side", Text, nullable=False),  # inside or around; ``where`` is a word of SQL
    Column("before_ms", Double, nullable=False),
    Column("low_ms", Double, nullable=False),
    Column("mid_ms", Double, nullable=False),
    Column("high_ms", Double, nullable=False),
)

#: Recordings known to be lost before they reached the store, by why and by minute.
losses = Table(
    "jobdoctor_losses",
    metadata,
    Column("source", Text, primary_key=True),
    Column("at_ns", BigInteger, primary_key=True),
    Column("lost", BigInteger, nullable=False),
)
