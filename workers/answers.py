"""What the sequences of a micro-batch answer: decoded wave by wave, each at once or beside the next one's prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.decode import Greedy
from workers.families.model import Model
from workers.prefill import Prefill
from workers.sequences import TokenSequence
from workers.upload import Download


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
    first: Download  # of their first tokens the logits of letters, and margins


class Answers:
    """The answers so far; where waves ride, those of the last two are to come."""

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
        self._decoded: list[_Wave] = []  # to the end; what they say may still be on its way

    def reach(self, layer: int) -> None:
        """The prefill of a wave has gone through this layer."""
        if self._riding is not None:
            self._riding.greedy.reach(layer)

    def add(self, start: Prefill) -> None:
        """A wave has been prefilled. What is kept of its logits is taken on the device: a vocabulary is long.

        Where waves ride, one is read when the wave after the next has been laid out: the host is a wave ahead.
        """
        earlier, self._decoded = self._decoded, []
        self._decode()
        highest_N2 = start.logits_NC.topk(2, dim=-1).values
        margins_N = highest_N2[:, 0] - highest_N2[:, 1]
        first = Download(start.logits_NC[:, self._letter_tokens], margins_N)
        greedy = Greedy(self._model.decoder, start, self._max_new_tokens, self._model.end_tokens, self._rides)
        self._riding = _Wave(start.sequences, greedy, first)
        for wave in earlier:
            self._read(wave)
        if not self._rides:
            self.finish()

    def finish(self) -> None:
        """Decode all that has been added to its end, and read it."""
        self._decode()
        for wave in self._decoded:
            self._read(wave)
        self._decoded = []

    def _decode(self) -> None:
        if self._riding is not None:
            self._riding.greedy.finish()
            self._decoded.append(self._riding)
            self._riding = None

    def _read(self, wave: _Wave) -> None:
        decoded, (letters, margins) = wave.greedy.answers(), wave.first.read()
        texts = {
            ids: self._model.text(ids) for ids in set(map(tuple, decoded))
        }  # most sequences of a sample say the same
        for sequence, ids, letter_logits, margin in zip(wave.sequences, decoded, letters, margins, strict=True):
            self.of[sequence] = Answer(ids, texts[tuple(ids)], tuple(letter_logits), margin)
