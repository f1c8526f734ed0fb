"""What the engine is compared with: stock Hugging Face LLaVA, and the way the original research code runs it.

All of it is transformers' own forward and ``generate`` on the same weights as the engine's. Prompts and pixels are on
the device before the clock starts. Masking saves no work, so one configuration costs what any other costs, and one is
timed for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.families.model import Encoded, Model

NEW_TOKENS = 2  # a letter and the end


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A sample as transformers takes it."""

    id: str
    ids_S: Tensor  # (S,) int64, the image token repeated for every visual token
    image_at: int
    visual: int
    image: Mapping[str, Tensor]  # what transformers takes besides the ids, by name: a batch of one


def make_case(model: Model, id: str, prompt: Encoded) -> Case:
    """Bring a prompt with an image to the model's device and dtype."""
    inputs = model.inputs(prompt)
    ids_BS = inputs.pop("input_ids")
    return Case(id, ids_BS[0], prompt.system, prompt.visual, inputs)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A way of answering one configuration for all cases."""

    name: str
    what: str
    attention: str  # transformers' attn_implementation
    run: Callable[[], None]
    prefill: Callable[[], None] | None  # the same without decoding
    cells: int  # configurations and samples that one run answers


def make_baselines(
    model: Model, cases: Sequence[Case], layer: int, rank: int, batches: Sequence[int], new_tokens: int
) -> list[Baseline]:
    """All baselines.

    Args:
        model: the one that is run.
        cases: the samples.
        layer, rank: the configuration that the seed-style code masks.
        batches: sizes for stock Hugging Face.
        new_tokens: decoded at most.
    """
    mask = f"tokens outside FastV's best {rank} masked from layer {layer} on"
    rows = [
        Baseline(
            "seed",
            f"as HiMAP runs: batch 1, eager, attentions returned, {mask}, cached, {new_tokens} tokens",
            "eager",
            lambda: _seed_style(model, cases, layer, rank, new_tokens, use_cache=True),
            None,
            len(cases),
        ),
        Baseline(
            "seed_nocache",
            f"as HiMAP's rank experiments run: the same without a cache, tokens chosen again for each of {new_tokens}",
            "eager",
            lambda: _seed_style(model, cases, layer, rank, new_tokens, use_cache=False),
            None,
            len(cases),
        ),
    ]
    for size in (1, *batches):
        groups = batched(model, cases, size)
        rows.append(
            Baseline(
                "stock" if size == 1 else f"stock_batch{size}",
                f"transformers' generate, SDPA, batch {size}, {new_tokens} tokens"
                + ("" if size == 1 else ", left padding, samples sorted by length"),
                "sdpa",
                lambda groups=groups: _stock(model, groups, new_tokens),  # type: ignore[misc]
                lambda groups=groups: _stock_prefill(model, groups),  # type: ignore[misc]
                sum(len(group["input_ids"]) for group in groups),
            )
        )
    return rows


def batched(model: Model, cases: Sequence[Case], size: int) -> list[dict[str, Tensor]]:
    """Whole batches only, left-padded and sorted by length: every case equally often, so the mean length stays."""
    copies = math.lcm(len(cases), size) // len(cases)
    pool = sorted([case for case in cases for _ in range(copies)], key=lambda case: len(case.ids_S))
    return [_inputs(model, pool[first : first + size]) for first in range(0, len(pool), size)]


def _inputs(model: Model, cases: Sequence[Case]) -> dict[str, Tensor]:
    inputs = {
        "input_ids": _left_padded([case.ids_S for case in cases], pad_token(model)),
        "attention_mask": _left_padded([torch.ones_like(case.ids_S) for case in cases], 0),
    }
    for name, first in cases[0].image.items():
        parts = [case.image[name] for case in cases]
        of_tokens = first.shape == (1, len(cases[0].ids_S))
        inputs[name] = _left_padded([part[0] for part in parts], 0) if of_tokens else torch.cat(parts)
    return inputs


def _left_padded(rows: Sequence[Tensor], fill: int) -> Tensor:
    """(B, S) of rows of different lengths."""
    longest = max(map(len, rows))
    padded_BS = rows[0].new_full((len(rows), longest), fill)
    for padded_S, row_S in zip(padded_BS, rows, strict=True):
        padded_S[longest - len(row_S) :] = row_S
    return padded_BS


def pad_token(model: Model) -> int:
    pad = model.module.generation_config.pad_token_id
    return 0 if pad is None else pad


@contextmanager
def attention_of(model: Model, implementation: str) -> Iterator[None]:
    """Run the model with another attention implementation, then with its own again."""
    module: Any = model.module
    own = module.config._attn_implementation
    module.set_attn_implementation(implementation)
    try:
        yield
    finally:
        module.set_attn_implementation(own)


def generate(model: Model, case: Case, new_tokens: int = NEW_TOKENS, **options: Any) -> Any:
    """Greedy ``generate`` of one case: sequences and first-token logits."""
    module: Any = model.module
    inputs = _inputs(model, [case])
    return module.generate(
        **inputs,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=pad_token(model),
        return_dict_in_generate=True,
        **options,
    )


def _stock(model: Model, groups: Sequence[dict[str, Tensor]], new_tokens: int) -> None:
    module: Any = model.module
    for inputs in groups:
        module.generate(**inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=pad_token(model)).cpu()


def _stock_prefill(model: Model, groups: Sequence[dict[str, Tensor]]) -> None:
    for inputs in groups:
        model.module(**inputs, use_cache=False, logits_to_keep=1).logits.argmax(dim=-1).cpu()


def _seed_style(
    model: Model, cases: Sequence[Case], layer: int, rank: int, new_tokens: int, *, use_cache: bool
) -> None:
    for case in cases:
        with masked(model, case, layer, rank):
            generate(model, case, new_tokens, use_cache=use_cache, output_attentions=True).sequences.cpu()


@contextmanager
def masked(model: Model, case: Case, layer: int, rank: int) -> Iterator[None]:
    """HiMAP's FastV: from ``layer`` on the additive mask hides the visual tokens that the layer before ranks low.

    Source: YangXu-03/Himap-based, fastv.py. A forward over the whole prompt chooses; one over a cached prompt keeps
    the choice.
    """
    image = slice(case.image_at, case.image_at + case.visual)
    dropped: list[Tensor] = []  # columns; replaced by every choice
    masks: list[Tensor] = []  # of the forward in progress

    def choose(module: Any, args: Any, output: tuple[Tensor, Tensor]) -> None:
        attention_BHQS = output[1]
        masks.clear()
        if attention_BHQS.shape[2] > 1:
            score_V = attention_BHQS.mean(dim=1)[0, -1, image]
            dropped[:] = [case.image_at + score_V.topk(case.visual - rank, largest=False).indices]

    def hide(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if not masks:
            mask_BQS = kwargs["attention_mask"].clone()
            mask_BQS[..., dropped[0]] = torch.finfo(mask_BQS.dtype).min
            masks.append(mask_BQS)
        return args, {**kwargs, "attention_mask": masks[0]}

    layers: Any = model.decoder.module.layers
    with ExitStack() as stack:
        stack.callback(layers[layer - 1].self_attn.register_forward_hook(choose).remove)
        for module in layers[layer:]:
            stack.callback(module.register_forward_pre_hook(hide, with_kwargs=True).remove)
        yield
