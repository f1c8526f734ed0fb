"""Images that would take minutes or memory without end are refused, each in one line, and a pipe is not waited for."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from workers.images import MAX_SCANS, SCAN, load_image
from workers.tasks.base import DataError


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.fixture
def image() -> Image.Image:
    return Image.effect_noise((40, 30), 90).convert("RGB")


@pytest.mark.parametrize("format", ["JPEG", "MPO"])
def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(image, tmp_path, format):
    place = tmp_path / "x.jpg"
    image.save(place, format, progressive=True)
    assert load_image(place).size == (40, 30)
    content = place.read_bytes()
    last = content[content.rindex(SCAN) : -2]
    place.write_bytes(content[:-2] + last * MAX_SCANS + content[-2:])
    with pytest.raises(DataError, match=rf"x\.jpg: 40 x 30 in \d+ scans, more than {MAX_SCANS}; save it anew"):
        load_image(place)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
@pytest.mark.parametrize("at", [33, -12])
def test_a_png_whose_texts_unpack_to_megabytes_is_refused(image, tmp_path, kind, at):
    place = tmp_path / "x.png"
    image.save(place)
    content = place.read_bytes()
    head = b"a\0\0" if kind == b"zTXt" else b"a\0\1\0\0\0"
    text = chunk(kind, head + zlib.compress(b"x" * 20_000_000))
    place.write_bytes(content[:at] + text + content[at:])
    with pytest.raises(DataError, match=r"(?i)x\.png: cannot be read: Decompressed data too large"):
        load_image(place)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png: cannot be read: is not a file"):
        load_image(Path(tmp_path / "x.png"))
