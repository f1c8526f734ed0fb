"""Whatever has happened to a file, who reads it gives what was in it, or says in one line what is wrong with it.

Longer, and different each time: `make fuzz`.
"""

from __future__ import annotations

import itertools
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from file_forms import FORMS, SEALED, Form, assert_one_line, read_table
from mutations import damaged
from orchestrator.sweep.document import SpecError
from results.disk import StoreError
from workers.families.config import ModelError
from workers.tasks.base import DataError

PEOPLE = (DataError, ModelError, SpecError, StoreError)  # of which a command makes lines and exit code 2
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL"),  # of what it could do without
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
]
MAX_S = 10.0  # of this process's time for one file, on any machine: what has no limit takes minutes
MAX_GROWTH_KIB = 2**20  # of memory, over all examples of a form
LONGER = max(1, settings.default.max_examples // 100)  # 1 but in `make fuzz`


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Form], Path]:
    """The folder of a form, made once."""
    made: dict[object, Path] = {}

    def of(form: Form) -> Path:
        if form.make not in made:
            made[form.make] = tmp_path_factory.mktemp("form")
            form.make(made[form.make])
        return made[form.make]

    return of


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH_KIB


def kept_whole(home: Path, form: Form) -> tuple[Path, bytes]:
    file = next(iter(sorted(home.glob(form.file))))
    return file, file.read_bytes()


moments = itertools.count(10**18, 10**9)


def put(file: Path, content: bytes) -> None:
    """Write a file that is seen to be another one, however soon after the last."""
    file.write_bytes(content)
    moment = next(moments)
    os.utime(file, ns=(moment, moment))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_damaged_file_is_read_or_told_in_one_line(home: Callable[[Form], Path], form: Form) -> None:
    folder = home(form)
    file, whole = kept_whole(folder, form)
    form.read(folder)  # it is valid
    damage = damaged(whole) if form.parts is None else st.one_of(form.parts(whole), form.parts(whole), damaged(whole))

    @settings(max_examples=form.examples * LONGER)
    @given(damage)
    def check(content: bytes) -> None:
        put(file, content)
        start = time.process_time()
        try:
            form.read(folder)
        except PEOPLE as error:
            for line in error.args:
                assert_one_line(line)
                assert str(folder) in line or line.startswith("model ")
        assert time.process_time() - start < MAX_S

    try:
        check()
    finally:
        put(file, whole)


@pytest.mark.parametrize("name", SEALED)
def test_no_damage_to_what_has_a_digest_changes_a_value_in_silence(home: Callable[[Form], Path], name: str) -> None:
    form = SEALED[name]
    folder = home(form)
    file, whole = kept_whole(folder, form)
    before, _ = read_table(folder, name)

    @settings(max_examples=form.examples * LONGER)
    @given(damaged(whole))
    def check(content: bytes) -> None:
        put(file, content)
        try:
            after, notes = read_table(folder, name)
        except StoreError:
            return
        assert after == before or (after < before and any(str(file) in note for note in notes))

    try:
        check()
    finally:
        put(file, whole)
