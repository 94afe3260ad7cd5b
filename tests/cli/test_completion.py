"""What the shell is offered after TAB."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from jobdoctor.cli.main import cli
from jobdoctor.store import Store
from tests.builders import make_execution


@pytest.fixture
def store(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/store.db"
    with Store.open(url) as opened:
        opened.add([make_execution(job=name) for name in ("app.orders.sync", "app.orders.pack", "app.mail.send")])
    return url


def offered(words: str, **environment: str) -> list[str]:
    """The completions of the last word, as the script for bash asks for them."""
    asked = {
        "_JOBDOCTOR_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    made = CliRunner().invoke(cli, [], prog_name="jobdoctor", env={**asked, **environment})
    assert made.stderr == ""
    return [line.partition(",")[2] for line in made.stdout.splitlines() if line]


def test_jobs_of_the_store(store: str) -> None:
    assert offered("jobdoctor report app.o", JOBDOCTOR_STORE=store) == ["app.orders.pack", "app.orders.sync"]
    assert offered("jobdoctor report sen", JOBDOCTOR_STORE=store) == ["app.mail.send"]
    assert offered("jobdoctor whatif --speedup app.m", JOBDOCTOR_STORE=store) == ["app.mail.send="]


def test_no_store_is_no_error(tmp_path: Path) -> None:
    assert offered("jobdoctor report app.", JOBDOCTOR_STORE=f"sqlite:///{tmp_path}/none.db") == []
    assert offered("jobdoctor report app.", JOBDOCTOR_STORE="nonsense") == []
    assert not (tmp_path / "none.db").exists()


def test_rules() -> None:
    assert offered("jobdoctor explain jd40") == [f"JD40{number}" for number in range(1, 9)]
    assert offered("jobdoctor explain n-plus") == ["n-plus-one-query", "n-plus-one-http"]
