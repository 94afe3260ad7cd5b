"""Probes: one file for each library. They record calls and never judge them."""

from jobdoctor.capture.probes.registry import install_all, statuses, uninstall_all

__all__ = ["install_all", "statuses", "uninstall_all"]
