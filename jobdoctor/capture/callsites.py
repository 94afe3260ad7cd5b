"""Which line of the application made a call: the first frame that is neither a library's nor ours.

Application code is what lies outside the standard library, outside site-packages and dist-packages, outside the
interpreter's script directory and outside jobdoctor itself. Frames are looked up by their file's name, whose hash is
cached: hashing a code object costs five times as much.
"""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
from types import CodeType, FrameType, TracebackType

#: Application frames kept for each callsite, innermost first.
STACK_FRAMES = 8
#: A call deeper below the application than this is described by a library frame.
DEPTH = 256
#: File names that are remembered; code that is generated without end may have more.
FILES = 20_000

_JOBDOCTOR = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_HORSE = os.path.join(_JOBDOCTOR, "rq", "horse.py")
_PACKAGES = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


def _library_directories() -> tuple[str, ...]:
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}
    paths |= {os.path.join(prefix, "bin") for prefix in (sys.prefix, sys.base_prefix)}
    paths.add(os.path.dirname(sys.executable or ""))
    paths |= {os.path.realpath(path) for path in paths if path}
    return tuple(path.rstrip(os.sep) + os.sep for path in paths if path and path != os.sep)


def _start_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


_LIBRARIES = _library_directories()
_ROOT = _start_directory()
_paths: dict[str, str] = {}


class _Files(dict[str, bool]):
    """Whether a source file belongs to the application, by its name; found out on first use."""

    def __missing__(self, filename: str) -> bool:
        application = not (
            not filename
            or filename.startswith(("<", _JOBDOCTOR, *_LIBRARIES))
            or any(part in filename for part in _PACKAGES)
        )
        if len(self) < FILES:
            self[filename] = application
        return application


#: Read by the recorder's hot path.
files = _Files()


def is_application(filename: str) -> bool:
    """Whether a source file belongs to the application."""
    return files[filename]


def relative(filename: str) -> str:
    """The file's path relative to the project: the working directory, or the import path that holds it."""
    known = _paths.get(filename)
    if known is None:
        roots = [_ROOT] if len(_ROOT) > 1 else []
        roots = [root for root in roots if filename.startswith(root + os.sep)] or sorted(
            (
                entry.rstrip(os.sep)
                for entry in sys.path
                if isinstance(entry, str) and len(entry) > 1 and filename.startswith(entry.rstrip(os.sep) + os.sep)
            ),
            key=len,
            reverse=True,
        )
        known = filename[len(roots[0]) + 1 :] if roots else filename
        if len(_paths) < FILES:
            _paths[filename] = known
    return known


def function_name(code: CodeType) -> str:
    """The qualified name of the function, without ``<locals>`` of comprehensions inside it."""
    name = code.co_qualname
    while name.rpartition(".")[2] in _COMPREHENSIONS:
        name = name.rpartition(".")[0].removesuffix(".<locals>")
        if not name:
            return "<module>"
    return name


def place(filename: str, line: int) -> str:
    """A line as reports name it: "app/tasks.py:41", or "requests/sessions.py:589" in a library."""
    return f"{relative(filename) if files[filename] else _library_name(filename)}:{line}"


class Site:
    """A line of code that made calls."""

    __slots__ = ("callsite", "function", "stack")

    def __init__(self, callsite: str, function: str, stack: list[str]) -> None:
        self.callsite = callsite
        self.function = function
        self.stack = stack


def _library_name(filename: str) -> str:
    for part in _PACKAGES:
        _, found, rest = filename.rpartition(part)
        if found:
            return rest
    for directory in _LIBRARIES:
        if filename.startswith(directory):
            return filename[len(directory) :]
    return relative(filename)


def site_of(frame: FrameType | None, home: object = None) -> Site:
    """The site of a call that ``frame`` (or what it was called by) made. Without any application frame (a library's
    coroutine that became a task has none): the function ``home``, or else the outermost library frame, or code without
    a file when there is nothing else."""
    stack: list[str] = []
    callsite = function = ""
    fallback: FrameType | None = None
    depth = 0
    while frame is not None and len(stack) < STACK_FRAMES and depth < DEPTH * 4:
        code = frame.f_code
        if files[code.co_filename]:
            name = function_name(code)
            where = f"{relative(code.co_filename)}:{frame.f_lineno}"
            if not stack:
                callsite, function = where, name
            entry = f"{where} {name}"
            if not stack or stack[-1] != entry:
                stack.append(entry)
        elif stack:
            if code.co_filename == _HORSE:
                break  # from here on it is the worker, not the job
        elif not code.co_filename.startswith(_JOBDOCTOR) and (fallback is None or not code.co_filename.startswith("<")):
            fallback = frame
        frame = frame.f_back
        depth += 1
    if not stack and callable(home):
        own = getattr(inspect.unwrap(home), "__code__", None)
        if isinstance(own, CodeType):
            function = function_name(own)
            callsite = f"{relative(own.co_filename)}:{own.co_firstlineno}"
            stack = [f"{callsite} {function}"]
    if not stack and fallback is not None:
        code = fallback.f_code
        function = function_name(code)
        callsite = f"{_library_name(code.co_filename)}:{fallback.f_lineno}"
        stack = [f"{callsite} {function}"]
    return Site(callsite, function, stack)


def beyond_greenlets() -> FrameType | None:
    """The first application frame of those that wait for the greenlet that runs now, whose own frames end at its root:
    where the job awaits SQLAlchemy's asyncio, which runs its blocking core in a greenlet. None without greenlets."""
    greenlets = sys.modules.get("greenlet")
    try:
        waiting = greenlets.getcurrent().parent if greenlets is not None else None
        while waiting is not None:
            frame: FrameType | None = waiting.gr_frame
            while frame is not None:
                if files[frame.f_code.co_filename]:
                    return frame
                frame = frame.f_back
            waiting = waiting.parent
    except AttributeError:  # greenlet is being imported
        pass
    return None


def raised_at(traceback: TracebackType | None) -> str:
    """The last application line that an exception came through; the last line at all when there is none."""
    callsite = last = ""
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if is_application(filename):
            callsite = f"{relative(filename)}:{traceback.tb_lineno}"
        last = f"{_library_name(filename)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return callsite or last


def here(skip: int = 1) -> Site:
    """The site of the caller; ``skip`` frames of the caller's own are left out."""
    return site_of(sys._getframe(skip))
