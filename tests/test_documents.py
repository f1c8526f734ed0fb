"""What the documents tell a reader to type: commands have these options, the sweep is one, the Python lines run."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import typer
import yaml

from fake_experiment import write_fake_experiment
from orchestrator.cli import app
from orchestrator.sweep.spec import load_sweep
from orchestrator.tune.trials import tell_all

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "BENCHMARKS.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Lines of code, indented or fenced, that begin with the command."""
    lines = [line for path in DOCUMENTS for line in path.read_text(encoding="utf-8").splitlines()]
    found = [re.sub(r"\s+#.*", "", line.strip()) for line in lines if re.match(r"( {4})?saccade \w", line)]
    plain = [re.sub(r"[\[\]]", "", line).replace(" N", " 1") if " [-" in line else line for line in found]  # a synopsis
    return sorted(set(plain))


@pytest.mark.parametrize("line", commands())
def test_every_command_has_the_arguments_that_a_document_gives_it(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    group = typer.main.get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    with command.make_context(name, arguments):  # parses, and does nothing
        pass


def test_every_document_is_a_page_of_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = re.findall(r"[\w-]+\.md", str(site["nav"]))
    assert sorted(pages) == sorted([*(path.name for path in (ROOT / "docs").glob("*.md")), "notebook.md"])


def test_there_are_commands_to_look_at() -> None:
    assert len(commands()) > 20


def test_the_sweep_of_the_readme_is_one(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^    name: my_sweep\n(?:    .*\n)+", text, re.MULTILINE)
    assert block
    document = yaml.safe_load("\n".join(line[4:] for line in block[0].splitlines()))
    sweep = tmp_path / "sweep.yaml"
    document["grid"][1]["tokens"] = ["N/2", "N/3"]  # of 12 layers: fewer tokens have no such average
    sweep.write_text(yaml.safe_dump(document | {"model": "embedded", "data": "embedded"}))
    assert len(load_sweep(sweep).points) > 10


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if "ExperimentAnalysis(" in path.read_text()], ids=str)
def test_an_experiment_opens_in_ray_tune_by_the_line_of_the_document(path, tmp_path, monkeypatch) -> None:
    (tmp_path / "experiments").mkdir()
    tell_all(write_fake_experiment(tmp_path / "experiments" / "layer_cutoff", samples=10))
    monkeypatch.chdir(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    (call,) = (place for place, line in enumerate(lines) if "ExperimentAnalysis(" in line)
    first = next(place for place in range(call, 0, -1) if lines[place].startswith(("import ", "    import ")))
    last = next(place for place in range(call, len(lines)) if lines[place].strip() in ("", "```"))
    exec(textwrap.dedent("\n".join(lines[first:last])), {})
