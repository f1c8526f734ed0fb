"""Evidence beyond what ``TokenView`` names: any signal of the model, read by the name of its provider.

A strategy declares the names in ``needs``; ``workers/evidence.py`` is the table of what there is. What comes from the
vision tower or from the decoder's input has one row for each visual token still alive; what comes from a decoder layer
or from the question has the shape that its provider states. Where any-resolution marks the end of a row of patches,
the rows of the tower's evidence are 0.

What is had of a tower layer has a name for each, ``class_attention@-1``: counted from 0, from the end, or as a share of
the tower's depth, ``@8/24``, so that a method names the authors' layer of CLIP's 24 and is defined for other towers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from strategies.scores import cosine
from strategies.view import TokenView

# Of the vision tower, of the layer before the last where none is named. V rows, H heads, E head width, C tower width.
CLASS_ATTENTION = "class_attention"  # (V, H) of the class token to each patch, after softmax over all rows
JOINED_CLASS_ATTENTION = "joined_class_attention"  # (V,) the same, all heads taken as one
RECEIVED_ATTENTION = "received_attention"  # (V, H) of all rows to each patch, mean over the rows
TOWER_ATTENTION = "tower_attention"  # (V, H, S) of each patch to all rows
TOWER_KEYS = "tower_keys"  # (V, H, E)
TOWER_STATES = "tower_states"  # (V, C) after a layer; ``@0`` is what enters the first
TOWER_FEATURES = "tower_features"  # (V, C) what the projector is given
CLASS_FEATURES = "class_features"  # (V, C) the class token's, in each row that of the patch's square
LOADINGS = "loadings"  # (V, P) absolute principal loadings of the patches of a square, the largest component first
PLACES = "places"  # (V, 3) number of the patch's square, its row and its column there, each from 1
# Of CLIP, in the space that its two towers share.
IMAGE_EMBEDDINGS = "image_embeddings"  # (V, E)
QUESTION_EMBEDDINGS = "question_embeddings"  # (1 + S, E) the question cut to what CLIP reads, and its S segments
PROMPT_EMBEDDING = "prompt_embedding"  # (1, E) the question with its instruction, cut to what CLIP reads


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceView(TokenView):
    """A ``TokenView`` with more to read."""

    evidence: Mapping[str, Tensor] = field(default_factory=dict)  # by name; only what was declared
    project: Callable[[Tensor], Tensor] | None = None  # (K, C) as the projector is given -> (K, D)
    made: dict[Hashable, Tensor] = field(default_factory=dict, init=False, repr=False)  # see ``once``

    def read(self, name: str) -> Tensor:
        """Evidence by its name.

        Raises:
            ValueError: the strategy did not declare it, or it holds NaN.
        """
        if name not in self.evidence:
            raise ValueError(f"the strategy reads {name} but did not declare it")
        return self.once(("read", name), lambda: without_nan(self.evidence[name], name))

    def once(self, what: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What is made of the evidence alone, whatever the rank: made for the first who asks.

        Args:
            what: names it, and all that it depends on besides the evidence.
            make: makes it.
        """
        if what not in self.made:
            self.made[what] = make()
        return self.made[what]

    def holding(self, hidden_VD: Tensor | None) -> EvidenceView:
        """The same evidence with other hidden states, or none.

        Of what was made of it only what is small is kept, and which of it was looked through for NaN.
        """
        other = replace(self, hidden_states_VD=hidden_VD)
        given = {id(rows) for rows in self.evidence.values()}
        other.made.update(
            {what: values for what, values in self.made.items() if values.dim() < 2 or id(values) in given}
        )
        return other

    def likeness(self, name: str) -> Tensor:
        """(V, V) cosines of all rows of some evidence."""
        return self.once(("likeness", name), lambda: cosine(self.read(name), self.read(name)))


def without_nan(values: Tensor, what: str) -> Tensor:
    """The same values.

    Raises:
        ValueError: one is NaN.
    """
    if values.isnan().any():
        raise ValueError(f"{what}: a value is NaN")
    return values
