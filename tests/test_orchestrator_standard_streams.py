"""The command with its input or output closed, full, unread, or in another encoding: never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAY = "import sys; sys.argv = ['saccade', *{words}]; import typer, orchestrator.cli as cli\n"
TELL = "@cli.app.command()\ndef tell(name: str = ''):\n    {body}\ncli.main()\n"
MANY = "typer.echo('\u2014 line\\n' * 100_000)"
SHOW = "from orchestrator.commands.shown import console_of_command as console; "
FEW = SHOW + "console().print('[v1] \u2014 ' + name, soft_wrap=True)"

WARNINGS = "-W error -W ignore::DeprecationWarning"  # old libraries among new ones


def tell(redirection: str, body: str = FEW, words: tuple[object, ...] = (), **variables: str) -> tuple[int, str, bytes]:
    """Exit code, errors and output of a command that says something, started by a shell."""
    code = SAY.format(words=["tell", *words]) + TELL.format(body=body)
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} {WARNINGS} -c \"$CODE\" {redirection}"],
        cwd=ROOT, capture_output=True, env={**os.environ, "CODE": code, **variables}, timeout=120,
    )  # fmt: skip
    assert b"Traceback" not in result.stderr
    assert b"Exception ignored" not in result.stderr
    return result.returncode, result.stderr.decode(), result.stdout


@pytest.mark.parametrize("body", [FEW, MANY], ids=["few", "many"])
def test_a_full_output_is_one_line(body):
    line = "standard output: No space left on device; write it to another place\n"
    assert tell(">/dev/full", body) == (2, line, b"")


def test_nobody_reads():
    code, errors, text = tell("| head -1", MANY)
    assert (code != 0, errors, text.decode()) == (True, "", "\u2014 line\n")


@pytest.mark.parametrize("redirection", [">&-", "<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(redirection):
    assert tell(redirection)[:2] == (0, "")


def test_what_is_opened_does_not_become_the_output():
    code, _, _ = tell(">&-", "import os; assert os.open('/dev/null', os.O_RDONLY) > 2; " + FEW)
    assert code == 0


@pytest.mark.parametrize(
    "variables",
    [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}, {"COLUMNS": "0", "TERM": "dumb"}, {"COLUMNS": "few"}],
    ids=str,
)
def test_other_terminals(variables):
    code, errors, text = tell("", **variables)
    assert (code, errors, text.startswith(b"[v1] ")) == (0, "", True)


def test_a_name_that_is_no_text():
    code, errors, _ = tell("", words=("--name", "\udcff"))
    assert (code, errors) == (2, "\\udcff: is not UTF-8; give the file another name\n")
