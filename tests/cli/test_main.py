"""The command group: light, lazy, and one line for each error."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from jobdoctor.cli import main as console_entry
from jobdoctor.cli.main import COMMANDS, LazyGroup, cli
from jobdoctor.errors import ConfigError, JobdoctorError


def run(*args: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JOBDOCTOR", "RQ_", "REDIS"))}
    return subprocess.run(
        [sys.executable, "-c", "from jobdoctor.cli import main; main()", *args],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )


def test_help_names_every_command_and_exits_0() -> None:
    result = run("--help")
    assert result.returncode == 0
    for name, entry in COMMANDS.items():
        assert name in result.stdout
        assert entry.summary in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom jobdoctor.cli.main import cli\n"
        "try:\n    cli(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.split('.')[0] in "
        "('rich', 'sqlalchemy', 'jinja2', 'rq', 'redis', 'pygments', 'msgspec')], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_the_help_that_the_table_says(name: str) -> None:
    command = import_module(COMMANDS[name].module).command
    assert isinstance(command, click.Command)
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    first = " ".join((command.help or "").split("\n\n")[0].split())
    assert first.startswith(COMMANDS[name].summary.rstrip("."))
    assert f"\n  Examples:\n    jobdoctor {name}" in result.output
    assert max(map(len, result.output.splitlines())) <= 80


def test_version() -> None:
    from jobdoctor import __version__

    assert run("--version").stdout == f"jobdoctor {__version__}\n"


def test_no_command_shows_the_help() -> None:
    result = run()
    assert result.returncode == 2
    assert "\nCommands:\n  run " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["reprot"], "Error: there is no command 'reprot'; did you mean `jobdoctor report`?\n"),
        (["zzz"], "Error: there is no command 'zzz'; run `jobdoctor --help` for the commands\n"),
        (["--nope"], "Error: No such option '--nope'; run `jobdoctor --help`\n"),
        (["explain"], "Error: Missing argument 'CODE'; run `jobdoctor explain --help`\n"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(args: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, args, prog_name="jobdoctor")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", said)


def group_that_raises(error: BaseException) -> LazyGroup:
    group = LazyGroup("jobdoctor", callback=lambda: None)

    @click.command("rules")
    def command() -> None:
        raise error

    group.get_command = lambda ctx, name: command  # type: ignore[method-assign]
    return group


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("what", "do this"), 2, "Error: what; do this\n"),
        (JobdoctorError("what\nover\nlines"), 2, "Error: what over lines\n"),
        (JobdoctorError("names \x1b[31mred\u202e"), 2, "Error: names \ufffd[31mred\ufffd\n"),
        (click.ClickException("odd"), 2, "Error: odd\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            KeyError("x\ny"),
            1,
            "jobdoctor failed: KeyError: 'x\\ny'; this is a bug, run with JOBDOCTOR_DEBUG=1 for the traceback\n",
        ),
    ],
)  # fmt: skip
def test_every_error_is_one_line(error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBDOCTOR_DEBUG", raising=False)
    result = CliRunner().invoke(group_that_raises(error), ["rules"])
    assert (result.exit_code, result.stderr.strip("\n"), result.stdout.strip()) == (code, said.strip("\n"), "")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBDOCTOR_DEBUG", "1")
    with pytest.raises(KeyError):
        CliRunner().invoke(group_that_raises(KeyError("x")), ["rules"], catch_exceptions=False)


def test_a_reader_that_leaves_is_no_error() -> None:
    result = subprocess.run(
        f"{sys.executable} -c 'from jobdoctor.cli import main; main()' explain JD401 | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout == "JD401 n-plus-one-query\n"
    assert result.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_no_bug_of_ours() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", "from jobdoctor.cli import main; main()", "rules", "--format", "json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert result.returncode == 2
    assert result.stderr == (
        "Error: nothing more can be written: No space left on device; free some, or write elsewhere\n"
    )


def test_shell_completion_lists_the_commands() -> None:
    environment = {
        **os.environ,
        "_JOBDOCTOR_COMPLETE": "bash_complete",
        "COMP_WORDS": "jobdoctor re",
        "COMP_CWORD": "1",
    }
    result = subprocess.run(
        [sys.executable, "-c", "from jobdoctor.cli import main; main()"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert result.stdout.split() == ["plain,report"]


def test_the_entry_point_is_callable() -> None:
    assert callable(console_entry)


@pytest.mark.parametrize("options", [["--config", "no_such_module"], ["--serializer", "nope"]])
def test_what_rq_could_not_import_is_one_line(options: list[str], valkey_url: str) -> None:
    result = run("run", "--burst", "--url", valkey_url, *options)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: {options[0]} {options[1]}: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(("command", "seldom"), [("report", True), ("triage", True), ("run", False), ("rules", False)])
def test_readers_collect_seldom_and_workers_as_ever(
    command: str, seldom: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["jobdoctor", command, "--help"])
    before = gc.get_threshold()
    try:
        with pytest.raises(SystemExit):
            console_entry()
        assert (gc.get_threshold()[0] > before[0]) == seldom
    finally:
        gc.set_threshold(*before)


def test_ctrl_c_while_the_command_line_is_being_imported_is_no_traceback() -> None:
    code = (
        "import sys\n"
        "class Pressed:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Pressed())\n"
        "from jobdoctor.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (130, "")
