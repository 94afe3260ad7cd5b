"""Failures as SARIF 2.1.0 (OASIS, 2020), which GitHub, GitLab and editors show at the line that did it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from jobdoctor._version import __version__
from jobdoctor.gate.failure import Failure, lines
from jobdoctor.gate.places import Place, place_of

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_HELP = "https://github.com/jobdoctor/jobdoctor#the-checklist"


def render(found: Sequence[tuple[str, Failure, Place]]) -> str:
    """A log of one run. ``found``: test, failure, and where the test stands."""
    rules: dict[str, dict[str, Any]] = {}
    results = []
    for test, failure, location in found:
        rule = failure.rule.partition(" ")[0] or failure.check
        name = failure.rule.partition(" ")[2] or failure.check
        rules.setdefault(rule, {"id": rule, "name": name, "shortDescription": {"text": name}, "helpUri": _HELP})
        place = place_of(failure.callsite) or location
        others = {each for call in failure.calls if (each := place_of(call.callsite)) and each != place}
        result: dict[str, Any] = {
            "ruleId": rule,
            "ruleIndex": list(rules).index(rule),
            "level": "error",
            "message": {"text": "\n".join([*lines(failure), f"in {test}"])},
            "locations": [_location(place)],
            # What makes it the same alert after lines have moved.
            "partialFingerprints": {"jobdoctor/v1": f"{test}|{failure.check}|{rule}|{failure.calls[0].shape[:200]}"}
            if failure.calls
            else {"jobdoctor/v1": f"{test}|{failure.check}|{rule}"},
        }
        if others:
            ordered = sorted(others, key=lambda each: (each.file, each.line))
            result["relatedLocations"] = [_location(each) for each in ordered]
        results.append(result)
    driver = {"name": "jobdoctor", "version": __version__, "informationUri": _HELP, "rules": list(rules.values())}
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    return json.dumps(log, indent=2) + "\n"


def _location(place: Place) -> dict[str, Any]:
    artifact: dict[str, Any] = {"uri": quote(PurePath(place.file).as_posix())}
    if not PurePath(place.file).is_absolute():
        artifact["uriBaseId"] = "%SRCROOT%"
    return {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": place.line}}}
