"""The command on checkpoints as their authors publish them: what it resolves, records and refuses."""

from __future__ import annotations

import json

import pytest

import checkpoint_forms as forms
from conftest import write_scienceqa
from orchestrator.sweep.prepare import prepare
from orchestrator.sweep.spec import load_sweep
from test_orchestrator_cli import call, refuse


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "data").mkdir()
    write_scienceqa(tmp_path / "data", count=3)
    path = tmp_path / "tiny.yaml"
    grid = "grid:\n  - {strategy: fastv, layer: 1, rank: 4}\n"
    path.write_text(f"model: nowhere\ndata: {tmp_path}/data\nmax_new_tokens: 2\n{grid}")
    return path


def resolved(sweep, model, **changes):
    manifest = prepare(load_sweep(sweep, {**changes, "model": str(model)})).manifest
    return manifest.context_parts, manifest.engine.model


def test_forms_are_told_apart(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    clip = forms.snapshot(tmp_path / "hub", "openai/clip-vit-large-patch14-336", "1" * 40, forms.tower)
    own = forms.original(tmp_path / "own", "openai/clip-vit-large-patch14-336")
    base = forms.vicuna(tmp_path / "vicuna")
    projector = tmp_path / "projector"  # as liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5
    projector.mkdir()
    (projector / "config.json").write_text((own / "config.json").read_text())
    (projector / "mm_projector.bin").write_bytes((own / "mm_projector.bin").read_bytes())

    code, text, _ = call("plan", sweep, "--model", projector, "--model-base", base, "--out", tmp_path / "out")
    assert code == 0
    assert f"{projector} on {base}".replace("\n", "") in "".join(text.split("\n")).replace("  ", "")
    other, model = resolved(sweep, projector, **{"model.base": str(base)})
    assert (model.path, model.base) == (str(projector), str(base))

    parts, model = resolved(sweep, own)
    assert (model.path, model.vision_tower) == (str(own), str(clip))
    assert parts["image_mode"] == "pad"
    assert parts["model"] != other["model"]
    # The tower is part of the model; how images are brought to a square is part of the question.
    settings = json.loads((clip / "preprocessor_config.json").read_text())
    (clip / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.5, 0.5, 0.5]}))
    assert resolved(sweep, own)[0]["model"] != parts["model"]
    square = json.loads((own / "config.json").read_text()) | {"image_aspect_ratio": None}
    (own / "config.json").write_text(json.dumps(square))
    assert resolved(sweep, own)[0]["image_mode"] == "crop"
    assert resolved(sweep, own, **{"model.image_mode": "pad"})[0]["image_mode"] == "pad"


def test_one_clear_line_and_exit_code_2(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert refuse("plan", sweep, "--model", "a/b").endswith(
        "`hf download a/b` fetches it; or give a checkpoint directory"
    )
    own = forms.original(tmp_path / "own", "../clip")
    assert "say where the vision tower lies: --set model.vision_tower=DIR" in refuse("plan", sweep, "--model", own)
    forms.tower(tmp_path / "clip")
    mode = "task.conversation=chat_template"
    template = refuse("run", sweep, "--model", own, "--local", "--set", mode, "--out", tmp_path / "out")
    assert template == "the checkpoint has no chat template; set task.conversation to vicuna_v1 or llava_v1"
    shard = sorted(own.glob("*.bin"))[1]
    shard.write_bytes(shard.read_bytes()[:-9])
    truncated = f"{sweep}: model: {shard}: is truncated or not a PyTorch file; download it again"
    assert refuse("plan", sweep, "--model", own) == truncated
