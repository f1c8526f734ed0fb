"""Measure what the small LLaVA looks at: accuracy with fewer visual tokens, from which layer on, chosen how.

    python -m embedded_training.curves MODEL DATA OUT.json --split test

"Layer K, rank R": decoder layers with index below K see all visual tokens, the others only R of them, with their
original positions. Hidden visual tokens are masked here, not dropped; for what is kept that is the same computation.
All curves are over the questions that need the picture. This is the slow, plain measurement that trained the model;
the project's engine measures the same things faster and independently.

Shapes: B samples, S positions (left padded), V visual tokens, D width, H heads, E head width.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from embedded_training.architecture import load, prompt
from embedded_training.drawn import OPTION_LETTERS, question_text
from embedded_training.forward import decoder_layer, layer_weights, letter_logits, rotary, visual_tokens
from embedded_training.scene import GROUNDS, SIDE

RANKS = (8, 16, 32, 64, 128, 192)
LAYERS = (1, 2, 3, 4)
RANDOM_SEEDS = 5
BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A problem with its place on disk."""

    id: str
    problem: dict
    image: Path | None

    @property
    def text(self) -> str:
        return question_text(self.problem["question"], self.problem["choices"], self.problem["hint"])

    @property
    def letter(self) -> str:
        return OPTION_LETTERS[self.problem["answer"]]

    def picture(self) -> Image.Image:
        assert self.image is not None
        with Image.open(self.image) as image:
            return image.convert("RGB")

    @property
    def needs_picture(self) -> bool:
        return self.problem["subject"] != "text"


def read(folder: Path, split: str) -> list[Ask]:
    problems = json.loads((folder / "problems.json").read_text())
    ids = json.loads((folder / "pid_splits.json").read_text())[split]
    return [
        Ask(
            id=id,
            problem=problems[id],
            image=folder / "images" / split / id / "image.png" if problems[id]["image"] else None,
        )
        for id in ids
    ]


class Look:
    """A batch run un-pruned: the input of every layer, and every layer's scores of the visual tokens."""

    def __init__(self, model: Any, processor: Any, asks: Sequence[Ask]) -> None:
        device = model.device
        images = [ask.picture() for ask in asks]
        texts = [prompt(ask.text, image=True) for ask in asks]
        batch = processor(images=images, text=texts, padding=True, return_tensors="pt").to(device)
        ids, valid_BS = batch["input_ids"], batch["attention_mask"].bool()
        config = model.config.text_config
        self.model, self.weights = model, layer_weights(model)
        self.visual_BS = ids == model.config.image_token_id
        self.text_BS = valid_BS & (self.visual_BS.cumsum(1) == self.visual_BS.sum(1, keepdim=True)) & ~self.visual_BS
        positions = (valid_BS.cumsum(1) - 1).clamp(min=0)
        self.turns = rotary(positions, config.head_dim, config.rope_parameters["rope_theta"])
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        # A padded query sees itself, or its softmax would be empty.
        self.mask = (causal & valid_BS[:, None]) | torch.eye(length, dtype=torch.bool, device=device)

        hidden = model.get_input_embeddings()(ids)
        hidden[self.visual_BS] = visual_tokens(model, batch["pixel_values"]).flatten(0, 1)
        self.hidden: list[Tensor] = [hidden]
        self.scores: list[dict[str, Tensor]] = []
        for weights in self.weights:
            hidden = decoder_layer(hidden, *self.turns, weights, lambda q, k, v: self._attend(q, k, v, self.mask, True))
            self.hidden.append(hidden)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, note: bool) -> Tensor:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        attention_BHSS = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
        if note:
            self.scores.append(self._scores(attention_BHSS))
        return attention_BHSS @ v

    def _scores(self, attention_BHSS: Tensor) -> dict[str, Tensor]:
        """Scores (B, V) of the visual tokens by each strategy."""
        rows = len(attention_BHSS)
        last = attention_BHSS[:, :, -1]
        last_BHV = last[self.visual_BS[:, None].expand_as(last)].view(rows, last.shape[1], -1)
        head = last_BHV.sum(-1).argmax(1)
        mean_BSS = attention_BHSS.mean(1)
        text = self.text_BS.float()
        weight = torch.einsum("bq,bqk->bk", text, mean_BSS) * text
        weight = weight / weight.sum(1, keepdim=True)
        weighted = torch.einsum("bq,bqk->bk", weight, mean_BSS)
        return {
            "fastv": last_BHV.mean(1),
            "max_head": last_BHV[torch.arange(rows), head],
            "text_weighted": weighted[self.visual_BS].view(rows, -1),
        }

    def answer(self, layer: int, kept_BV: Tensor | None) -> Tensor:
        """Most likely first token (B,) when layers from ``layer`` on see only the visual tokens in ``kept_BV``."""
        hidden, mask = self.hidden[layer], self.mask
        if kept_BV is None:
            hidden = self.hidden[-1]
        else:
            hidden_BS = self.visual_BS.clone()
            hidden_BS[self.visual_BS] = ~kept_BV.flatten()
            itself = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
            mask = (mask & ~hidden_BS[:, None]) | (itself & hidden_BS[:, None])
            for weights in self.weights[layer:]:
                hidden = decoder_layer(hidden, *self.turns, weights, lambda q, k, v: self._attend(q, k, v, mask, False))
        return letter_logits(self.model, hidden[:, -1]).argmax(-1)


def top(scores_BV: Tensor, rank: int) -> Tensor:
    """The ``rank`` largest of each row as a mask; the lower index wins a tie."""
    order = scores_BV.sort(dim=1, descending=True, stable=True).indices[:, :rank]
    return torch.zeros_like(scores_BV, dtype=torch.bool).scatter_(1, order, True)


def mcnemar(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Two-sided exact p of McNemar's test on paired right/wrong."""
    gained = sum(a and not b for a, b in zip(one, other, strict=True))
    lost = sum(b and not a for a, b in zip(one, other, strict=True))
    n = gained + lost
    return min(1.0, 2 * sum(comb(n, i) for i in range(max(gained, lost), n + 1)) / 2**n)


def _batches(asks: Sequence[Ask]) -> Iterator[Sequence[Ask]]:
    for first in range(0, len(asks), BATCH):
        yield asks[first : first + BATCH]


def generate(model: Any, processor: Any, asks: Sequence[Ask], picture: str) -> list[str]:
    """Greedy answers by transformers' own ``generate``; ``picture`` is "shown", "blank" or "removed"."""
    answers = []
    for some in _batches(asks):
        for group in ([ask for ask in some if ask.image], [ask for ask in some if not ask.image]):
            if not group:
                continue
            with_image = picture != "removed" and group[0].image is not None
            texts = [prompt(ask.text, image=with_image) for ask in group]
            blank = Image.new("RGB", (SIDE, SIDE), GROUNDS[0])
            images = [ask.picture() if picture == "shown" else blank for ask in group if ask.image]
            inputs = processor(images=images if with_image else None, text=texts, padding=True, return_tensors="pt")
            out = model.generate(**inputs.to(model.device), do_sample=False, max_new_tokens=3)
            ends = out[:, inputs["input_ids"].shape[1] :]
            tokens = processor.tokenizer.batch_decode(ends, skip_special_tokens=False)
            found = {ask.id: token for ask, token in zip(group, tokens, strict=True)}
            answers += [(ask.id, found[ask.id]) for ask in group]
    by_id = dict(answers)
    return [by_id[ask.id].replace("<pad>", "") for ask in asks]


def _share(right: Sequence[float]) -> float:
    return round(sum(right) / len(right), 4) if right else float("nan")


@torch.no_grad()
def measure(model: Any, processor: Any, asks: Sequence[Ask]) -> dict:
    """All figures of the model card over ``asks``."""
    seen = [ask for ask in asks if ask.needs_picture]
    figures: dict = {"questions": len(asks), "need_the_picture": len(seen)}
    figures["chance"] = _share([1 / len(ask.problem["choices"]) for ask in seen])
    figures["answer_is_letter_and_eos"] = 0.0
    for picture in ("shown", "blank", "removed"):
        answers = generate(model, processor, asks, picture)
        right = [answer == f"{ask.letter}</s>" for ask, answer in zip(asks, answers, strict=True)]
        figures[f"picture_{picture}"] = {
            "all": _share(right),
            "need_the_picture": _share([r for ask, r in zip(asks, right, strict=True) if ask.needs_picture]),
            "text_with_picture": _share(
                [r for ask, r in zip(asks, right, strict=True) if not ask.needs_picture and ask.image]
            ),
            "text_without_picture": _share([r for ask, r in zip(asks, right, strict=True) if not ask.image]),
            "by_family": {
                family: _share(
                    [r for ask, r in zip(seen, _of(asks, right, seen), strict=True) if ask.problem["topic"] == family]
                )
                for family in sorted({ask.problem["topic"] for ask in seen})
            },
        }
        if picture == "shown":
            form = [answer in {f"{letter}</s>" for letter in OPTION_LETTERS} for answer in answers]
            figures["answer_is_letter_and_eos"] = _share(form)
    return figures | _curves(model, processor, seen)


def _of(asks: Sequence[Ask], values: Sequence[bool], some: Sequence[Ask]) -> list[bool]:
    by_id = {ask.id: value for ask, value in zip(asks, values, strict=True)}
    return [by_id[ask.id] for ask in some]


class Tally:
    """Right and wrong per configuration, and how much of what must be seen was kept."""

    def __init__(self) -> None:
        self.right: dict[tuple, list[bool]] = {}
        self.recall: dict[tuple, list[float]] = {}

    def note(self, key: tuple, right_B: Tensor, kept_BV: Tensor, shown_BV: Tensor) -> None:
        self.right.setdefault(key, []).extend(right_B.tolist())
        self.recall.setdefault(key, []).extend(((kept_BV & shown_BV).sum(1) / shown_BV.sum(1)).tolist())


def _selections(look: Look, layer: int, asks: Sequence[Ask]) -> Iterator[tuple[tuple, Tensor]]:
    """(strategy, layer, rank, ...) and scores to cut by, for every strategy that can be asked at ``layer``."""
    for name, scores_BV in look.scores[layer - 1].items():
        yield (name, layer), scores_BV
    for seed in range(RANDOM_SEEDS):
        dice = [torch.Generator().manual_seed(seed * 1_000_000 + int(ask.id)) for ask in asks]
        scores_BV = torch.stack([torch.rand(look.scores[0]["fastv"].shape[1], generator=die) for die in dice])
        yield ("random", layer, seed), scores_BV.to(look.visual_BS.device)


def _curves(model: Any, processor: Any, asks: Sequence[Ask]) -> dict:
    letters = {letter: processor.tokenizer.convert_tokens_to_ids(letter) for letter in OPTION_LETTERS}
    depth = model.config.text_config.num_hidden_layers
    tally = Tally()
    right, recall = tally.right, tally.recall
    for some in _batches(asks):
        look = Look(model, processor, some)
        wanted = torch.tensor([letters[ask.letter] for ask in some], device=model.device)
        shown_BV = torch.zeros(look.scores[0]["fastv"].shape, dtype=torch.bool, device=model.device)
        for row, ask in enumerate(some):
            shown_BV[row, ask.problem["patches"]] = True

        every = torch.ones_like(shown_BV)
        tally.note(("baseline",), look.answer(depth, None) == wanted, every, shown_BV)
        for layer in range(depth + 1):
            tally.note(("cutoff", layer), look.answer(layer, ~every) == wanted, ~every, shown_BV)
        for layer in LAYERS:
            for key, scores_BV in _selections(look, layer, some):
                for rank in RANKS:
                    kept_BV = top(scores_BV, rank)
                    tally.note((*key, rank), look.answer(layer, kept_BV) == wanted, kept_BV, shown_BV)

    cutoff = [_share(right["cutoff", layer]) for layer in range(depth + 1)]
    families = sorted({ask.problem["topic"] for ask in asks})
    by_family = {
        family: [
            _share([r for ask, r in zip(asks, right["cutoff", k], strict=True) if ask.problem["topic"] == family])
            for k in range(depth + 1)
        ]
        for family in families
    }
    grid = {}
    for layer in LAYERS:
        for rank in RANKS:
            chance = [right["random", layer, seed, rank] for seed in range(RANDOM_SEEDS)]
            cell: dict = {
                "random": {
                    "accuracy": [_share(one) for one in chance],
                    "recall": _share(recall["random", layer, 0, rank]),
                }
            }
            for name in ("fastv", "max_head", "text_weighted"):
                mine = right[name, layer, rank]
                cell[name] = {
                    "accuracy": _share(mine),
                    "recall": _share(recall[name, layer, rank]),
                    "p_against_random": [float(f"{mcnemar(mine, one):.2g}") for one in chance],
                }
            grid[f"layer {layer}, rank {rank}"] = cell
    return {
        "baseline": _share(right["baseline",]),
        "cutoff_by_layer": cutoff,
        "cutoff_by_family": by_family,
        "pruned": grid,
    }


def render_table(figures: dict) -> str:
    """The figures as lines for a log."""
    lines = [f"{k}: {v}" for k, v in figures.items() if k not in ("pruned", "cutoff_by_family")]
    lines += [f"cutoff {k}: {v}" for k, v in figures["cutoff_by_family"].items()]
    for place, cell in figures["pruned"].items():
        chance = cell["random"]["accuracy"]
        line = f"{place}: random {sum(chance) / len(chance):.3f} ({cell['random']['recall']:.2f})"
        for name in ("fastv", "max_head", "text_weighted"):
            mine = cell[name]
            line += f" | {name} {mine['accuracy']:.3f} ({mine['recall']:.2f}) p<={max(mine['p_against_random']):.1g}"
        lines.append(line)
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m embedded_training.curves", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="only the first questions")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, processor = load(args.model, device)
    figures = measure(model, processor, read(args.data, args.split)[: args.limit])
    args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(render_table(figures), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
