"""The lock, orchestrator/locks: what `make` installs is what pyproject.toml asks for, each file of it hashed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FILES = {file.stem: file.read_text(encoding="utf-8") for file in (ROOT / "orchestrator/locks").iterdir()}
ENTRY = re.compile(r"(?P<requirement>[^\s=]+==[^\\\n]+) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")
INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu\n"  # of torch's CPU build, which PyPI has not


def locked(*names: str) -> dict[str, list[Requirement]]:
    """The entries of some files, by package: more than one where Pythons or systems differ."""
    found: dict[str, list[Requirement]] = {}
    for name in names:
        for entry in ENTRY.finditer(FILES[name]):
            requirement = Requirement(entry["requirement"])
            found.setdefault(requirement.name, []).append(requirement)
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_holds_hashed_versions_and_no_place_but_pytorchs(name):
    rest = ENTRY.sub("", FILES[name])
    assert rest == "# Written by `make lock`.\n" + (INDEX if name == "torch-cpu" else "")


@pytest.mark.parametrize("build", ["torch-cpu", "torch-cuda"])
@pytest.mark.parametrize("dev", [False, True], ids=["runtime", "dev"])
def test_all_that_the_project_asks_for_is_locked_inside_its_range(build, dev):
    lines = PYPROJECT["build-system"]["requires"] + PYPROJECT["project"]["dependencies"]
    lines += PYPROJECT["project"]["optional-dependencies"]["dev"] if dev else []
    entries = locked("runtime", build, *(["dev"] if dev else []))
    for wanted in map(Requirement, lines):
        versions = [str(entry.specifier).removeprefix("==") for entry in entries[canonicalize_name(wanted.name)]]
        assert all(wanted.specifier.contains(version) for version in versions), f"{wanted}: {versions}; `make lock`"


def test_what_makes_the_documentation_is_locked_too_in_the_same_versions():
    entries = locked("docs")
    for wanted in map(Requirement, PYPROJECT["project"]["optional-dependencies"]["docs"]):
        assert canonicalize_name(wanted.name) in entries, f"{wanted}; `make lock`"
    others = locked("runtime", "dev")
    for name in entries.keys() & others.keys():  # on other systems only
        assert {str(entry.specifier) for entry in entries[name]} <= {str(entry.specifier) for entry in others[name]}


def test_a_citation_names_the_version():
    assert f"\nversion: {PYPROJECT['project']['version']}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_both_builds_of_torch_are_one_version():
    builds = locked("torch-cpu")["torch"] + locked("torch-cuda")["torch"]
    assert len({str(build.specifier).removesuffix("+cpu") for build in builds}) == 1, builds
