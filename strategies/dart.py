"""DART: keep a few pivots, and of the rest what resembles them least: what a pivot resembles, it stands for.

Source: Wen et al., Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More, EMNLP
2025, arXiv:2502.11494; ZichenWen1/DART, get_retained_image_token.
Pivots are the 4 visual tokens and the 4 tokens after the image whose keys in layer K-1 have the largest L1 norm, all
heads side by side. Each in turn takes its share of the visual tokens that are left, those with the lowest cosine to
it, of what enters layer K, through the norm before the head. The pivots of the image stay, those of the text only
choose.
We differ: the authors visit the pivots in the order in which CPython's set of their places happens to hand them out,
and each takes floor(T / 8), so that asked for 128 they keep 132; here the image's come first, each kind by falling
norm, and the first ones take one more where the share is not whole, so that the number is exact. ``literal`` visits
them as the authors do: at rank 132 it is their 128. Of equal values the lower index wins; a text with fewer tokens has
fewer pivots.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from strategies.decoder_evidence import LAYER_KEYS, NORMED_STATES
from strategies.evidence import EvidenceView
from strategies.limits import Range
from strategies.scores import cosine, descending_order, lifted

NEEDS = frozenset({LAYER_KEYS, NORMED_STATES})
Form = Literal["falling", "literal"]


def dart(
    view: EvidenceView,
    keep: int,
    *,
    image_pivots: Annotated[int, Range(1)] = 4,
    text_pivots: Annotated[int, Range(0)] = 4,
    form: Form = "falling",
) -> Tensor:
    """The pivots of the image, and what each pivot takes.

    Args:
        view: keys and normed states are read.
        keep: tokens to keep, 0 <= keep <= V; below ``image_pivots`` only the first of these.
        image_pivots: at most.
        text_pivots: at most.
        form: the order in which the pivots choose.

    Returns:
        (keep,) int64, ascending, unique.
    """
    norm_S = view.once("key norms", lambda: lifted(view.read(LAYER_KEYS)).abs().sum(dim=(1, 2)))
    image_P = descending_order(norm_S[: view.visual])[: min(image_pivots, keep)]
    text_P = descending_order(norm_S[view.visual :])[:text_pivots] + view.visual
    pivots_P = torch.cat((image_P, text_P))
    if form == "literal":  # a set of ints is in the order of its table, which depends on their values
        places = (pivots_P + view.system).tolist()
        pivots_P = torch.tensor(list(set(places)), device=view.device) - view.system
    state_SD = view.read(NORMED_STATES)
    likeness_PV = cosine(state_SD[pivots_P], state_SD[: view.visual]).index_fill(1, image_P, torch.inf)
    share, more = divmod(keep - len(image_P), max(len(pivots_P), 1))
    kept = [image_P]
    for turn, likeness_V in enumerate(likeness_PV):
        kept.append(descending_order(-likeness_V)[: share + (turn < more)])
        likeness_PV.index_fill_(1, kept[-1], torch.inf)
    return torch.cat(kept).sort().values
