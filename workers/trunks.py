"""The un-pruned sequences of a micro-batch: laid out, and filled with embedded words and image features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from workers.decoder import Decoder
from workers.families.model import Encoded
from workers.sequences import Packing, TokenSequence, new_prefix, new_trunk
from workers.sites import InputRows
from workers.upload import to_device


def make_trunks(prompts: Sequence[Encoded], images: Sequence[str] = ()) -> list[TokenSequence]:
    """One un-pruned sequence a sample; what comes before an image, and an image asked about more than once, is shared.

    Args:
        prompts: one a sample.
        images: by what the image of each is recognised, '' where it is not; empty: none is.
    """
    shown = [(prompt.ids[: prompt.system], image) for prompt, image in zip(prompts, images, strict=bool(images))]
    again = {one for one, count in Counter(shown).items() if count > 1 and one[1]}
    systems: dict[tuple[int, ...], TokenSequence] = {}
    shared: dict[tuple[tuple[int, ...], str], TokenSequence] = {}
    trunks = []
    for sample, prompt in enumerate(prompts):
        system, visual = prompt.ids[: prompt.system], prompt.visual
        if system and system not in systems:
            systems[system] = new_prefix(prompt.positions_PS[:, : prompt.system])
        prefix = systems.get(system)
        if images and (one := shown[sample]) in again and prompt.length > prompt.system + visual:
            if one not in shared:
                rows_PV = prompt.positions_PS[:, prompt.system : prompt.system + visual]
                shared[one] = new_prefix(rows_PV, visual, prefix, sample)
            prefix = shared[one]
        trunks.append(new_trunk(sample, prefix, visual, prompt.positions_PS, prompt.next_position))
    return trunks


def pack_trunks(trunks: Sequence[TokenSequence]) -> Packing:
    """Trunks in order, each prefix before the first that has it."""
    return Packing(list(dict.fromkeys(run for trunk in trunks for run in trunk.chain)))


def embed_trunks(
    decoder: Decoder, trunks: Sequence[TokenSequence], prompts: Sequence[Encoded], features: Sequence[Tensor | None]
) -> Tensor:
    """Token embeddings, image features where they belong: the (R, D) rows of ``pack_trunks``."""
    words = [(*prompt.ids[: prompt.system], *prompt.ids[prompt.system + prompt.visual :]) for prompt in prompts]
    all_words = torch.tensor([word for of_prompt in words for word in of_prompt])
    embedded = decoder.embed(to_device(all_words, decoder.device)).split([len(of_prompt) for of_prompt in words])
    parts: dict[TokenSequence, list[Tensor]] = {}
    for trunk, prompt, embedded_SD, image_VD in zip(trunks, prompts, embedded, features, strict=True):
        first = prompt.system
        pieces = [embedded_SD] if image_VD is None else [embedded_SD[:first], image_VD, embedded_SD[first:]]
        pieces = [piece for piece in pieces if len(piece)]
        for run in trunk.chain[:-1]:
            piece = pieces.pop(0)
            parts.setdefault(run, [piece])
        parts[trunk] = pieces
    return torch.cat([piece for pieces in parts.values() for piece in pieces])


def input_rows(hidden_RD: Tensor, trunks: Sequence[TokenSequence]) -> list[InputRows]:
    """Of each trunk the rows that ``embed_trunks`` gave; copies, because layers write over their input."""
    packing = pack_trunks(trunks)
    return [
        InputRows(hidden_RD[packing.visual(trunk)].clone(), hidden_RD[packing.text(trunk)].clone()) for trunk in trunks
    ]
