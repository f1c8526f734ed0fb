"""Train the small LLaVA from scratch on drawn scenes.

    python -m embedded_training.train STATE --scenes 100000 --seconds 540 --decay-seconds 0
    python -m embedded_training.train STATE --seconds 540 --decay-seconds 300 --out workers/embedded/model

STATE holds the rendered scenes and the training state; a second call goes on where the first one stopped. The learning
rate is warmed up, held, and falls to zero over the last ``--decay-seconds`` of a call that is meant to be the last.

A row is one image with as many questions as fit behind it: the image is encoded once, and each question sees the part
before the image, the image and itself. About one question in five asks for the word instead of the letter, one in
twelve leaves the letter instruction out, and some need no image, as in the benchmark. Beside the answers, a linear
layer that is thrown away afterwards names the colour and kind of thing that each projected visual token shows: without
it the tower would have to learn to see from one letter a question.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from embedded_training.architecture import (
    AFTER_QUESTION,
    BEFORE_QUESTION,
    BOS,
    EOS,
    PAD,
    WORD_INSTRUCTION,
    build_model,
    build_tokenizer,
    save,
)
from embedded_training.drawn import OPTION_LETTERS, lay_out, question_text
from embedded_training.forward import (
    LayerWeights,
    decoder_layer,
    layer_weights,
    letter_logits,
    rotary,
    tower_layer,
    visual_tokens,
)
from embedded_training.questions import FAMILIES, words
from embedded_training.scene import COLOURS, LETTERS, PALETTE, PATCH, SHAPES, SIDE, Scene, patches, random_scene, render
from workers.tasks.prompts import SINGLE_PREDICTION

VISUAL = (SIDE // PATCH) ** 2
BEFORE = 35  # tokens before the image
PREFIX = BEFORE + VISUAL
ROW = 1024  # positions
TEXT = ROW - PREFIX
VARIANTS = 6  # rows of questions per scene
BARE = 128  # question numbers from here on have no image
NOTHING = 255  # question number of padding
FAMILY_NAMES = tuple(FAMILIES)
# Questions of several looks are asked more often than those of one.
FAMILY_WEIGHTS = tuple(1.0 if family.steps == "one look" else 1.7 for family in FAMILIES.values())
KINDS = (*SHAPES, *LETTERS)
# What a position has to predict: 0 nothing, 1 + family the first answer token, and these.
WORD, TOLD, REST = 40, 80, 120
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


# --- rows of training text ------------------------------------------------------------------------------------------


def random_question(scene: Scene, rng: Random) -> tuple[str, str, int] | None:
    """One training question: text after the image (or after "USER:"), answer, what kind of target it is."""
    draw = rng.random()
    if draw < 0.04:
        plain = words(rng)
        options = rng.randint(2, 1 + min(4, len(plain.others)))
        place = rng.randrange(options)
        text = question_text(plain.text, lay_out(plain, options, place))
        return f" {text}\n{SINGLE_PREDICTION}{AFTER_QUESTION}", OPTION_LETTERS[place], -1
    index = rng.choices(range(len(FAMILY_NAMES)), FAMILY_WEIGHTS)[0]
    question = FAMILIES[FAMILY_NAMES[index]].ask(scene, rng)
    if question is None:
        return None
    if draw < 0.24 and FAMILY_NAMES[index] not in ("larger", "present"):  # these two mean nothing without options
        return f"\n{question.text}\n{WORD_INSTRUCTION}{AFTER_QUESTION}", f" {question.answer}", WORD + index
    options = rng.randint(2, 1 + min(4, len(question.others)))
    place = rng.randrange(options)
    told = draw > 0.94
    text = question_text(question.text, lay_out(question, options, place), question.fact if told else "")
    instruction = f"\n{SINGLE_PREDICTION}" if draw > 0.32 else ""
    return f"\n{text}{instruction}{AFTER_QUESTION}", OPTION_LETTERS[place], (TOLD if told else 1) + index


def _write_scenes(job: tuple[Path, int, int, int, int]) -> None:
    """Render scenes ``first .. first + count`` and their questions into the arrays under ``folder``."""
    folder, total, first, count, seed = job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    arrays = _open_arrays(folder, total, "r+")
    tokenizer = build_tokenizer().backend_tokenizer
    colours, kinds = tuple(COLOURS), KINDS
    asked: list[tuple[int, int, str, str, int]] = []
    for index in range(first, first + count):
        rng = Random(f"saccade train {seed} {index}")
        scene = random_scene(rng)
        arrays["image"][index] = np.frombuffer(render(scene).tobytes(), dtype=np.uint8)
        for thing in scene.things:
            shown = list(patches((thing,)))
            arrays["colour"][index, shown] = 1 + colours.index(thing.colour)
            arrays["kind"][index, shown] = 1 + kinds.index(thing.kind)
        for variant in range(VARIANTS):
            for _ in range(14):
                if made := random_question(scene, rng):
                    asked.append((index, variant, *made))
    texts = tokenizer.encode_batch([text for _, _, text, _, _ in asked], add_special_tokens=False)
    answers = {answer: tokenizer.encode(answer, add_special_tokens=False).ids for *_, answer, _ in asked}
    used: dict[tuple[int, int], tuple[int, int]] = {}
    for (index, variant, _, answer, target), text in zip(asked, texts, strict=True):
        at, number = used.get((index, variant), (0, 1))
        tokens = text.ids + answers[answer] + [EOS]
        if at + len(tokens) > TEXT:
            continue
        end, start = at + len(tokens), at + len(text.ids)
        arrays["token"][index, variant, at:end] = tokens
        arrays["number"][index, variant, at:end] = number + (BARE if target == -1 else 0)
        arrays["target"][index, variant, start - 1] = REST if target == -1 else target
        arrays["target"][index, variant, start : end - 1] = REST
        arrays["place"][index, variant, at:end] = np.arange(len(tokens)) + (BEFORE - 1 if target == -1 else PREFIX)
        used[index, variant] = (end, number + 1)


def _open_arrays(folder: Path, total: int, mode: Literal["r+", "w+"]) -> dict[str, np.ndarray]:
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "image": (np.uint8, (total, SIDE * SIDE)),  # palette indices
        "colour": (np.uint8, (total, VISUAL)),  # 0 nothing, 1 + colour
        "kind": (np.uint8, (total, VISUAL)),  # 0 nothing, 1 + kind
        "token": (np.int16, (total, VARIANTS, TEXT)),
        "number": (np.uint8, (total, VARIANTS, TEXT)),  # which question a position belongs to
        "target": (np.uint8, (total, VARIANTS, TEXT)),  # what it must predict
        "place": (np.int16, (total, VARIANTS, TEXT)),  # position id
    }
    return {
        name: np.memmap(folder / f"{name}.bin", dtype=dtype, mode=mode, shape=shape)
        for name, (dtype, shape) in shapes.items()
    }


def prepare(folder: Path, total: int, seed: int) -> None:
    """Render ``total`` scenes with their questions on all cores; nothing is done if the folder already has them."""
    done = folder / "scenes.json"
    if done.exists() and json.loads(done.read_text()) == {"total": total, "seed": seed}:
        return
    folder.mkdir(parents=True, exist_ok=True)
    arrays = _open_arrays(folder, total, "w+")
    arrays["token"][:] = PAD
    arrays["number"][:] = NOTHING
    step = min(500, max(1, total // (os.cpu_count() or 1)))
    jobs = [(folder, total, first, min(step, total - first), seed) for first in range(0, total, step)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_write_scenes, jobs))
    done.write_text(json.dumps({"total": total, "seed": seed}))


# --- one step -------------------------------------------------------------------------------------------------------


def visible(number_BS: Tensor, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """May ``query`` see ``key``? Both are positions of a row; numbers are 0 before and in the image."""
    mine, its = number_BS[row, query], number_BS[row, key]
    shared = (key < PREFIX) & ((key < BEFORE - 1) | (mine < BARE))
    return (query >= key) & ((mine == its) | shared)


class Packed:
    """Which position of the packed rows sees which, for flex attention (blocks) or plain attention (a dense mask)."""

    def __init__(self, rows: int, device: torch.device, flex: bool) -> None:
        self.number_BS = number_BS = torch.zeros(rows, ROW, dtype=torch.int32, device=device)
        self.flex = flex
        self.mask: Any = None  # BlockMask or (B, 1, S, S) bool
        if flex:
            # Which blocks of 128 x 128 may hold anything is the same for every row; only the inside differs.
            size, count = 128, ROW // 128
            index = torch.arange(count, dtype=torch.int32, device=device)
            self.mask = BlockMask.from_kv_blocks(
                (index + 1)[None, None],
                index.expand(count, count)[None, None].contiguous(),
                BLOCK_SIZE=size,
                mask_mod=lambda b, h, q, k: visible(number_BS, b, q, k),
            )

    def begin(self, number_BT: Tensor) -> None:
        """Take the question numbers of the rows to come."""
        self.number_BS[:, PREFIX:] = number_BT
        if not self.flex:
            at = torch.arange(ROW, device=number_BT.device)
            rows = torch.arange(len(number_BT), device=number_BT.device)[:, None, None, None]
            self.mask = visible(self.number_BS, rows, at[:, None], at)


def packed_layer(hidden: Tensor, cos: Tensor, sin: Tensor, weights: LayerWeights, mask: BlockMask | Tensor) -> Tensor:
    """A decoder layer over packed rows."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if isinstance(mask, Tensor):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        return flex_attention(q, k, v, block_mask=mask, enable_gqa=True)

    return decoder_layer(hidden, cos, sin, weights, attend)


class Trainee(nn.Module):
    """The model and the two throw-away heads."""

    def __init__(self, vocabulary: int, seed: int) -> None:
        super().__init__()
        self.model = build_model(vocabulary, seed)
        config: Any = self.model.config.text_config
        width = config.hidden_size
        self.colour = nn.Linear(width, 1 + len(COLOURS))
        self.kind = nn.Linear(width, 1 + len(KINDS))


class Step:
    """Losses of a batch of rows; holds what is compiled once."""

    def __init__(self, trainee: Trainee, rows: int, device: torch.device, fast: bool, flex: bool) -> None:
        self.trainee, self.dtype = trainee, torch.bfloat16 if fast else torch.float32
        self.packed = Packed(rows, device, flex)
        levels = torch.tensor(PALETTE, device=device) / 255
        mean, deviation = torch.tensor((CLIP_MEAN, CLIP_STD), device=device)
        self.palette = ((levels - mean) / deviation).to(self.dtype)
        system = build_tokenizer()(BEFORE_QUESTION)["input_ids"]
        assert len(system) == BEFORE
        assert system[0] == BOS
        self.system = torch.tensor(system, device=device)

        # One layer is compiled and used for all: twelve copies would take minutes to compile.
        self.layer = torch.compile(packed_layer, dynamic=False) if fast else packed_layer
        self.tower_layer = torch.compile(tower_layer, dynamic=False) if fast else tower_layer

    def text_hidden(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Last hidden states of the text positions (B, T, D) and the projected visual tokens (B, V, D)."""
        model = self.trainee.model
        config: Any = model.config.text_config
        rows = len(batch["image"])
        pixels = self.palette[batch["image"].int()].view(rows, SIDE, SIDE, 3).permute(0, 3, 1, 2).contiguous()
        visual_BVD = visual_tokens(model, pixels, self.tower_layer)
        embedding = model.model.language_model.embed_tokens.weight.to(self.dtype)
        before = F.embedding(self.system, embedding).expand(rows, -1, -1)
        hidden = torch.cat((before, visual_BVD, F.embedding(batch["token"].int(), embedding)), dim=1)
        prefix = torch.arange(PREFIX, device=hidden.device).expand(rows, -1)
        positions = torch.cat((prefix, batch["place"].long()), dim=1)
        cos, sin = rotary(positions, config.head_dim, config.rope_parameters["rope_theta"])
        self.packed.begin(batch["number"].int())
        for weights in layer_weights(model):
            hidden = self.layer(hidden, cos, sin, weights, self.packed.mask)
        return hidden[:, PREFIX:], visual_BVD

    def losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the answers, and of colour and kind over the visual tokens."""
        hidden, visual_BVD = self.text_hidden(batch)
        asked = batch["target"] > 0
        answer = F.cross_entropy(letter_logits(self.trainee.model, hidden[asked]), _next_token(batch)[asked])
        wide = visual_BVD.float()
        colour = F.cross_entropy(self.trainee.colour(wide).flatten(0, 1), batch["colour"].flatten().long())
        kind = F.cross_entropy(self.trainee.kind(wide).flatten(0, 1), batch["kind"].flatten().long())
        return answer, colour + kind

    @torch.no_grad()
    def accuracy(self, batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
        """Share of right first answer tokens, per family and kind of target."""
        right = torch.zeros(128, device=self.palette.device)
        count = torch.zeros(128, device=self.palette.device)
        for batch in batches:
            asked = batch["target"] > 0
            guess = letter_logits(self.trainee.model, self.text_hidden(batch)[0][asked]).argmax(-1)
            kind = batch["target"][asked].long()
            right += torch.bincount(kind, (guess == _next_token(batch)[asked]).float(), minlength=128)
            count += torch.bincount(kind, minlength=128)
        families = len(FAMILY_NAMES)
        groups = {"letter": (1, 1 + families), "word": (WORD, WORD + families), "told": (TOLD, TOLD + families)}
        groups["rest"] = (REST, REST + 1)
        groups |= {name: (1 + i, 2 + i) for i, name in enumerate(FAMILY_NAMES)}
        return {name: float(right[a:b].sum() / count[a:b].sum().clamp(min=1)) for name, (a, b) in groups.items()}


def _next_token(batch: dict[str, Tensor]) -> Tensor:
    return batch["token"].long().roll(-1, dims=1)


def take(arrays: dict[str, Tensor], scenes: Tensor, variants: Tensor) -> dict[str, Tensor]:
    """The rows of ``variants`` of ``scenes``; both (B,) int64 on the arrays' device."""
    pictures = {name: arrays[name][scenes] for name in ("image", "colour", "kind")}
    return pictures | {name: arrays[name][scenes, variants] for name in ("token", "number", "target", "place")}


# --- the run --------------------------------------------------------------------------------------------------------


def train(
    folder: Path,
    *,
    scenes: int,
    rows: int,
    seconds: float,
    decay_seconds: float,
    rate: float,
    see_weight: float,
    flex: bool,
    seed: int,
    out: Path | None,
) -> None:
    """Train for ``seconds`` from the state in ``folder``, or from scratch; write the model to ``out`` if given."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = device.type == "cuda"
    torch.set_float32_matmul_precision("high")
    began = time.monotonic()
    prepare(folder, scenes, seed)
    print(f"scenes ready after {time.monotonic() - began:.0f} s", flush=True)
    arrays = {name: torch.from_numpy(array).to(device) for name, array in _open_arrays(folder, scenes, "r+").items()}
    print(f"scenes loaded after {time.monotonic() - began:.0f} s", flush=True)

    trainee = Trainee(len(build_tokenizer()), seed).to(device)
    matrices = [p for p in trainee.parameters() if p.ndim >= 2]
    vectors = [p for p in trainee.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.97),
        fused=fast,
    )
    done = 0
    state_path = folder / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, map_location=device)
        trainee.load_state_dict(state["trainee"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["steps"]
    step = Step(trainee, rows, device, fast, flex and fast)
    dice = torch.Generator(device=device).manual_seed(seed * 1_000_003 + done)
    held = max(rows, scenes // 50 // rows * rows)  # the first scenes are kept for validation
    checks = [
        take(arrays, torch.arange(i, i + rows, device=device), torch.zeros(rows, dtype=torch.int64, device=device))
        for i in range(0, min(held, 8 * rows), rows)
    ]

    began, steps, noted = time.monotonic(), 0, 0.0
    while (passed := time.monotonic() - began) < seconds:
        warm = min(1.0, (done + 1) / 300)
        fall = min(1.0, (seconds - passed) / decay_seconds) if decay_seconds else 1.0
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * fall
        chosen = torch.randint(held, scenes, (rows,), device=device, generator=dice)
        variants = torch.randint(VARIANTS, (rows,), device=device, generator=dice)
        answer, seen = step.losses(take(arrays, chosen, variants))
        optimizer.zero_grad(set_to_none=True)
        (answer + see_weight * seen).backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        done, steps = done + 1, steps + 1
        if done % 100 == 0 or steps == 3:
            print(f"{done} {passed:.0f}s answer {answer.item():.4f} seen {seen.item():.4f}", flush=True)
        if passed - noted > 45:
            noted = passed
            figures = {name: round(value, 3) for name, value in step.accuracy(checks).items()}
            print(f"{done} {passed:.0f}s {json.dumps(figures)}", flush=True)
            _keep(state_path, trainee, optimizer, done)
    print(f"{done} end {json.dumps({k: round(v, 4) for k, v in step.accuracy(checks).items()})}", flush=True)
    _keep(state_path, trainee, optimizer, done)
    if out is not None:
        save(trainee.model.float().cpu(), out)


def _keep(path: Path, trainee: Trainee, optimizer: torch.optim.Optimizer, steps: int) -> None:
    half = path.with_suffix(".tmp")
    torch.save({"trainee": trainee.state_dict(), "optimizer": optimizer.state_dict(), "steps": steps}, half)
    half.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m embedded_training.train", description=__doc__.splitlines()[0])
    parser.add_argument("state", type=Path, help="folder for rendered scenes and the training state")
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=256, help="images per step")
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--decay-seconds", type=float, default=0)
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--see-weight", type=float, default=0.3, help="weight of the loss that names patches")
    parser.add_argument("--flex", action=argparse.BooleanOptionalAction, default=True, help="flex attention on a GPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the trained checkpoint")
    args = parser.parse_args(argv)
    if args.scenes < 2 * args.rows:
        print("--scenes must be at least twice --rows", file=sys.stderr)
        return 2
    options = vars(args)
    train(options.pop("state"), **options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
