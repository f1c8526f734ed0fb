"""Reading a benchmark's files, with complaints that name the place and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from strategies.suggestion import near
from workers import foreign, json_file
from workers.json_file import UnreadableError
from workers.tasks.base import DataError, EmbeddedImage, Sample
from workers.tasks.tables import read_parquet, read_tsv
from workers.work import TaskSpec

Value = TypeVar("Value")
Row = Mapping[str, Any]


def data_folder(spec: TaskSpec) -> Path:
    """The benchmark's directory.

    Raises:
        DataError: there is none.
    """
    folder = Path(spec.data)
    if not folder.is_dir():
        hint = near(folder.name, ["embedded"])
        raise DataError(f"data {folder}: no such directory; give the benchmark's, or `embedded` for ours{hint}")
    return folder


def find_file(folder: Path, wanted: str | None, usual: Sequence[str]) -> Path:
    """The file that was asked for, else the first usual one that is there.

    Raises:
        DataError: none is there, or the one asked for lies outside the folder.
    """
    names = [wanted] if wanted else usual
    for name in names:
        if question_file(folder, name).is_file():
            return folder / name
    others = f" (nor {', '.join(names[1:])})" if len(names) > 1 else ""
    raise DataError(f"{folder / names[0]}: no such file{others}; copy it there, or name another with task.questions")


def question_file(folder: Path, name: str) -> Path:
    """A file or directory that ``task.questions`` names, be it there or not; it may be a link to another disk.

    Raises:
        DataError: it lies outside the folder.
    """
    try:
        return foreign.inside(folder, name, links=True)
    except foreign.OutsideError as error:
        raise DataError(f"task.questions: {error}; copy the file there, or give another --data") from error


def parquet_files(folder: Path, wanted: str | None, split: str) -> list[Path]:
    """The shards of a split, in order: the hub's ``SPLIT-00000-of-00002-HASH.parquet``, anywhere below the directory.

    Args:
        folder: the benchmark's directory.
        wanted: a parquet file or a directory in it, where there are several configurations; None: look everywhere.
        split: first part of the files' names.

    Raises:
        DataError: shards are missing, or lie in several directories.
    """
    if wanted and wanted.endswith(".parquet"):
        return [find_file(folder, wanted, ())]
    below = question_file(folder, wanted) if wanted else folder
    found = sorted([*below.rglob(f"{split}-*.parquet"), *below.rglob(f"{split}.parquet")])
    homes = sorted({str(file.parent.relative_to(folder)) for file in found})
    if len(homes) > 1:
        raise DataError(
            f"{folder}: has parquet files of split '{split}' in {', '.join(homes)}; name one directory with "
            "task.questions"
        )
    if found and "-of-" in found[0].name:
        stated = found[0].name.partition("-of-")[2][:5]
        count = int(stated) if stated.isdecimal() else 0
        if len(found) != count:
            raise DataError(f"{found[0].parent}: has {len(found)} of {count} parquet files of split '{split}'")
    return found


def parquet_rows(
    files: Sequence[Path], needed: Sequence[str], image: str = "image"
) -> Iterator[tuple[str, Row, EmbeddedImage | None]]:
    """Place, columns and image of every row of some shards.

    Raises:
        DataError: a file is damaged or lacks a column.
    """
    for file in files:
        try:
            for number, (row, picture) in enumerate(read_parquet(file, image)):
                if number == 0:
                    _need(file, "column", needed, row)
                yield f"{file}: row {number}", row, picture
        except (OSError, ValueError) as error:  # pyarrow's errors are both or either
            if isinstance(error, DataError):
                raise
            raise DataError(f"{file}: cannot be read as parquet ({one_line(error)}); copy it again") from error


def tsv_rows(file: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and fields of every row of a TSV file.

    Raises:
        DataError: it is damaged or lacks a column.
    """
    try:
        for number, row in enumerate(read_tsv(file, "image")):
            if number == 0:
                _need(file, "column", needed, row)
            yield f"{file}: row {number}", row
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: cannot be read as a tab-separated table: {one_line(error)}; copy it again") from error


def read_json(place: Path, kind: type[Value]) -> Value:
    """A whole JSON file.

    Raises:
        DataError: it is missing, no JSON, or holds another kind of value.
    """
    value = _content(place, json_file.read_json)
    if not isinstance(value, kind):
        raise DataError(f"{place}: holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def read_json_lines(place: Path) -> Iterator[tuple[str, Row]]:
    """Place and object of every line of a file with one JSON object a line.

    Raises:
        DataError: it is missing, or a line is no JSON object.
    """
    lines = _content(place, json_file.read_bytes).split(b"\n")  # which alone ends one: U+2028 is text in JSON
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json_file.parse_json(line)
        except UnreadableError as error:
            raise DataError(f"{place}: line {number}: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"{place}: line {number}: holds a {type(value).__name__}, expected an object")
        yield f"{place}: line {number}", value


def read_lines(place: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        DataError: it is missing, or no UTF-8 text.
    """
    text = _content(place, json_file.read_text)
    return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]


def _content(place: Path, read: Callable[[Path], Value]) -> Value:
    if not place.is_file():
        raise DataError(f"{place}: no such file; copy the files of the benchmark there")
    try:
        return read(place)
    except UnreadableError as error:
        raise DataError(str(error)) from error


def field(where: str, item: Row, name: str, kind: type[Value]) -> Value:
    """A field of an object.

    Raises:
        DataError: it is missing or of another kind.
    """
    if not isinstance(item, Mapping):
        raise DataError(f"{where}: is not an object")
    if name not in item:
        raise DataError(f"{where}: lacks '{name}' (it has {', '.join(map(str, item)) or 'nothing'})")
    value = item[name]
    if not isinstance(value, kind):
        raise DataError(f"{where}: {name}: {str(value)[:40]!r} is no {kind.__name__}")
    return value


def text(where: str, item: Row, name: str) -> str:
    """A field that must be text; a number stands for its digits.

    Raises:
        DataError: it is missing or neither.
    """
    value = field(where, item, name, object)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return field(where, item, name, str)


def inside(images: Path, name: str, where: str, *, links: bool = False) -> Path:
    """An image's path; a question file may not point outside its image folder.

    Args:
        images: the folder.
        name: as the question file has it.
        where: place in the question file, for messages.
        links: for a folder of images, which may lie on another disk.

    Raises:
        DataError: it does.
    """
    try:
        return foreign.inside(images, name, links=links)
    except foreign.OutsideError as error:
        raise DataError(f"{where}: image {error}") from error


def checked(place: Path, samples: Sequence[Sample], what: str) -> tuple[Sample, ...]:
    """The samples of a benchmark, none of them twice and none without its image file.

    Args:
        place: file or directory, for messages.
        samples: what was read.
        what: named where there are none, such as ``question of split 'test'``.

    Raises:
        DataError: all missing images are counted; the first is named.
    """
    if not samples:
        raise DataError(f"{place}: holds no {what}")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{place}: id {sample.id} stands there twice")
        seen.add(sample.id)
    missing = [
        (sample.id, image)
        for sample in samples
        for image in sample.images
        if isinstance(image, Path) and not image.is_file()
    ]
    if missing:
        raise DataError(
            f"{place}: {len({id for id, _ in missing})} of {len(samples)} samples have no image on disk; first: id "
            f"{missing[0][0]}, {missing[0][1]}. Copy the images there"
        )
    return tuple(samples)


def one_line(error: Exception) -> str:
    """An exception's message for one line of complaint."""
    return " ".join(str(error).split())[:160]


def first_folder(folder: Path, names: Sequence[str], holds: Callable[[Path], bool] = Path.is_dir) -> Path:
    """The first of some folders that is there; else the first, which then is named in the complaint about images."""
    return next((folder / name for name in names if holds(folder / name)), folder / names[0])


def _need(file: Path, what: str, needed: Sequence[str], row: Row) -> None:
    missing = [name for name in needed if name not in row]
    if missing:
        raise DataError(f"{file}: lacks the {what} {', '.join(missing)} (it has {', '.join(row)})")
