"""The base of every rule of the checklist, and the limits it judges by.

A rule is pure: no I/O, no clock, no globals. It looks at a :class:`~jobdoctor.model.JobHistory` and gives findings
(*found*), none (*clear*), or says why it cannot judge (:class:`NotChecked`). Its module's docstring is its
documentation, under four headings: ``What it looks for``, ``Why it costs time``, ``What to do`` and
``When it is a false alarm``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from jobdoctor.model import (
    Evidence,
    Finding,
    JobHistory,
    Recommendation,
    RecommendationKind,
    Saving,
    Severity,
    Where,
)


class NotChecked(Exception):  # noqa: N818 -- an answer, not an error
    """Raised by a rule that cannot judge. The reason names what is missing and how to get it."""


class Limit:
    """A named threshold, with where its value comes from. ``[tool.jobdoctor.limits.<CODE>]`` overrides it."""

    def __init__(self, default: float, unit: str, doc: str, source: str) -> None:
        self.default = default
        self.unit = unit  # "calls", "ms", "bytes", "share", "executions", ...
        self.doc = doc
        self.source = source

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class Limits:
    """The values of a rule's limits: defaults, with a project's overrides on top. Read as attributes."""

    def __init__(self, declared: dict[str, Limit], overrides: dict[str, float] | None = None) -> None:
        self._values = {name: limit.default for name, limit in declared.items()}
        self._values.update(overrides or {})

    def __getattr__(self, name: str) -> float:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None


class Rule(ABC):
    """One check. Subclasses set the class attributes, declare :class:`Limit` attributes and implement :meth:`check`."""

    code: ClassVar[str]
    name: ClassVar[str]
    step: ClassVar[str]
    where: ClassVar[Where] = "inside"
    kind: ClassVar[RecommendationKind]
    #: Channels whose probes must have worked; the engine turns a failed one into ``not_checked``.
    needs: ClassVar[tuple[str, ...]] = ()
    #: Executions with details below which the engine says ``not_checked`` instead of asking the rule.
    min_executions: ClassVar[int] = 1
    #: Codes of main findings under which this one belongs when both stand at one callsite or target.
    related_to: ClassVar[tuple[str, ...]] = ()

    def __init__(self, overrides: dict[str, float] | None = None) -> None:
        self.limits = Limits(self.declared_limits(), overrides)

    @classmethod
    def declared_limits(cls) -> dict[str, Limit]:
        """The rule's limits by name, inherited ones included."""
        found: dict[str, Limit] = {}
        for base in reversed(cls.__mro__):
            found.update({name: value for name, value in vars(base).items() if isinstance(value, Limit)})
        return found

    @abstractmethod
    def check(self, history: JobHistory) -> Iterable[Finding]:
        """Findings, best first; nothing when clear; raises NotChecked when it cannot judge."""

    def finding(
        self,
        *,
        severity: Severity,
        confidence: float,
        title: str,
        cost_ms: float,
        saving: tuple[float, float, float],
        text: str,
        snippet: str = "",
        callsite: str = "",
        calls: int = 0,
        evidence: Iterable[Evidence] = (),
        kind: RecommendationKind | None = None,
        where: Where | None = None,
    ) -> Finding:
        """A finding of this rule; ``saving`` is (low, mid, high) in ms for each execution, ordered and not negative.

        ``title`` is a headline and has no final period; ``text`` is sentences, and gets one where it has none.
        """
        low, mid, high = sorted(max(0.0, value) for value in saving)
        return Finding(
            code=self.code,
            name=self.name,
            step=self.step,
            severity=severity,
            confidence=round(min(1.0, max(0.0, confidence)), 2),
            where=where or self.where,
            title=title,
            callsite=callsite,
            calls=calls,
            cost_ms=round(cost_ms, 3),
            saving_ms=Saving(round(low, 3), round(mid, 3), round(high, 3)),
            recommendation=Recommendation(kind or self.kind, text.rstrip(" .") + ".", snippet),
            evidence=list(evidence),
        )
