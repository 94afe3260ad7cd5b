"""The shop's jobs, by area."""
