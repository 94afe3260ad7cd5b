"""What a command prints and writes: notes go to standard error, files are written whole or not at all."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path

import click

from jobdoctor.errors import OutputError


def note(message: str, *, quiet: bool = False) -> None:
    """A line for the person, not for the pipe."""
    if not quiet:
        click.echo(message, err=True)


def wants_color() -> bool:
    """Colours only on a terminal, and not where NO_COLOR (https://no-color.org) is set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_text(text: str) -> None:
    """Text to standard output, in whatever encoding it has: what that cannot say becomes a question mark."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    click.echo(text, nl=False, color=wants_color())


def write_file(path: Path, text: str, option: str = "--output") -> None:
    """Write the file with its folders. On any error the file that was there stays as it was.

    ``option``: where the path came from, for the error.
    """
    try:
        if os.path.isdir(path):
            raise OutputError(f"{path} is a directory", f"give a file, such as {path / 'report.html'}")
        path = path.resolve()
        if path.exists() and not path.is_file():
            # A pipe or a device cannot be replaced, only written to.
            path.write_text(text, encoding="utf-8", errors="replace")
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"cannot write {path}: {what}", f"give another {option}") from None


def _replace(path: Path, text: str) -> None:
    if path.exists() and not os.access(path, os.W_OK):
        # A rename would go around the file's own protection.
        raise PermissionError(13, "Permission denied")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.chmod(name, path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
