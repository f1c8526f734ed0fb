"""Checkpoints that load, and checkpoints that must not: each mistake names the tensor, the field or the file."""

from __future__ import annotations

import json
import shutil
import struct
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from conftest import write_scienceqa
from small_llava import make_checkpoint
from workers.engine import Engine
from workers.families.catalog import open_checkpoint
from workers.families.config import ModelError
from workers.families.llava.loading import load_llava
from workers.families.llava.pixels import pad_to_square, to_pixels
from workers.fingerprint import model_fingerprint, sources_hash
from workers.images import FORMATS, load_image
from workers.tasks.base import DataError
from workers.work import EngineSpec, ModelSpec, TaskSpec, WorkUnit, unpruned_point


@pytest.fixture
def copy(small_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    return folder


def opened(folder):
    return open_checkpoint(ModelSpec(path=str(folder)))


def edit_config(folder, **changes) -> None:
    place = folder / "config.json"
    config = json.loads(place.read_text())
    for path, value in changes.items():
        section = config
        *parents, name = path.split("__")
        for parent in parents:
            section = section[parent]
        section[name] = value
    place.write_text(json.dumps(config))


def message_of(folder, **spec) -> str:
    with pytest.raises(ModelError) as caught:
        load_llava(ModelSpec(path=str(folder), **spec), "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_facts_come_from_the_checkpoint(small_checkpoint):
    config = opened(small_checkpoint).sizes
    assert (config.layers, config.heads, config.kv_heads, config.head_dim) == (2, 4, 2, 8)
    assert (config.hidden, config.ffn, config.visual_tokens, config.image_size) == (32, 64, 16, 56)
    llava = load_llava(ModelSpec(path=str(small_checkpoint)), "cpu")
    decoder = llava.decoder
    assert (len(decoder.layers), decoder.heads, decoder.kv_heads, decoder.head_dim) == (2, 4, 2, 8)
    prompt = llava.encode("<image>", Image.new("RGB", (56, 56)), "pad")
    assert [features.shape for features in llava.image_features([prompt])] == [(16, 32)]
    weights = sum(
        p.numel()
        for name, p in llava.decoder.module.named_parameters()
        if "proj.weight" in name and "embed" not in name
    )
    assert weights == config.parameters


def test_a_truncated_shard(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "model.safetensors: is truncated, 1000 bytes are missing" in message_of(copy)
    file.write_bytes(b"\x00" * 5)
    assert "is truncated or not a safetensors file" in message_of(copy)


def test_a_missing_tensor_is_named(copy):
    file = copy / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "layers.1.self_attn.q_proj" in name and "language" in name)
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    assert "1 tensors are missing" in (message := message_of(copy))
    assert "layers.1.self_attn.q_proj.weight" in message


def test_a_wrong_shape_is_named(copy):
    file = copy / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if "layers.0.mlp.up_proj" in name)
    tensors[name] = torch.zeros(7, 32)
    save_file(tensors, file, metadata={"format": "pt"})
    message = message_of(copy)
    assert "layers.0.mlp.up_proj.weight" in message
    assert "[7, 32]" in message


def test_a_missing_shard_is_named(tmp_path):
    folder = make_checkpoint(tmp_path)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors is missing" in message_of(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vision_config__image_size": 28},
            "position_embedding.weight: has shape [17, 16], config.json asks for [5, 16]",
        ),
        ({"vision_config__patch_size": 7}, "patch_embedding.weight: has shape [16, 3, 14, 14], config.json asks for"),
        ({"text_config__hidden_size": "wide"}, "hidden_size: 'wide' is not a positive whole number"),
        (
            {"text_config__rope_parameters": {"rope_type": "spiral"}},
            "is not a configuration that can be built: 'spiral'",
        ),
        ({"text_config__num_hidden_layers": -3}, "num_hidden_layers: -3 is not a positive whole number"),
        ({"model_type": "qwen2_vl"}, "model_type: 'qwen2_vl' is not supported (llava, llava_next, llava_onevision)"),
        ({"text_config__model_type": "gpt2"}, "text_config.model_type: 'gpt2' is not supported"),
        ({"text_config__num_hidden_layers": 3}, "tensors are missing from the weights"),
    ],
)
def test_a_wrong_field_is_named(copy, change, message):
    edit_config(copy, **change)
    assert message in message_of(copy)


def test_an_image_processor_of_another_size_is_named(copy):
    place = next(copy.glob("*processor_config.json"))
    settings = json.loads(place.read_text())
    settings["crop_size"] = {"height": 28, "width": 28}
    place.write_text(json.dumps(settings))
    assert "crops to {'height': 28, 'width': 28}, but config.json has vision_config.image_size 56" in message_of(copy)


def test_another_kind_of_image_processor_is_refused(copy):
    place = next(copy.glob("*processor_config.json"))
    place.write_text(place.read_text().replace("CLIPImageProcessor", "SiglipImageProcessor"))
    assert "image processor 'SiglipImageProcessor" in message_of(copy)
    place.unlink()
    assert "names an image processor" in message_of(copy)


def test_other_mistakes(copy, tmp_path):
    assert "no such directory" in message_of(tmp_path / "nowhere")
    assert "has no config.json" in message_of(tmp_path)
    assert "dtype 'float8'" in message_of(copy, dtype="float8")
    assert "image_mode 'stretch'" in message_of(copy, image_mode="stretch")
    (copy / "tokenizer.json").unlink()
    assert "has no tokenizer.json or tokenizer.model" in message_of(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        opened(copy).check()


def test_half_precision_loads(small_checkpoint):
    llava = load_llava(ModelSpec(path=str(small_checkpoint), dtype="bfloat16"), "cpu")
    assert llava.module.dtype == torch.bfloat16


def test_fingerprints_follow_content(copy, small_checkpoint):
    assert model_fingerprint(opened(copy)) == model_fingerprint(opened(small_checkpoint))
    tensors = load_file(copy / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert model_fingerprint(opened(copy)) != model_fingerprint(opened(small_checkpoint))
    (copy / "tokenizer.model").write_bytes(b"another vocabulary")
    named = model_fingerprint(opened(copy))
    (copy / "tokenizer.model").write_bytes(b"a third vocabulary")
    assert model_fingerprint(opened(copy)) != named
    assert sources_hash() == sources_hash()
    assert len(sources_hash()) == 16


def test_padding_centres_with_the_mean_colour(small_checkpoint):
    image = Image.new("RGB", (40, 21), (255, 0, 0))
    square = pad_to_square(image, (122, 116, 104))
    assert square.size == (40, 40)
    assert square.getpixel((0, 8)) == (122, 116, 104)
    assert square.getpixel((0, 9)) == (255, 0, 0)
    assert square.getpixel((0, 29)) == (255, 0, 0)
    assert square.getpixel((0, 30)) == (122, 116, 104)
    processor = load_llava(ModelSpec(path=str(small_checkpoint)), "cpu").image_processor
    padded, cropped = to_pixels(image, "pad", processor), to_pixels(image, "crop", processor)
    assert padded.shape == cropped.shape == (3, 56, 56)
    assert padded[0].std() > 0.1  # red and padding
    assert padded[:, 0].abs().max() < 0.02  # the mean colour is 0 once normalised, but for what 8 bits round
    assert cropped[0].std() < 1e-6  # red alone


@pytest.mark.parametrize(
    ("mode", "colour"), [("CMYK", (0, 255, 255, 0)), ("L", 128), ("P", 3), ("RGBA", (1, 2, 3, 0)), ("1", 1)]
)
def test_any_colour_mode_becomes_rgb(tmp_path, mode, colour):
    place = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    Image.new(mode, (5, 4), colour).save(place)
    assert load_image(place).mode == "RGB"


def test_sixteen_bits_of_grey_are_scaled(tmp_path):
    """Pillow's own conversion would clip them to white."""
    grey = np.array([[0, 0x1234, 0x8000, 0xFFFF]], dtype=np.uint16)
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(grey).save(tmp_path / name)
        assert np.asarray(load_image(tmp_path / name)).tolist() == [[[v] * 3 for v in (0, 0x12, 0x80, 0xFF)]]
    for unknown in (grey.astype(np.float32), grey.astype(np.int32)):
        Image.fromarray(unknown).save(tmp_path / "unknown.tif")
        with pytest.raises(DataError, match=r"has pixels of mode [FI], whose range is unknown; save it with 8 bits"):
            load_image(tmp_path / "unknown.tif")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame_counts(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert load_image(tmp_path / f"x.{suffix}").getpixel((0, 0)) == (255, 0, 0)


def test_transparency_is_dropped_and_orientation_ignored_as_llava_does(tmp_path):
    image = Image.new("P", (2, 1), 1)
    image.putpalette([9, 8, 7, 255, 0, 0])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "x.png", transparency=0)
    assert load_image(tmp_path / "x.png").getpixel((0, 0)) == (9, 8, 7)
    turned = Image.Exif()
    turned[274] = 6  # to be shown rotated by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=turned)
    assert load_image(tmp_path / "x.jpg").size == (8, 4)


@pytest.mark.parametrize("mode", ["pad", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (3000, 40)])
def test_small_and_long_images_have_pixels_too(small_checkpoint, mode, size):
    processor = load_llava(ModelSpec(path=str(small_checkpoint)), "cpu").image_processor
    pixels = to_pixels(Image.new("RGB", size, (255, 255, 255)), mode, processor)
    assert pixels.shape == (3, 56, 56)
    assert torch.isfinite(pixels).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp"])
def test_truncated_images_are_data_errors(tmp_path, suffix):
    place = tmp_path / f"x.{suffix}"
    Image.effect_noise((90, 90), 90).convert("RGB").save(place)
    place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])
    with pytest.raises(DataError, match=f"x.{suffix}: cannot be read"):
        load_image(place)


def write_bomb(place):
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)  # 2.7 GB in 69 bytes
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    chunks = [struct.pack(">I", len(b)) + name + b + struct.pack(">I", zlib.crc32(name + b)) for name, b in parts]
    place.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    write_bomb(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="900000000 pixels"):
        load_image(tmp_path / "bomb.png")


def test_bad_images_are_data_errors(tmp_path, monkeypatch):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png: is no JPEG, PNG"):
        load_image(broken)
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        load_image(tmp_path / "gone.png")
    thread = tmp_path / "thread.png"
    Image.new("1", (1, 60_000)).save(thread)  # 200 bytes, which padded to a square are 14 GB
    with pytest.raises(DataError, match="1 x 60000 makes a square above"):
        load_image(thread)
    Image.new("1", (1, 500)).save(thread)
    with pytest.raises(DataError, match="1 x 500 is more than 100 times as long as wide"):
        load_image(thread)
    big = tmp_path / "big.png"
    Image.new("1", (200, 200)).save(big)
    monkeypatch.setattr("workers.images.MAX_PIXELS", 30_000)
    with pytest.raises(DataError, match="200 x 200 makes a square above 30000 pixels"):
        load_image(big)


def test_a_sweep_survives_every_image(small_checkpoint, tmp_path):
    """Each picture is either asked about or a failure on record; the others do not notice."""
    write_scienceqa(tmp_path, count=9)
    noise = Image.effect_noise((90, 90), 90).convert("RGB")
    frames = [noise, Image.new("RGB", (90, 90))]
    pictures = {
        "1": lambda file: file.write_bytes(b""),
        "2": write_bomb,
        "3": lambda file: Image.new("RGB", (1, 1)).save(file),
        "4": lambda file: noise.convert("CMYK").save(file, format="tiff"),
        "5": lambda file: noise.save(file, format="gif", save_all=True, append_images=frames),
        "6": lambda file: Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(file),
        "7": lambda file: file.write_bytes(file.read_bytes()[:-300]),
    }
    for id, draw in pictures.items():
        draw(tmp_path / "images" / "test" / id / "image.png")
    model, task = ModelSpec(path=str(small_checkpoint)), TaskSpec(name="scienceqa", data=str(tmp_path))
    engine = Engine.load(EngineSpec(model=model, task=task, max_new_tokens=2), device="cpu")
    result = engine.run(WorkUnit(samples=tuple(engine.samples), points=(unpruned_point(2, 16),)))
    assert {failure.sample: failure.kind for failure in result.failures} == dict.fromkeys("127", "DataError")
    assert {cell.sample for cell in result.outcomes} == set("345689")


def saved(place, format) -> bool:
    """Whether Pillow could save a small image in a format."""
    for mode in ("RGB", "L", "1", "P", "RGBA", "F"):
        with (
            warnings.catch_warnings(action="ignore"),
            suppress(OSError, ValueError, KeyError, AttributeError, TypeError, SystemError, ImportError),
        ):
            Image.new(mode, (40, 30)).save(place, format)
            return True
    return False


def test_only_formats_of_benchmarks_are_decoded(tmp_path, monkeypatch):
    """By an allow-list, whatever a file is called: some formats start programs, some are plug-ins of others."""
    Image.init()
    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))  # SPIDER's writer takes the file's ending for itself
    tried = {format for format in Image.SAVE if saved(tmp_path / f"{format}.png", format)}
    assert {"EPS", "PPM", "ICNS", *FORMATS} <= tried
    for format in tried - {"MPO"}:  # of one picture it is a JPEG
        if format in FORMATS:
            assert load_image(tmp_path / f"{format}.png").size == (40, 30), format
        else:
            with pytest.raises(DataError, match=r"\.png: is no JPEG, PNG, WEBP, GIF, BMP or TIFF"):
                load_image(tmp_path / f"{format}.png")


def test_no_program_is_started(tmp_path, monkeypatch):
    place, called = tmp_path / "image.png", tmp_path / "called"
    place.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 60\n%%EndComments\nshowpage\n%%EOF\n")
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho >> {called}\nexit 1\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DataError):
        load_image(place)
    assert not called.exists()


def test_a_picture_of_two_frames_as_cameras_write_it(tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "camera.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "camera.jpg").getpixel((5, 5))[0] > 200
