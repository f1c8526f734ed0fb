"""Merging: a kept token takes up something of all the others.

Source: YangXu-03/Himap-based, diversity_token_selector.py.
We differ on one point: the original writes the merged tokens into the image's first slots and leaves zero vectors in
the others, which later layers go on attending to. Here a merged token stands at the place of the token it grew from,
and what was not kept is dropped.
"""

from __future__ import annotations

from torch import Tensor

from strategies.scores import cosine, lifted


def softmax_merge(hidden_VD: Tensor, kept_K: Tensor, temperature: float = 0.1) -> Tensor:
    """Replace each kept token by a weighted mean of all visual tokens, by softmax of cosine over temperature.

    Args:
        hidden_VD: (V, D) residual stream of the visual tokens, in any floating dtype.
        kept_K: (K,) int64, indices into them.
        temperature: above 0; the smaller, the more a token stays itself.

    Returns:
        (K, D) in the dtype of ``hidden_VD``; row k stands at the position of token ``kept_K[k]``.
    """
    weight_KV = (cosine(hidden_VD.index_select(0, kept_K), hidden_VD) / temperature).softmax(dim=1)
    return (weight_KV @ lifted(hidden_VD)).to(hidden_VD.dtype)
