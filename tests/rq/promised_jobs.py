"""Jobs with promises and without."""

from __future__ import annotations

import jobdoctor


@jobdoctor.slo(within="30s")
def fast(*args: object, **kwargs: object) -> str:
    return f"{args} {kwargs}"


@jobdoctor.slo(within="2m")
def unhurried() -> None: ...


def any_time() -> None: ...


class Mailer:
    @jobdoctor.slo(jobdoctor.ToBeDone.WITHIN_10_SECONDS)
    def send(self) -> None: ...
