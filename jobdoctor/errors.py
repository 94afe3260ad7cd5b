"""Errors that a user can act on: each says what happened, where, and the next step."""

from __future__ import annotations


class JobdoctorError(Exception):
    """Base of every error that jobdoctor raises on purpose.

    The command line prints it as one line on standard error and exits with 2; library callers catch it
    like any exception. ``next_step`` is an imperative sentence without a final period.
    """

    def __init__(self, what: str, next_step: str = "") -> None:
        self.what = what
        self.next_step = next_step
        super().__init__(f"{what}; {next_step}" if next_step else what)


class ConfigError(JobdoctorError):
    """A setting, an option or an environment variable has a value that means nothing."""


class StoreError(JobdoctorError):
    """The store cannot be opened, read or written, or has a schema this version does not know."""


class UnknownJobError(JobdoctorError):
    """No execution of the job is in the store."""


class StreamError(JobdoctorError):
    """No Redis or Valkey server answers, or its stream cannot be read."""


class OutputError(JobdoctorError):
    """A report cannot be written where it was asked for."""
