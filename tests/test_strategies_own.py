"""Rules from users' files and from packages: taken in, named, sent on, and refused in one line."""

from __future__ import annotations

import pickle
from importlib.metadata import Distribution, EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch

from own_rules import PEAKED, forgotten
from strategies import catalog, own, own_code
from strategies.own import RuleError, admit, from_package, from_text, travelling
from strategies.source import _imported
from strategies.view import TokenView

pytestmark = pytest.mark.usefixtures("nobodys")


@pytest.fixture
def nobodys():
    with forgotten():
        yield


def view() -> TokenView:
    rows = torch.rand(2, 1, 8, generator=torch.Generator().manual_seed(1))
    return TokenView(visual=8, system=1, text=1, seed=0, device=torch.device("cpu"), attention_HQV=rows)


def test_a_rule_of_a_file_chooses_under_its_own_name():
    rule = from_text("my_rule.py", PEAKED, "my_rule")
    assert rule is catalog.get("my_rule.py:my_rule")
    (kept,) = rule.choose(view(), [3], {"power": 1.0})
    assert torch.equal(kept, catalog.get("fastv").choose(view(), [3], {})[0])
    assert rule.check({"power": 5}) == "power: 5 is outside 0..4"
    (kept,) = from_text("my_rule.py", PEAKED, "last_k").choose(view(), [2], {})
    assert kept.tolist() == [6, 7]


def test_the_rule_of_the_document_is_one():
    text = (Path(__file__).parents[1] / "docs/strategies.md").read_text(encoding="utf-8")
    rule = from_text("my_rule.py", text.partition("```python\n")[2].partition("```")[0], "my_rule")
    assert rule.choose(view(), [3], {})[0].shape == (3,)


def test_a_function_of_a_view_and_a_number_selects():
    text = "import torch\ndef first(view, keep):\n    return torch.arange(keep)\n"
    assert from_text("x.py", text, "first").choose(view(), [3], {})[0].tolist() == [0, 1, 2]


def test_its_hash_is_of_its_text_and_of_what_of_ours_it_imports(monkeypatch):
    def source(text: str) -> str:
        return from_text("my_rule.py", text, "my_rule").source_hash

    assert source(PEAKED) == source(PEAKED)
    assert source(PEAKED + "# a word\n") != source(PEAKED)
    assert from_text("my_rule.py", PEAKED, "last_k").source_hash != source(PEAKED)
    for form in (
        "from strategies import heads\n",
        "from strategies.heads import head_scores\n",
        "import strategies.heads\n",
    ):
        assert {file.name for file in _imported(PEAKED + form)} >= {"heads.py", "limits.py"}
    assert "fastv.py" not in {file.name for file in _imported(PEAKED)}  # by way of the catalog
    for ours in ("catalog", "strategy"):  # where it finds its words
        assert _imported(f"from strategies.{ours} import Strategy") == frozenset()


def test_it_travels_as_text_and_runs_where_no_file_is():
    from_text("my_rule.py", PEAKED, "my_rule")
    sent = pickle.dumps(travelling(["fastv", "my_rule.py:my_rule", "none"]))
    with forgotten():
        with pytest.raises(catalog.UnknownStrategy):
            catalog.get("my_rule.py:my_rule")
        (rule,) = pickle.loads(sent)
        admit([rule])
        assert catalog.get("my_rule.py:my_rule").source_hash == rule.source


def test_another_version_there_is_refused():
    from_text("my_rule.py", PEAKED, "my_rule")
    (rule,) = travelling(["my_rule.py:my_rule"])
    with pytest.raises(RuleError, match="another version is installed here"):
        admit([own.OwnRule(name=rule.name, source="0" * 16, text=rule.text)])
    with pytest.raises(RuleError, match="its package is not installed here"):
        admit([own.OwnRule(name="nowhere", source="0" * 16, text=None)])


@pytest.mark.parametrize(
    ("text", "name", "complaint"),
    [
        (PEAKED, "my_rul", "my_rule.py: has no 'my_rul'. Did you mean 'my_rule'?"),
        (PEAKED, "Annotated", "my_rule.py:Annotated: is no strategy; give a strategies.catalog.Strategy"),
        ("x = 3", "x", "my_rule.py:x: is no strategy"),
        ("def f(): ...", "f", "my_rule.py:f: is no strategy"),
        ("\n\ndef f(view:\n", "f", "my_rule.py:3: "),
        ("import helper_beside_it", "f", "my_rule.py:1: ModuleNotFoundError: No module named 'helper_beside_it'; it"),
        ("from strategies.view import Nothing", "f", "my_rule.py:1: ImportError: cannot import name 'Nothing'"),
        ("\n1 / 0", "f", "my_rule.py:2: ZeroDivisionError"),
        ("raise SystemExit(3)", "f", "my_rule.py:1: SystemExit: 3"),
        ("def f(view, *, a=1): ...", "f", "my_rule.py:f: parameter 'a' has no type; write `a: float = 0.5`, say"),
        ("def f(view, *, rank: int = 1): ...", "f", "my_rule.py:f: parameter 'rank' is called as a key of every grid"),
        ("def f(view, *, a: 'Unknown'): ...", "f", "my_rule.py:f: NameError"),
        (
            "from strategies.catalog import Strategy\nf = Strategy(name='f', source='')",
            "f",
            "my_rule.py:2: AssertionError: f: give one of score, order, select, schedule",
        ),
        (
            "from strategies.catalog import Strategy\nfrom strategies.himap import himap\n"
            "f = Strategy(name='f', schedule=himap, source='')",
            "f",
            "my_rule.py:f: prunes in stages",
        ),
        (
            "from strategies.catalog import Strategy\nfrom strategies.downsample import downsample\n"
            "f = Strategy(name='f', select=downsample, smaller=True, source='')",
            "f",
            "my_rule.py:f: shows the image with fewer pixels, which is `downsample`",
        ),
        (
            "from functools import partial\nfrom strategies.catalog import Strategy\n"
            "f = Strategy(name='f', score=partial(print), source='')",
            "f",
            "my_rule.py:f: its rule is no plain function",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(text, name, complaint):
    with pytest.raises(RuleError) as refused:
        from_text("my_rule.py", text, name)
    assert str(refused.value).startswith(complaint)
    assert "\n" not in str(refused.value)
    assert not catalog.ADMITTED


class Package(Distribution):
    """An installed package, as Python sees it."""

    def read_text(self, filename: str) -> str:
        return "Metadata-Version: 2.1\nName: pruners\nVersion: 1.2\n"

    def locate_file(self, path):
        raise NotImplementedError


def installed(monkeypatch, **rules: str) -> None:
    points = [EntryPoint(name, value, own.GROUP)._for(Package()) for name, value in rules.items()]  # type: ignore[attr-defined]
    monkeypatch.setattr(own_code, "entry_points", lambda group: EntryPoints(points if group == own.GROUP else ()))


def test_a_rule_of_an_installed_package_goes_by_its_entry_point(monkeypatch):
    installed(monkeypatch, pruner="strategies.fastv:fastv", broken="nowhere.at_all:x", fastv="strategies.fastv:fastv")
    rule = from_package("pruner")
    assert rule is catalog.get("pruner")
    assert rule.source_hash != catalog.get("fastv").source_hash  # the package's version is in it
    assert travelling(["pruner"]) == (own.OwnRule(name="pruner", source=rule.source_hash, text=None),)
    assert from_package("nothing") is None
    with pytest.raises(RuleError, match=r"pruners 1.2: ModuleNotFoundError: No module named 'nowhere'"):
        from_package("broken")


def test_a_name_of_ours_stays_ours(monkeypatch):
    installed(monkeypatch, fastv="strategies.divprune:divprune")
    assert from_package("fastv") is None
    assert own.collisions() == [
        "strategy 'fastv' of pruners 1.2 is not used: Saccade has one of that name; rename it there"
    ]


def test_two_packages_with_one_name_are_refused(monkeypatch):
    points = [EntryPoint("pruner", "x:y", own.GROUP)._for(Package()) for _ in range(2)]  # type: ignore[attr-defined]
    monkeypatch.setattr(own_code, "entry_points", lambda group: EntryPoints(points))
    with pytest.raises(RuleError, match=r"'pruner': is in pruners 1.2 and in pruners 1.2; uninstall one of them"):
        from_package("pruner")
