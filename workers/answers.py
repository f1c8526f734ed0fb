"""What the sequences of a micro-batch answer: decoded wave by wave, each at once or beside the next one's prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.decode import Greedy
from workers.families.model import Model
from workers.prefill import Prefill
from workers.sequences import TokenSequence


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Of one sequence."""

    ids: list[int]
    text: str
    letter_logits: tuple[float, ...]  # of the first token: A, B, ...
    margin: float


@dataclass(frozen=True, slots=True, eq=False)
class _Wave:
    """Sequences that are answered together."""

    sequences: Sequence[TokenSequence]
    greedy: Greedy
    letter_logits: Sequence[Sequence[float]]
    margins: Sequence[float]


class Answers:
    """The answers so far; where waves ride, those of the last one are to come."""

    def __init__(self, model: Model, max_new_tokens: int, letter_tokens: Sequence[int], rides: bool) -> None:
        """Begin with none.

        Args:
            model: whose.
            max_new_tokens: decoded at most.
            letter_tokens: ids of A, B, ..., whose logits are kept.
            rides: whether a wave takes its next token while the wave after it is prefilled; else it is decoded before.
        """
        self.of: dict[TokenSequence, Answer] = {}
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._letter_tokens = list(letter_tokens)
        self._rides = rides
        self._riding: _Wave | None = None

    def reach(self, layer: int) -> None:
        """The prefill of a wave has gone through this layer."""
        if self._riding is not None:
            self._riding.greedy.reach(layer)

    def add(self, start: Prefill) -> None:
        """A wave has been prefilled. What is kept of its logits is taken on the device: a vocabulary is long."""
        self.finish()
        highest_N2 = start.logits_NC.topk(2, dim=-1).values
        margins = highest_N2[:, 0] - highest_N2[:, 1]
        letters = start.logits_NC[:, self._letter_tokens]
        greedy = Greedy(self._model.decoder, start, self._max_new_tokens, self._model.end_tokens)
        self._riding = _Wave(start.sequences, greedy, letters.tolist(), margins.tolist())
        if not self._rides:
            self.finish()

    def finish(self) -> None:
        """Decode all that has been added to its end."""
        if (wave := self._riding) is None:
            return
        self._riding = None
        decoded = wave.greedy.finish()
        texts = {
            ids: self._model.text(ids) for ids in set(map(tuple, decoded))
        }  # most sequences of a sample say the same
        for sequence, ids, letter_logits, margin in zip(
            wave.sequences, decoded, wave.letter_logits, wave.margins, strict=True
        ):
            self.of[sequence] = Answer(ids, texts[tuple(ids)], tuple(letter_logits), margin)
