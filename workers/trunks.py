"""The un-pruned sequences of a micro-batch: laid out, and filled with embedded words and image features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.decoder import Decoder
from workers.families.model import Encoded
from workers.sequences import Packing, TokenSequence, new_prefix, new_trunk, to_device
from workers.sites import InputRows


def make_trunks(prompts: Sequence[Encoded]) -> list[TokenSequence]:
    """One un-pruned sequence a sample; those with the same tokens before the image have one prefix."""
    prefixes: dict[tuple[int, ...], TokenSequence] = {}
    trunks = []
    for sample, prompt in enumerate(prompts):
        system = prompt.ids[: prompt.system]
        if system and system not in prefixes:
            prefixes[system] = new_prefix(prompt.positions_PS[:, : prompt.system])
        trunks.append(new_trunk(sample, prefixes.get(system), prompt.visual, prompt.positions_PS, prompt.next_position))
    return trunks


def pack_trunks(trunks: Sequence[TokenSequence]) -> Packing:
    """Trunks in order, each prefix before the first that has it."""
    return Packing(list(dict.fromkeys(sequence for trunk in trunks for sequence in (trunk.prefix, trunk) if sequence)))


def embed_trunks(
    decoder: Decoder, trunks: Sequence[TokenSequence], prompts: Sequence[Encoded], features: Sequence[Tensor | None]
) -> Tensor:
    """Token embeddings, image features where they belong: the (R, D) rows of ``pack_trunks``."""
    seen: set[TokenSequence] = set()
    parts = []
    for trunk, prompt, image_VD in zip(trunks, prompts, features, strict=True):
        first = prompt.system
        words = (*prompt.ids[:first], *prompt.ids[first + prompt.visual :])
        embedded_SD = decoder.embed(to_device(torch.tensor(words), decoder.device))
        if trunk.prefix and trunk.prefix not in seen:
            seen.add(trunk.prefix)
            parts.append(embedded_SD[:first])
        parts += [embedded_SD] if image_VD is None else [image_VD, embedded_SD[first:]]
    return torch.cat(parts)


def input_rows(hidden_RD: Tensor, trunks: Sequence[TokenSequence]) -> list[InputRows]:
    """Of each trunk the rows that ``embed_trunks`` gave; copies, because layers write over their input."""
    packing = pack_trunks(trunks)
    rows = ((hidden_RD[packing.own(trunk)].clone(), trunk.visual) for trunk in trunks)
    return [InputRows(own_RD[:visual], own_RD[visual:]) for own_RD, visual in rows]
