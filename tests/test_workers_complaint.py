"""What a person can mend is one line, whatever it quotes."""

from __future__ import annotations

import pickle

import pytest

from orchestrator.cluster.faults import SweepError
from orchestrator.cluster.joining import PoolError
from orchestrator.sweep.document import SpecError
from results.disk import StoreError
from workers.complaint import LONGEST, Complaint
from workers.families.config import ModelError
from workers.tasks.base import DataError

KINDS = (DataError, ModelError, PoolError, StoreError, SweepError)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quotation_breaks_no_line(kind: type[Complaint]) -> None:
    error = kind("x.json: 'a\nb\r\x1b[31m\x85\u2028\ud800' is not known")
    assert str(error) == r"x.json: 'a\nb\r\x1b[31m\x85\u2028\ud800' is not known"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(kind("C:\\new  café 東京")) == "C:\\new  café 東京"


def test_a_long_quotation_leaves_place_and_remedy() -> None:
    line = str(DataError(f"x.json: {'y' * 10**6}; copy it again"))
    assert len(line) < LONGEST + 10
    assert line.startswith("x.json: yyy")
    assert line.endswith("yyy; copy it again")


def test_a_sweep_file_has_a_line_for_each_mistake() -> None:
    error = SpecError("x.yaml: a\nb", "x.yaml: c")
    assert str(error) == "x.yaml: a\\nb\nx.yaml: c"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
