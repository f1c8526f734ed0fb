"""The closed-form input of tests/golden/golden_selection.json: attention and features given by formulas.

The golden file comes from an independent implementation in float64, and from the public code where it says so.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from strategies.view import TokenView

HEADS, LENGTH, SYSTEM, VISUAL = 8, 48, 5, 24
TEXT_START = SYSTEM + VISUAL
GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden_selection.json").read_text(encoding="utf-8"))
RANK = GOLDEN["shape"]["rank"]


def attention_HSS() -> Tensor:
    """Causal softmax of ``2.5 sin(1.3 h + 0.7 k + 0.11 q h) + 0.8 cos(0.5 k (h + 1) + 0.3 q)``."""
    h = torch.arange(HEADS, dtype=torch.float64)[:, None, None]
    q = torch.arange(LENGTH, dtype=torch.float64)[None, :, None]
    k = torch.arange(LENGTH, dtype=torch.float64)[None, None, :]
    z = 2.5 * torch.sin(1.3 * h + 0.7 * k + 0.11 * q * h) + 0.8 * torch.cos(0.5 * k * (h + 1) + 0.3 * q)
    return z.masked_fill(k > q, -torch.inf).softmax(dim=-1)


def features_VD() -> Tensor:
    """``sin(0.37 (i + 1)(d + 1)) + 0.6 cos(0.21 i^2 + 0.9 d) + 0.25 (d mod 3)``."""
    i = torch.arange(VISUAL, dtype=torch.float64)[:, None]
    d = torch.arange(16, dtype=torch.float64)[None]
    return torch.sin(0.37 * (i + 1) * (d + 1)) + 0.6 * torch.cos(0.21 * i**2 + 0.9 * d) + 0.25 * (d % 3)


def view(attention: Tensor | None = None, features: Tensor | None = None) -> TokenView:
    """All evidence of the closed-form sample, in the dtype of what is given, float64 by default."""
    rows_HSS = attention_HSS() if attention is None else attention
    return TokenView(
        visual=VISUAL,
        system=SYSTEM,
        text=LENGTH - TEXT_START,
        seed=0,
        device=torch.device("cpu"),
        attention_HQV=rows_HSS[:, TEXT_START:, SYSTEM:TEXT_START],
        text_attention_HTT=rows_HSS[:, TEXT_START:, TEXT_START:],
        visual_attention_HVV=rows_HSS[:, SYSTEM:TEXT_START, SYSTEM:TEXT_START],
        hidden_states_VD=features_VD() if features is None else features,
    )
