"""The shared forward: every trunk and every fork of a micro-batch, layer by layer, in one packed matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.attention import attend, attend_groups, make_groups
from workers.decoder import Decoder, Rotary
from workers.families.model import Encoded
from workers.forks import Placement
from workers.packed_layer import LayerRead
from workers.sequences import Packing, TokenSequence, new_prefix, new_trunk, to_device
from workers.sites import InputRows


@dataclass(frozen=True, slots=True, eq=False)
class LayerCache:
    """Keys and values of one layer, positions applied, and whose rows they are."""

    packing: Packing
    key_RGE: Tensor
    value_RGE: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LayerRun:
    """All that one layer computed, for those who measure it."""

    layer: int  # 0-based
    packing: Packing
    query_RHE: Tensor
    key_RGE: Tensor
    attended_RHE: Tensor  # before the output projection
    hidden_RD: Tensor  # residual stream after the layer


@dataclass(frozen=True, slots=True, eq=False)
class Prefill:
    """What a prefill leaves for decoding."""

    sequences: tuple[TokenSequence, ...]  # those that answer at least one grid point
    logits_NC: Tensor  # float32, first token of each of them
    caches: tuple[LayerCache, ...]  # one a layer


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


def prefill(
    decoder: Decoder,
    hidden_RD: Tensor,
    trunks: Sequence[TokenSequence],
    placement: Placement,
    observe: Callable[[LayerRun], None] | None = None,
) -> Prefill:
    """Run all decoder layers for the trunks and for every fork that the placement makes on the way.

    Args:
        decoder: the model's.
        hidden_RD: (R, D) embedded prompts, see ``embed_trunks``.
        trunks: the sequences of these rows.
        placement: decides the forks; afterwards it says which sequence answers which point.
        observe: called after every layer with what it computed.

    Returns:
        First-token logits and the caches of all sequences that answer a point.
    """
    packing, last_layer = pack_trunks(trunks), len(decoder.layers) - 1
    fork_layers = placement.fork_layers(len(decoder.layers))
    caches: list[LayerCache] = []
    read: LayerRead | None = None
    rotary = decoder.rotary(packing.positions(hidden_RD.device))
    for layer in range(len(decoder.layers)):
        if layer in fork_layers:
            forked = placement.fork_at(layer, packing, hidden_RD, read)
            read = None
            packing = forked.move.packing
            hidden_RD = hidden_RD[to_device(forked.move.source_R, hidden_RD.device)]
            for sequence, rows_KD in forked.merged.items():
                hidden_RD[packing.visual(sequence)] = rows_KD
            rotary = decoder.rotary(packing.positions(hidden_RD.device))
        if layer == last_layer and observe is None:
            break
        query_RHE, key_RGE, value_RGE = decoder.attention_inputs(layer, hidden_RD, rotary)
        attended_RHE = attend(query_RHE, key_RGE, value_RGE, packing, decoder.scale)
        hidden_RD = decoder.finish_layer(layer, hidden_RD, attended_RHE)
        caches.append(LayerCache(packing, key_RGE, value_RGE))
        if observe is not None:
            observe(LayerRun(layer, packing, query_RHE, key_RGE, attended_RHE, hidden_RD))
        reads_attention = layer + 1 in fork_layers
        read = LayerRead(packing, query_RHE, key_RGE, decoder.scale) if reads_attention else None
    sequences = placement.answered()
    last_N = to_device(torch.tensor([packing.last_row(sequence) for sequence in sequences]), hidden_RD.device)
    if len(caches) <= last_layer:
        hidden_ND, cache = _last_layer(decoder, hidden_RD, rotary, packing, sequences, last_N)
        caches.append(cache)
    else:
        hidden_ND = hidden_RD[last_N]
    return Prefill(sequences, decoder.logits(hidden_ND), tuple(caches))


def _last_layer(
    decoder: Decoder,
    hidden_RD: Tensor,
    rotary: Rotary,
    packing: Packing,
    sequences: Sequence[TokenSequence],
    last_N: Tensor,
) -> tuple[Tensor, LayerCache]:
    """The last layer, whose output is needed for the sequences' last rows only: (N, D) and the layer's cache."""
    layer = len(decoder.layers) - 1
    normed_RD, (cos, sin) = decoder.attention_norm(layer, hidden_RD), rotary
    query_NHE = decoder.queries(layer, normed_RD[last_N], (cos[last_N], sin[last_N]))
    key_RGE, value_RGE = decoder.keys_and_values(layer, normed_RD, rotary)
    groups = make_groups(sequences, layer, packing, hidden_RD.device)
    attended_NHE = attend_groups(query_NHE, key_RGE, value_RGE, groups, packing, decoder.scale)
    return decoder.finish_layer(layer, hidden_RD[last_N], attended_NHE), LayerCache(packing, key_RGE, value_RGE)
