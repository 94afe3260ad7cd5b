"""Builds the recorder's accelerator along with the package, where a C compiler and Python's headers are at hand.

Without them the build goes on, and the recorder is the one in Python, which writes the same.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("jobdoctor", "capture", "_accelerator.c")


class AcceleratorHook(BuildHookInterface[Any]):
    """Compiles beside the source for an editable installation, and into the wheel else."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Hatchling's hook: ``version`` is "editable" or "standard"."""
        root = Path(self.root)
        name = SOURCE.with_suffix(sysconfig.get_config_var("EXT_SUFFIX") or ".so")
        self._directory = tempfile.TemporaryDirectory(
            prefix=".accelerator-", dir=root / SOURCE.parent if version == "editable" else None
        )
        built = Path(self._directory.name, name.name)
        problem = compile_accelerator(root / SOURCE, built)
        if problem:
            (root / name).unlink(missing_ok=True)  # built from other sources
            self.app.display_warning(f"The recorder's accelerator was not built, Python does its work: {problem}")
        elif version == "editable":
            os.replace(built, root / name)  # at once: processes that have the old one go on with it
        else:
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["force_include"][str(built)] = name.as_posix()

    def finalize(self, *_: Any) -> None:
        """Hatchling's hook: the wheel has been written."""
        self._directory.cleanup()


def compile_accelerator(source: Path, target: Path) -> str:
    """Why it could not be done, empty when it was."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it is for CPython with its GIL"
    compiler, *link = shlex.split(sysconfig.get_config_var("LDSHARED") or "cc -shared")
    includes = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    command = [
        *shlex.split(os.environ.get("CC") or compiler),
        *link,
        *shlex.split(sysconfig.get_config_var("CCSHARED") or "-fPIC"),
        "-O3",
        "-DNDEBUG",
        *shlex.split(os.environ.get("CFLAGS", "")),
        *(f"-I{path}" for path in sorted(includes)),
        str(source),
        "-o",
        str(target),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[-1] if lines else f"exit status {done.returncode}")
