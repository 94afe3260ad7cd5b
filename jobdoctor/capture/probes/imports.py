"""What imports cost the execution that makes them: in a forked horse every import is paid again for each job.

``importlib._bootstrap._find_and_load`` is called for modules that are not loaded yet, and for those only; an import
statement that finds its module loaded never comes here.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from threading import get_ident
from types import ModuleType
from typing import Any, ClassVar, Final

from jobdoctor.capture import callsites, recorder
from jobdoctor.capture.layout import PHASE_INDEX
from jobdoctor.capture.probes.base import Probe

#: Modules that take less are not worth a line.
NOTED_NS: Final = 1_000_000

#: For each thread, the imports in progress: the time spent in the imports below each.
_below: dict[int, list[int]] = {}


def _is_application(name: str) -> bool:
    filename = getattr(sys.modules.get(name), "__file__", None)
    return bool(filename) and callsites.is_application(str(filename))


def _find_and_load(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _find_and_load(name: Any, import_: Any) -> Any:
        rec = recorder.current
        if rec is None or rec.silent:
            return original(name, import_)
        stack = _below.setdefault(get_ident(), [])
        stack.append(0)
        start = rec.clock()
        try:
            return original(name, import_)
        finally:
            total = rec.clock() - start
            inner = stack.pop()
            if stack:
                stack[-1] += total
            else:
                _below.pop(get_ident(), None)
            if total >= NOTED_NS and not str(name).startswith("jobdoctor"):
                rec.note(
                    "import",
                    module=str(name),
                    total_ns=total,
                    self_ns=max(0, total - inner),
                    depth=len(stack),
                    in_body=rec.phase == PHASE_INDEX["body"],
                    application=_is_application(str(name)),
                )

    return _find_and_load


class ImportProbe(Probe):
    """Imports of modules that were not loaded, with what each took by itself and with those below it."""

    channel: ClassVar[str] = ""
    library: ClassVar[str] = "importlib"
    modules: ClassVar[tuple[str, ...]] = ("_frozen_importlib",)

    def patch(self, module: ModuleType) -> None:
        """Replace the function that the interpreter and ``importlib.import_module`` both call."""
        self.replace(module, "_find_and_load", _find_and_load)
