"""FitPrune: after many layers drop a few tokens each, as many as was once found to change the attention least.

Source: Ye et al., Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal Large Language Models,
AAAI 2025, arXiv:2409.10197; ywh187/FitPrune, LLaVA_1.5/llava/model/language_model/modeling_llama.py, and its
llava/eval/statistical_analysis.py for how the numbers are found: ``workers/calibration.py``.
A visual token's score is the attention that it receives from the text, summed over the text, times what it receives
from the visual tokens, mean over them; of each pair of tokens the head with the most counts. How many go in which layer
is the same for all images, is found on some samples for each budget, and is a parameter here.
We differ: in a layer in which tokens go the authors leave out their output projection and MLP, which we compute and
drop: nothing that stays sees either. Attention stays in float32, and of equal scores the lower index stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Any, ClassVar

from torch import Tensor

from strategies.stages import Stage
from strategies.view import Evidence, TokenView

STAGE = "fitprune_stage"
NEEDS = frozenset({Evidence.TEXT_ROWS, Evidence.VISUAL_ROWS})
# Of 576, what goes in each of LLaVA-1.5-7B's 32 layers: the authors' for 10 to 50, 55, 60 to 90 % less FLOPs.
_DROPPED = """
    0 0 1 2 1 0 1 4 5 5 11 4 2 2 0 0 1 1 2 4 2 10 1 1 1 2 1 1 0 1
    0 0 3 3 1 1 4 16 14 15 24 4 2 3 2 0 6 0 5 13 4 19 2 1 1 1 1 1 2 1
    0 0 7 6 4 5 16 40 24 21 24 4 2 3 4 0 16 0 11 26 6 32 3 1 0 1 2 2 4
    0 1 21 13 14 11 41 53 29 15 14 5 1 4 5 1 26 1 13 28 6 27 2 1 0 0 1 1 2
    3 7 49 24 29 17 59 41 26 8 10 6 2 5 7 2 30 3 13 27 5 23 2 1 0 0 1 1 2
    6 17 69 31 34 19 59 30 23 6 8 7 2 5 8 2 29 4 12 25 4 19 2 1 0 0 1 0 1
    14 33 89 36 36 20 55 21 18 4 7 5 2 5 7 4 26 5 11 24 4 18 2 1 0 0 1 0 1
    48 79 118 41 33 17 36 9 9 2 3 2 1 3 4 8 18 7 8 20 4 13 2 1 0 0 1 0 1
    128 127 118 35 26 8 13 3 2 1 0 0 0 2 1 8 7 8 5 11 2 6 1 1 0 0 0 1
    262 153 80 19 13 1 2 0 0 0 0 0 0 0 0 1 1 2 1 2 0 1 0 0 0 0 0 1
"""


@dataclass(frozen=True, slots=True)
class Falling:
    """Whole numbers that do not rise, written ``404-368-348``."""

    remedy: ClassVar[str] = "`saccade calibrate` finds them"

    def complaint(self, value: Any, heads: int | None = None) -> str | None:
        numbers = str(value).split("-")
        if not isinstance(value, str) or not all(number.isascii() and number.isdigit() for number in numbers):
            return f"{str(value)[:40]!r} is no text of whole numbers such as '404-368-348'; {self.remedy}"
        rising = [(one, next_) for one, next_ in pairwise(numbers) if int(next_) > int(one)]
        return f"{rising[0][1]} is above the {rising[0][0]} before it" if rising else None


def fitprune_stage(view: TokenView) -> Tensor:
    """Score a visual token by what the text and what the image look at it with, product of the two.

    Returns:
        (V,), at least 0.
    """
    return view.text_HTV.amax(dim=0).sum(dim=0) * view.visual_HVV.amax(dim=0).mean(dim=0)


def fitprune(layer: int, rank: int, *, left: Annotated[str, Falling()]) -> tuple[Stage, ...]:
    """The stages of the method.

    Args:
        layer: of the first stage; 1 in the original, of what goes in its layer 0.
        rank: tokens that it leaves.
        left: tokens that are left after each of the layers that follow, ``404-368-348``; from then on none go.

    Raises:
        ValueError: more are left than before.
    """
    kept = [rank, *map(int, filter(None, left.split("-")))]
    if len(kept) > 1 and kept[1] > rank:
        raise ValueError(f"left: {kept[1]} is above the first stage's rank {rank}")
    fewer = [place for place, now in enumerate(kept) if place == 0 or now < kept[place - 1]]
    return tuple(Stage(STAGE, layer + place, kept[place]) for place in fewer)


def published() -> tuple[tuple[int, tuple[tuple[str, str], ...]], ...]:
    """The authors' numbers as ranks at layer 1, with what is left after the layers that follow."""
    found = []
    for line in _DROPPED.strip().splitlines():
        _, *left = accumulate(map(int, line.split()), lambda before, gone: before - gone, initial=576)
        found.append((left[0], (("left", "-".join(map(str, left[1:]))),)))
    return tuple(found)
