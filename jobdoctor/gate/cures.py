"""The rule that calls of a kind fall under when they are too many, and its cure in a sentence."""

from __future__ import annotations

from jobdoctor.model import SpanGroup

#: By channel and effect ("" for any): code and name of the rule, and what it advises.
_CURES = {
    ("sql", "read"): (
        "JD401 n-plus-one-query",
        "ask for all rows before the loop, with IN (...) or a join, and look them up in a dict",
    ),
    ("sql", "transaction"): ("JD406 commit-per-row", "commit once, or once for each few hundred rows"),
    ("sql", ""): ("JD405 row-by-row-write", "write all rows with one statement, or with executemany()"),
    ("redis", ""): ("JD403 redis-round-trips", "send the commands in one pipeline, or use the multi-key command"),
    ("http", ""): ("JD402 n-plus-one-http", "use the service's bulk endpoint, or ask for all before the loop"),
    ("enqueue", ""): ("JD805 enqueue-storm", "use enqueue_many(), or one job over a slice of the items"),
}


def cure_of(group: SpanGroup) -> tuple[str, str]:
    """(rule, advice) for calls of this kind; ("", "") where there is no rule."""
    if group.channel == "sql" and group.relationship:
        attribute = group.relationship.rpartition(".")[2]
        how = f'prefetch_related("{attribute}")' if group.library == "django" else f"selectinload(... .{attribute})"
        if group.library == "django":
            how = f'select_related("{attribute}") or {how}'
        return (
            "JD401 n-plus-one-query",
            f"{group.relationship} is loaded lazily, one by one: load it with the rows that need it, by {how}",
        )
    return _CURES.get((group.channel, group.effect)) or _CURES.get((group.channel, ""), ("", ""))
