"""Evidence beyond what ``TokenView`` names: any signal of the model, read by the name of its provider.

A strategy declares the names in ``needs``; ``workers/evidence.py`` is the table of what there is. What comes from the
vision tower or from the decoder's input has one row for each visual token still alive; what comes from a decoder layer
has the shape that its provider states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from strategies.view import TokenView


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceView(TokenView):
    """A ``TokenView`` with more to read."""

    evidence: Mapping[str, Tensor] = field(default_factory=dict)  # by name; only what was declared

    def read(self, name: str) -> Tensor:
        """Evidence by its name.

        Raises:
            ValueError: the strategy did not declare it.
        """
        if name not in self.evidence:
            raise ValueError(f"the strategy reads {name} but did not declare it")
        return self.evidence[name]
