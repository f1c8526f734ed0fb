"""Attention over packed rows: every sequence attends to its own keys, nothing is padded.

So the result of a sequence does not depend on who shares the batch. Queries are always the last rows of their keys,
hence the causal mask is aligned to the bottom right. On CUDA in half precision the whole packing is one kernel
(``flash.py``); elsewhere, and as its reference, each sequence is one call of PyTorch's scaled dot product attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from workers.flash import DECODE_TILE, flash_decode, flash_prefill, tiles, uses_flash
from workers.sequences import Packing, TokenSequence, gather
from workers.upload import to_device


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """(queries, keys) bool, True where a query may look: the queries are the last of the keys' rows."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def attend(query_RHE: Tensor, key_RGE: Tensor, value_RGE: Tensor, packing: Packing, scale: float) -> Tensor:
    """Causal attention of all sequences of a packing.

    Args:
        query_RHE: (R, H, E) queries of all rows.
        key_RGE, value_RGE: (R, G, E), H a multiple of G.
        packing: whose rows are whose.
        scale: factor on the dot products.

    Returns:
        (R, H, E).
    """
    if uses_flash(query_RHE):
        return flash_prefill(query_RHE, key_RGE, value_RGE, packing.tiles(query_RHE.device), scale)
    out_RHE = torch.empty_like(query_RHE)
    for rows, keys in packing.blocks():
        out_RHE[rows] = attend_one(query_RHE[rows], gather(key_RGE, keys), gather(value_RGE, keys), scale)
    return out_RHE


def attend_one(query_QHE: Tensor, key_SGE: Tensor, value_SGE: Tensor, scale: float) -> Tensor:
    """Causal attention of one sequence's last Q rows to its S keys: (Q, H, E)."""
    queries, keys = query_QHE.shape[0], key_SGE.shape[0]
    square = queries == keys
    out_HQE = scaled_dot_product_attention(
        query_QHE.transpose(0, 1)[None],
        key_SGE.transpose(0, 1)[None],
        value_SGE.transpose(0, 1)[None],
        attn_mask=None if square else causal_mask(queries, keys, query_QHE.device),
        is_causal=square,
        scale=scale,
        enable_gqa=query_QHE.shape[1] != key_SGE.shape[1],
    )
    return out_HQE[0].transpose(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Single queries that share keys: the decoded tokens of all sequences whose prompt is the same rows of a layer.

    ``order`` sorts the queries that attend to a packing by group; group g has ``counts[g]`` of them, and attends to
    ``keys[g]``.
    """

    keys: Sequence[tuple[slice, ...]]
    order_N: Tensor  # int64, on the device
    counts: Sequence[int]
    tiles: Tensor  # the same for the kernel, see ``flash.tiles``


Attended = tuple[Tensor, Tensor, Groups]  # keys and values (R, G, E) of a packing, and who attends to which of them


def make_groups(owners: Sequence[TokenSequence], packing: Packing, device: torch.device) -> Groups:
    """Group the sequences of a decoding step by whose rows of a packing they attend to; others are left out.

    Args:
        owners: for each sequence the one whose rows stand for it in the packing's layers, itself or an ancestor.
        packing: of these layers.
        device: where the groups are needed.
    """
    places_N = np.array([packing.places.get(owner, -1) for owner in owners], dtype=np.int64)
    order_N = np.argsort(places_N, kind="stable")[np.count_nonzero(places_N < 0) :]
    found, counts = np.unique(places_N[order_N], return_counts=True)
    blocks = np.column_stack((counts.cumsum() - counts, counts, packing.key_runs(found)))
    return Groups(
        keys=[packing.keys(packing.sequences[place]) for place in found.tolist()],
        order_N=to_device(torch.from_numpy(order_N), device),
        counts=counts.tolist(),
        tiles=to_device(tiles(blocks, DECODE_TILE, causal=False), device),
    )


def attend_groups(
    query_NHE: Tensor,
    prompts: Sequence[Attended],
    scale: float,
    decoded_caches: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attention of single queries to the keys of their group, every key visible, and to what each has decoded itself.

    Args:
        query_NHE: (N, H, E).
        prompts: keys and values of the prompts; each query attends to one group of one of them.
        scale: factor on the dot products.
        decoded_caches: keys and values (N, T, G, E) that each query has for itself; None: there are none yet.

    Returns:
        (N, H, E).
    """
    out_NHE = torch.empty_like(query_NHE)
    if uses_flash(query_NHE):
        for key_RGE, value_RGE, groups in prompts:
            flash_decode(query_NHE, groups.order_N, key_RGE, value_RGE, groups.tiles, decoded_caches, scale, out_NHE)
        return out_NHE
    log_NH = torch.empty(query_NHE.shape[:2], dtype=torch.float32, device=query_NHE.device)
    for key_RGE, value_RGE, groups in prompts:
        for runs, some in zip(groups.keys, groups.order_N.split(list(groups.counts)), strict=True):
            keys, values = gather(key_RGE, runs), gather(value_RGE, runs)
            out_NHE[some], log_NH[some] = _attend_together(query_NHE[some], keys, values, scale)
    if decoded_caches is None:
        return out_NHE
    return _join((out_NHE, log_NH), _attend_apart(query_NHE, *decoded_caches, scale))


def _attend_together(query_NHE: Tensor, key_SGE: Tensor, value_SGE: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of single queries to the same S keys, all visible: (N, H, E) and log denominators (N, H) float32."""
    (count, heads, width), groups = query_NHE.shape, key_SGE.shape[1]
    # One product for each key head: its keys are read once for all queries.
    query_GQE = query_NHE.float().unflatten(1, (groups, -1)).transpose(0, 1).reshape(groups, -1, width)
    scores_GQS = query_GQE @ key_SGE.float().permute(1, 2, 0) * scale
    out_GQE = scores_GQS.softmax(dim=-1) @ value_SGE.float().transpose(0, 1)
    out_NHE = out_GQE.unflatten(1, (count, -1)).transpose(0, 1).reshape(count, heads, width)
    log_NH = scores_GQS.logsumexp(dim=-1).unflatten(1, (count, -1)).transpose(0, 1).reshape(count, heads)
    return out_NHE.to(query_NHE.dtype), log_NH


def _attend_apart(query_NHE: Tensor, key_NTGE: Tensor, value_NTGE: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of single queries to T keys each, all visible: (N, H, E) and log denominators (N, H) float32."""
    heads, groups = query_NHE.shape[1], key_NTGE.shape[2]
    query = query_NHE.unflatten(1, (groups, heads // groups)).float()
    scores = torch.einsum("ngre,ntge->ngrt", query, key_NTGE.float()) * scale
    out = torch.einsum("ngrt,ntge->ngre", scores.softmax(dim=-1), value_NTGE.float())
    return out.flatten(1, 2).to(query_NHE.dtype), scores.logsumexp(dim=-1).flatten(1, 2)


def _join(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over the union of two disjoint sets of keys: (N, H, E) in the first's dtype."""
    share_NH1 = torch.sigmoid(first[1] - second[1])[..., None]
    return (first[0].float() * share_NH1 + second[0].float() * (1 - share_NH1)).to(first[0].dtype)


def probabilities(
    query_RHE: Tensor, key_RGE: Tensor, packing: Packing, sequence: TokenSequence, queries: int, scale: float
) -> Tensor:
    """Attention probabilities of a sequence's last ``queries`` rows over all its keys.

    Only these rows are computed; the layer itself never builds an S x S matrix. Scores are taken in float32 before the
    softmax, because half precision ties many tokens.

    Returns:
        (H, Q, S) float32, keys in the order of the sequence's tokens.
    """
    runs = (sequence,) if queries <= sequence.rows else sequence.chain  # some of them are a prefix's
    query_QHE = gather(query_RHE, [packing.own(run) for run in runs])[-queries:]
    return softmax_rows(query_QHE, gather(key_RGE, packing.keys(sequence)), scale)


def visual_block(query_RHE: Tensor, key_RGE: Tensor, packing: Packing, sequence: TokenSequence, scale: float) -> Tensor:
    """Attention probabilities of a sequence's visual tokens among themselves.

    The softmax runs over all that a visual token sees, the system rows included; then the block is cut out.

    Returns:
        (H, V, V) float32, lower-triangular, V the sequence's own visual tokens.
    """
    seen = sequence.system + sequence.visual + sequence.between
    key_SGE = gather(key_RGE, packing.keys(sequence))[:seen]
    image_HII = softmax_rows(query_RHE[packing.image(sequence)], key_SGE, scale)[:, :, sequence.system :]
    if sequence.places_K is None:
        return image_HII
    places_K = to_device(sequence.places_K, key_SGE.device)
    return image_HII[:, places_K][:, :, places_K]


def softmax_rows(query_QHE: Tensor, key_SGE: Tensor, scale: float) -> Tensor:
    """(H, Q, S) float32 probabilities of Q queries that are the last of S keys."""
    key_SHE = key_SGE.float().repeat_interleave(query_QHE.shape[1] // key_SGE.shape[1], dim=1)
    scores_HQS = torch.einsum("qhe,she->hqs", query_QHE.float(), key_SHE).mul_(scale)
    mask_QS = causal_mask(query_QHE.shape[0], key_SGE.shape[0], key_SGE.device)
    return scores_HQS.masked_fill_(~mask_QS, -torch.inf).softmax(dim=-1)
