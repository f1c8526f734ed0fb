"""The un-pruned sequences of a micro-batch: laid out, and filled with embedded words and image features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from workers.decoder import Decoder
from workers.families.model import Encoded
from workers.sequences import Packing, TokenSequence, new_prefix, new_trunk, on
from workers.sites import InputRows
from workers.upload import to_device


def make_trunks(prompts: Sequence[Encoded], images: Sequence[str] = ()) -> list[TokenSequence]:
    """One un-pruned sequence a sample; what comes before an image, and an image asked about more than once, is shared.

    Several images are shared where they come in the same order with the same words between them.

    Args:
        prompts: one a sample.
        images: by what the images of each are recognised, '' where they are not; empty: none are.
    """
    shown = [
        (prompt.ids[: prompt.system], prompt.words_between, image)
        for prompt, image in zip(prompts, images, strict=bool(images))
    ]
    again = {one for one, count in Counter(shown).items() if count > 1 and one[2]}
    systems: dict[tuple[int, ...], TokenSequence] = {}
    shared: dict[tuple[tuple[int, ...], tuple[int, ...], str], TokenSequence] = {}
    trunks = []
    for sample, prompt in enumerate(prompts):
        system, visual = prompt.ids[: prompt.system], prompt.visual
        if system and system not in systems:
            systems[system] = new_prefix(prompt.positions_PS[:, : prompt.system])
        prefix = systems.get(system)
        between, after, places_V = len(prompt.words_between), prompt.system + prompt.shown, prompt.places_V
        if images and (one := shown[sample]) in again and prompt.length > after:
            if one not in shared:
                rows_PI = prompt.positions_PS[:, prompt.system : after]
                shared[one] = new_prefix(rows_PI, visual, prefix, sample, places_V)
            prefix = shared[one]
        positions_PS = prompt.positions_PS
        trunks.append(new_trunk(sample, prefix, visual, positions_PS, prompt.next_position, places_V, between))
    return trunks


def pack_trunks(trunks: Sequence[TokenSequence]) -> Packing:
    """Trunks in order, each prefix before the first that has it."""
    return Packing(list(dict.fromkeys(run for trunk in trunks for run in trunk.chain)))


def embed_trunks(
    decoder: Decoder, trunks: Sequence[TokenSequence], prompts: Sequence[Encoded], features: Sequence[Tensor | None]
) -> Tensor:
    """Token embeddings, image features where they belong: the (R, D) rows of ``pack_trunks``."""
    words = [
        (*prompt.ids[: prompt.system], *prompt.words_between, *prompt.ids[prompt.system + prompt.shown :])
        for prompt in prompts
    ]
    all_words = torch.tensor([word for of_prompt in words for word in of_prompt])
    embedded = decoder.embed(to_device(all_words, decoder.device)).split([len(of_prompt) for of_prompt in words])
    parts: dict[TokenSequence, list[Tensor]] = {}
    for trunk, prompt, embedded_SD, image_VD in zip(trunks, prompts, embedded, features, strict=True):
        first, between = prompt.system, trunk.between
        pieces = [[embedded_SD[:first]], [], [embedded_SD[first + between :]]]
        if image_VD is not None:
            pieces[1] = _images(prompt, image_VD, embedded_SD[first : first + between])
        pieces = [some for some in pieces if sum(map(len, some))]
        for run in trunk.chain[:-1]:
            piece = pieces.pop(0)
            parts.setdefault(run, piece)
        parts[trunk] = [piece for some in pieces for piece in some]
    return torch.cat([piece for pieces in parts.values() for piece in pieces])


def _images(prompt: Encoded, image_VD: Tensor, words_BD: Tensor) -> list[Tensor]:
    """The rows from the first of an image to the last, words between images where they belong."""
    if not len(words_BD):
        return [image_VD]
    gaps = [after.start - one.start - one.tokens for one, after in pairwise(prompt.images)]
    images_VD = image_VD.split([span.tokens for span in prompt.images])
    return [rows for pair in zip(images_VD, words_BD.split([*gaps, 0]), strict=True) for rows in pair]


def input_rows(hidden_RD: Tensor, trunks: Sequence[TokenSequence]) -> list[InputRows]:
    """Of each trunk the rows that ``embed_trunks`` gave; copies, because layers write over their input."""
    packing = pack_trunks(trunks)
    return [
        InputRows(
            hidden_RD[on(packing.visual(trunk), hidden_RD.device)].clone(), hidden_RD[packing.text(trunk)].clone()
        )
        for trunk in trunks
    ]
