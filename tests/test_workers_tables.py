"""Images inside tables: read late, from their place; what is wrong with one costs one sample."""

from __future__ import annotations

import base64
import os
import pickle
import shutil
import struct
import threading
import zlib
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import small_benchmarks as made
from test_workers_engine import make_engine
from workers.fingerprint import data_fingerprint, whole_data_fingerprint
from workers.images import load_image
from workers.tasks.base import DataError, Sample
from workers.tasks.catalog import load_samples
from workers.tasks.tables import ParquetImage, read_parquet, read_tsv
from workers.work import GridPoint, TaskSpec, WorkUnit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@given(
    rows=st.lists(
        st.tuples(*[st.text(st.sampled_from('ab"\t\n ,é'), max_size=6)] * 3).filter(lambda row: any(row)), max_size=5
    ),
    ends=st.sampled_from(["\n", "\r\n"]),
)
def test_tsv_fields_are_those_of_pandas(folder, rows, ends):
    place = folder / "any.tsv"
    table = pd.DataFrame(rows, columns=["x", "y", "image"], dtype=str)
    table.to_csv(place, sep="\t", index=False, lineterminator=ends)
    expected = pd.read_csv(place, sep="\t", dtype=str, keep_default_na=False).to_dict("records")
    assert list(read_tsv(place, "image")) == expected == table.to_dict("records")


def test_only_long_fields_of_the_image_column_are_images(folder):
    place = folder / "images.tsv"
    text = base64.b64encode(b"x" * 60).decode()
    place.write_text(f"index\timage\n1\t{text}\n2\t1\n\n{text}\t3\n")
    first, second, third = read_tsv(place, "image")
    (image,) = first["image"]
    assert image.read() == b"x" * 60
    assert (second["image"], third["index"]) == ("1", text)
    assert str(image) == f"{place}: row 0"


@pytest.mark.parametrize("group", [1, 2, 100])
def test_parquet_images_come_from_their_row_group(tmp_path, group):
    rows = [{"n": n, "image": None if n == 3 else made.picture(n)} for n in range(7)]
    made.put_parquet(tmp_path / "x.parquet", rows, group)
    found = list(read_parquet(tmp_path / "x.parquet", "image"))
    assert [row for row, _ in found] == [{"n": n} for n in range(7)]
    assert [n for n, (_, image) in enumerate(found) if image is None] == [3]
    wanted = [n for n in (6, 0, 5, 1, 2, 4, 0) if n != 3]
    again = [pickle.loads(pickle.dumps(found[n][1])) for n in wanted]  # a sample may cross to another process
    assert [image.read() for image in again] == [made.picture(n) for n in wanted]


def test_parquet_images_as_plain_bytes(tmp_path):
    pq.write_table(pa.table({"image": [b"abc", None]}), tmp_path / "x.parquet")
    (_, image), (_, none) = read_parquet(tmp_path / "x.parquet", "image")
    assert (image.read(), none) == (b"abc", None)


def test_threads_read_side_by_side(tmp_path):
    rows = [{"n": n, "image": made.picture(n)} for n in range(30)]
    made.put_parquet(tmp_path / "x.parquet", rows, 3)
    images = [image for _, image in read_parquet(tmp_path / "x.parquet", "image")]
    found: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda k=k: found.update({n: images[n].read() for n in range(k, 30, 4)}))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(30)] == [made.picture(n) for n in range(30)]


def test_pixels_are_those_of_the_file(tmp_path):
    """The same image as a file, as a parquet cell and as base64."""
    made.put(tmp_path / "a.png", made.picture(1))
    made.put_parquet(tmp_path / "x.parquet", [{"n": 0, "image": made.picture(1)}])
    ((_, cell),) = read_parquet(tmp_path / "x.parquet", "image")
    made.write_mmbench(tmp_path, made.mmbench_rows())
    field = load_samples(TaskSpec(name="mmbench", data=str(tmp_path)))[1].image
    expected = np.asarray(load_image(tmp_path / "a.png"))
    for source in (cell, field):
        assert np.array_equal(np.asarray(load_image(source)), expected)


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 in some hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 90)) + chunk(b"IEND", b"")
    )


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    stream = BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def test_whatever_lies_in_a_cell_costs_one_sample_at_most(tmp_path, small_checkpoint):
    """Bombs, damage and nothing at all are failures on record; odd but whole images are answered."""
    frames = [Image.new("P", (9, 9), n) for n in range(3)]
    cells = {
        "bomb": bomb(), "cut": made.picture(0)[:60], "text": b"not an image at all", "empty": b"",
        "long": encoded(Image.new("RGB", (600, 1))),
        "cmyk": encoded(Image.new("CMYK", (8, 8)), "JPEG"),
        "grey": encoded(Image.fromarray(np.full((9, 9), 4096, np.uint16))),
        "animated": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "pixel": encoded(Image.new("RGB", (1, 1))), "clear": encoded(Image.new("LA", (8, 8))),
    }  # fmt: skip
    rows = [
        {"question_id": str(n), "question": "Is it ?", "answer": "no", "category": "random", "image": cell}
        for n, cell in enumerate(cells.values())
    ]
    made.put_parquet(tmp_path / "test-00000-of-00001-x.parquet", rows)
    engine = make_engine(small_checkpoint, tmp_path, task=TaskSpec(name="pope", data=str(tmp_path)))
    outcome = engine.run(
        WorkUnit(samples=tuple(engine.samples), points=(GridPoint(strategy="fastv", layer=1, rank=4),))
    )
    names = list(cells)
    failed = {names[int(f.sample.partition("/")[2])]: f for f in outcome.failures}
    assert set(failed) == {"bomb", "cut", "text", "empty", "long"}
    assert {names[int(cell.sample.partition("/")[2])] for cell in outcome.outcomes} == set(cells) - set(failed)
    for failure in failed.values():
        assert failure.kind == "DataError"
        assert "test-00000-of-00001-x.parquet: row" in failure.message
    grey = load_image(engine.samples["random/6"].image)
    assert grey.getpixel((0, 0)) == (16, 16, 16)  # 4096 of 65536


def test_a_cell_that_is_gone_or_wrong_is_one_line(tmp_path):
    made.put_parquet(tmp_path / "x.parquet", [{"n": 0, "image": made.picture(0)}])
    with pytest.raises(DataError, match=r"x\.parquet: row 5: cannot be read: the file has only 1 rows"):
        load_image(ParquetImage(tmp_path / "x.parquet", 5))
    with pytest.raises(DataError, match="cannot be read"):
        load_image(ParquetImage(tmp_path / "nowhere.parquet", 0))
    made.write_mmbench(tmp_path, [{**made.mmbench_rows()[0], "image": "!" * 100}])
    (sample,) = load_samples(TaskSpec(name="mmbench", data=str(tmp_path)))
    with pytest.raises(DataError, match=r"row 0: cannot be read: is not base64"):
        load_image(sample.image)


def test_a_table_that_names_two_columns_alike_is_one_line(tmp_path):
    made.write_scienceqa_parquet(tmp_path)
    file = next(tmp_path.rglob("*.parquet"))
    table = pq.read_table(file)
    pq.write_table(table.append_column("question", table["question"]), file)
    with pytest.raises(DataError, match=f"{file}: cannot be read as parquet .two columns have the same name"):
        load_samples(TaskSpec(name="scienceqa", data=str(tmp_path)))


def test_fingerprints_of_images_in_tables(tmp_path):
    """Where the file lies does not matter; what it holds does."""
    prints = []
    for name, number in (("a", 1), ("b", 1), ("c", 2)):
        rows = mmbench = made.mmbench_rows()
        mmbench[1]["image"] = base64.b64encode(made.picture(number)).decode()
        made.write_mmbench(tmp_path / name, rows)
        samples = load_samples(TaskSpec(name="mmbench", data=str(tmp_path / name)))
        prints.append((data_fingerprint(samples), whole_data_fingerprint(samples)))
    assert prints[0] == prints[1]
    assert not set(prints[0]) & set(prints[2])
    samples = load_samples(TaskSpec(name="mmbench", data=str(tmp_path / "a")))
    assert len({whole_data_fingerprint([replace(sample, id="1", question="")]) for sample in samples}) == 3


def test_the_last_byte_of_an_image_counts(tmp_path, small_scienceqa):
    folder = tmp_path / "data"
    shutil.copytree(small_scienceqa, folder)

    def named() -> str:
        return whole_data_fingerprint(load_samples(TaskSpec(name="scienceqa", data=str(folder))))

    image = folder / "images" / "test" / "1" / "image.png"
    image.write_bytes(image.read_bytes() + bytes(5000))
    before, seen = named(), image.stat()
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    os.utime(image, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # as a copy that keeps times, or a clock of whole seconds
    assert named() != before
    image.unlink()
    image.symlink_to("gone.png")
    with pytest.raises(DataError, match=r"image\.png"):
        whole_data_fingerprint([Sample(id="1", question="", label="A", image=image)])
