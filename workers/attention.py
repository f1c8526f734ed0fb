"""Attention over packed rows: every stream attends to its own keys, nothing is padded.

So the result of a stream does not depend on who shares the batch. Queries are always the last rows of their keys,
hence the causal mask is aligned to the bottom right.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from workers.streams import Packing, Stream, gather


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """(queries, keys) bool, True where a query may look: the queries are the last of the keys' rows."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def attend(query_RHE: Tensor, key_RGE: Tensor, value_RGE: Tensor, packing: Packing, scale: float) -> Tensor:
    """Causal attention of all streams of a packing.

    Args:
        query_RHE: (R, H, E) queries of all rows.
        key_RGE, value_RGE: (R, G, E), H a multiple of G.
        packing: whose rows are whose.
        scale: factor on the dot products.

    Returns:
        (R, H, E).
    """
    out_RHE = torch.empty_like(query_RHE)
    for stream in packing.streams:
        own = packing.own(stream)
        keys = packing.keys(stream)
        out_RHE[own] = attend_one(query_RHE[own], gather(key_RGE, keys), gather(value_RGE, keys), scale)
    return out_RHE


def attend_one(query_QHE: Tensor, key_SGE: Tensor, value_SGE: Tensor, scale: float) -> Tensor:
    """Causal attention of one stream's last Q rows to its S keys: (Q, H, E)."""
    queries, keys = query_QHE.shape[0], key_SGE.shape[0]
    alone = queries == 1  # the last row sees every key
    out_HQE = scaled_dot_product_attention(
        query_QHE.transpose(0, 1)[None],
        key_SGE.transpose(0, 1)[None],
        value_SGE.transpose(0, 1)[None],
        attn_mask=None if alone or queries == keys else causal_mask(queries, keys, query_QHE.device),
        is_causal=queries == keys and not alone,
        scale=scale,
        enable_gqa=query_QHE.shape[1] != key_SGE.shape[1],
    )
    return out_HQE[0].transpose(0, 1)


def probabilities(
    query_RHE: Tensor, key_RGE: Tensor, packing: Packing, stream: Stream, queries: int, scale: float
) -> Tensor:
    """Attention probabilities of a stream's last ``queries`` rows over all its keys.

    Only these rows are computed; the layer itself never builds an S x S matrix. Scores are taken in float32 before the
    softmax, because half precision ties many tokens.

    Returns:
        (H, Q, S) float32, keys in the order of the stream's tokens.
    """
    own = packing.own(stream)
    key_SGE = gather(key_RGE, packing.keys(stream)).float()
    query_QHE = query_RHE[own.stop - queries : own.stop].float()
    heads, groups = query_QHE.shape[1], key_SGE.shape[1]
    key_SHE = key_SGE.repeat_interleave(heads // groups, dim=1)
    scores_HQS = torch.einsum("qhe,she->hqs", query_QHE, key_SHE) * scale
    mask_QS = causal_mask(queries, key_SGE.shape[0], key_SGE.device)
    return scores_HQS.masked_fill(~mask_QS, -torch.inf).softmax(dim=-1)
