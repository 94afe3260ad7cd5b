"""Walks the checklist over a job's history: every rule once, guarded; then one illness is made one main finding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from jobdoctor.diagnosis import measure, over_time, predictions, registry, replays
from jobdoctor.diagnosis.rule import NotChecked, Rule
from jobdoctor.diagnosis.verdict import reach_verdict
from jobdoctor.errors import ConfigError
from jobdoctor.model import Check, Diagnosis, Finding, JobHistory, Severity, Status

#: Gravest first.
SEVERITY_ORDER: dict[Severity, int] = {"critical": 0, "warning": 1, "info": 2}

#: A main finding owns another one of its database or host when it explains at least this share of the other's time.
EXPLAINED_SHARE = 0.5

Overrides = Mapping[str, Mapping[str, float]]


def diagnose(
    history: JobHistory, *, overrides: Overrides | None = None, rules: Sequence[Rule] | None = None
) -> Diagnosis:
    """Runs every rule of the registry (or ``rules``) over the history.

    ``overrides`` are limits by code and name. A code or a name that no rule has raises :class:`ConfigError`. A rule
    that crashes is said in the checklist and stops no other.
    """
    checklist: list[Check] = []
    findings: list[Finding] = []
    asked, broken = (list(rules), []) if rules is not None else registry.load_guarded(overrides)
    if rules is None:
        check_overrides(overrides or {}, asked)
    for rule in asked:
        check, found = run_rule(rule, history)
        checklist.append(check)
        findings.extend(found)
    checklist.extend(broken)
    order = {code: position for position, code in enumerate(registry.RULES)}
    checklist.sort(key=lambda check: (order.get(check.code, len(order)), check.code))

    related = {rule.code: rule.related_to for rule in asked}
    findings = _priced(history, rank(group(findings, related)))
    looked_at = measure.typical(history)
    changes = over_time.changes(history)
    return Diagnosis(
        history=history,
        verdict=reach_verdict(history, findings, changes),
        checklist=checklist,
        findings=findings,
        ledger=measure.mean_ledger(looked_at) if looked_at else [],
        changes=changes,
        kept=predictions.kept(history, lambda since: diagnose(since, overrides=overrides, rules=rules).findings),
    )


def _priced(history: JobHistory, findings: list[Finding]) -> list[Finding]:
    """With the wait that other jobs would be spared. What goes wrong with that stops nothing."""
    try:
        return replays.priced(history, findings)
    except Exception:
        return findings


def run_rule(rule: Rule, history: JobHistory) -> tuple[Check, list[Finding]]:
    """Asks one rule. Never raises."""

    def answer(status: Status, reason: str | None = None) -> Check:
        return Check(rule.step, rule.code, rule.name, status, reason)

    try:
        cannot = reason_not_to_ask(rule, history)
        if cannot is not None:
            return answer("not_checked", cannot), []
        found = list(rule.check(history))
    except NotChecked as reason:
        return answer("not_checked", str(reason) or f"{rule.name} could not judge and did not say why"), []
    except Exception as error:
        return answer("crashed", f"{type(error).__name__} in {rule.code} {rule.name}: {error}"), []
    return answer("found" if found else "clear"), found


def reason_not_to_ask(rule: Rule, history: JobHistory) -> str | None:
    """Why the rule cannot judge this history, in words; None when it can."""
    recorded = len(history.executions)
    if recorded < rule.min_executions:
        noun = "execution" if recorded == 1 else "executions"
        return f"{recorded} {noun} recorded, {rule.min_executions} needed: run the job more often"
    for channel in rule.needs:
        seen = [execution for execution in history.executions if execution.probe_active(channel)]
        if len(seen) >= max(1, rule.min_executions):
            continue
        failed = next(
            (
                probe
                for execution in history.executions
                for probe in execution.probes
                if probe.channel == channel and probe.status == "failed"
            ),
            None,
        )
        if failed is None:
            continue
        why = f" ({failed.reason})" if failed.reason else ""
        return (
            f"{channel} calls through {failed.library} were not recorded: its probe failed{why}; "
            f"install a supported version of {failed.library} and run the job again"
        )
    return None


def check_overrides(overrides: Overrides, rules: Iterable[Rule]) -> None:
    """Raises ConfigError for a code or a limit that does not exist."""
    known = {rule.code: rule for rule in rules}
    for code, values in overrides.items():
        if code not in known:
            if code in registry.RULES:  # exists, but its module could not be loaded: said in the checklist
                continue
            raise ConfigError(f"No rule has the code {code!r}", f"use one of: {', '.join(known)}")
        declared = known[code].declared_limits()
        for name in values:
            if name not in declared:
                raise ConfigError(
                    f"Rule {code} {known[code].name} has no limit {name!r}",
                    f"use one of: {', '.join(sorted(declared))}",
                )


def rank(findings: Iterable[Finding]) -> list[Finding]:
    """Main findings first, the gravest first, then by the time that acting would give back."""
    return sorted(findings, key=lambda finding: (finding.part_of is not None, *_weight(finding)))


def _weight(finding: Finding) -> tuple[int, float, str, str]:
    recoverable = finding.saving_ms.mid * finding.confidence
    return (SEVERITY_ORDER[finding.severity], -recoverable, finding.code, finding.callsite)


def group(findings: Sequence[Finding], related: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Makes findings that tell of one illness part of its main finding.

    A finding belongs under another when its rule names the other's code in ``related_to``, both stand at one callsite
    or one target, the other is at least as grave, and at one target only: it explains most of the finding's time. A
    finding about the whole job names no place and stands everywhere, under the same condition.
    Where two rules name each other, the one that would give back more is the main one.
    """
    owners: dict[int, int] = {}
    for position, finding in enumerate(findings):
        candidates = [
            other
            for other, main in enumerate(findings)
            if other != position
            and main.code in related.get(finding.code, ())
            and _owns(main, finding, mutual=finding.code in related.get(main.code, ()))
        ]
        if candidates:
            owners[position] = min(candidates, key=lambda other: _weight(findings[other]))

    def root(position: int) -> int:
        seen = {position}
        while position in owners and owners[position] not in seen:
            position = owners[position]
            seen.add(position)
        return position

    grouped: list[Finding] = []
    for position, finding in enumerate(findings):
        top = root(position)
        grouped.append(finding if top == position else replace(finding, part_of=findings[top].code))
    return grouped


def _owns(main: Finding, finding: Finding, *, mutual: bool) -> bool:
    if SEVERITY_ORDER[main.severity] > SEVERITY_ORDER[finding.severity]:
        return False
    if mutual and _weight(main) >= _weight(finding):
        return False
    if not _places(main, "callsite").isdisjoint(_places(finding, "callsite")):
        return True
    whole_job = not all(_places(each, "target") or _places(each, "callsite") for each in (main, finding))
    if not whole_job and _places(main, "target").isdisjoint(_places(finding, "target")):
        return False
    return main.cost_ms >= EXPLAINED_SHARE * finding.cost_ms


def _places(finding: Finding, key: str) -> set[str]:
    """The callsites or targets that a finding's tables of calls and locks name."""
    places = {finding.callsite} if key == "callsite" and finding.callsite else set()
    for evidence in finding.evidence:
        rows = evidence.data.get("groups", ())
        places.update(str(row[key]) for row in rows if isinstance(row, dict) and row.get(key))
        if isinstance(value := evidence.data.get(key), str) and value:
            places.add(value)
    return places
