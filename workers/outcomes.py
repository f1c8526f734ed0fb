"""What becomes of the samples that went through the decoder together: a cell for each grid point, or a failure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from strategies.quality import diversity
from workers.answers import Answer, Answers
from workers.filling import PreparedSample
from workers.forks import Placement
from workers.part import Part, failure_of
from workers.sequences import TokenSequence
from workers.spectra import NoSpectrumError, SpectraRecorder
from workers.tasks.base import Scorer
from workers.token_maps import written
from workers.work import GridPoint, SampleOutcome

Measures = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """Samples that went through the decoder together, and what was measured of them."""

    batch: Sequence[PreparedSample]
    trunks: Sequence[TokenSequence]
    placement: Placement
    features: Sequence[Tensor | None]  # the projector's of each sample; none at all where no quality is measured
    spectra: SpectraRecorder | None

    def parts(self, points: Sequence[GridPoint], answers: Answers, score: Scorer) -> Iterator[Part]:
        """Of each sample, once all answers are there."""
        keys = [point.key for point in points]
        for item, trunk in zip(self.batch, self.trunks, strict=True):
            outcomes = []
            try:
                for index, key in enumerate(keys):
                    sequence = self.placement.sequence_of[trunk.sample, index]
                    measures = self.spectra.measures(sequence) if self.spectra else ()
                    measures += self._quality(trunk, index, sequence) if self.features else ()
                    outcomes.append(_outcome(item, trunk, key, sequence, answers.of[sequence], measures, score))
                yield Part(outcomes=tuple(outcomes))
            except NoSpectrumError as error:
                yield Part(failures=(failure_of(item.sample.id, error),))

    def _quality(self, trunk: TokenSequence, index: int, sequence: TokenSequence) -> Measures:
        """Concentration of the scores that chose, and diversity of the projector's features that were kept."""
        named: list[tuple[str, float]] = []
        scores = self.placement.concentration.get((trunk.sample, index))
        if scores is not None:
            named += [(f"concentration.{name}", value) for name, value in asdict(scores).items()]
        features_VD = self.features[trunk.sample]
        if features_VD is not None and sequence.visual > 1:
            kept = diversity(features_VD[sequence.visual_K.to(features_VD.device)])
            named += [(f"diversity.{name}", value) for name, value in asdict(kept).items()]
        return tuple(named)


def _outcome(
    item: PreparedSample,
    trunk: TokenSequence,
    point: str,
    sequence: TokenSequence,
    answer: Answer,
    measures: Measures,
    score: Scorer,
) -> SampleOutcome:
    sample = item.sample
    verdict = score(answer.text, sample)
    return SampleOutcome(
        point=point,
        sample=sample.id,
        answer=answer.text,
        parsed=verdict.parsed,
        correct=verdict.correct,
        score=float(verdict.score),
        first_token=answer.ids[0],
        option_logits=answer.letter_logits[: len(sample.choices)],
        margin=answer.margin,
        tokens_kept=sequence.visual,
        kept_mask=item.shown.mask(sequence.visual_K),
        decoded_tokens=len(answer.ids),
        prompt_tokens=item.shown.tokens,
        visual_tokens=item.shown.visual,
        text_tokens=trunk.text,
        squares=item.prompt.squares,
        maps=written(item.shown.maps),
        measures=measures,
    )
