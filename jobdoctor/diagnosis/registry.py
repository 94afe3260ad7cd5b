"""Every rule of the checklist, in the order of the report. To add a rule: its file, and its line here."""

from __future__ import annotations

from jobdoctor.diagnosis.rule import Rule

#: Module (below jobdoctor.diagnosis.checklist) and class of each rule, by code. Loaded on first use.
RULES: dict[str, tuple[str, str]] = {}


def load_rules(overrides: dict[str, dict[str, float]] | None = None) -> list[Rule]:
    """One instance of every rule, in the checklist's order. ``overrides``: limits by code and name."""
    from importlib import import_module

    rules: list[Rule] = []
    for code, (module, name) in RULES.items():
        rule_class: type[Rule] = getattr(import_module(f"jobdoctor.diagnosis.checklist.{module}"), name)
        rules.append(rule_class((overrides or {}).get(code)))
    return rules
