"""Spectra of the pruned forward itself: how many directions the visual tokens still span, layer by layer.

Three matrices are called "rank" in the literature of this field; each is named:

    attention_weights      (R, R) a head: attention probabilities of the kept visual tokens among themselves; ranks are
                           means over the heads. HiMAP, fastv_rank_experiment.py. A causal softmax block is triangular
                           with a positive diagonal, so its numerical rank is always about R; read the effective rank.
    attention_output       (R, D): the visual rows of the attention sub-layer's output, after the output projection.
    hidden_states          (R, D): the visual rows of the residual stream after the layer; after the last layer and the
                           final norm, as Hugging Face's hidden_states[-1] is.
    hidden_states_prenorm  the same without the final norm.

In a layer before a grid point's own, its matrix is that of the stream it forks from: all visual tokens are still there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from strategies.rank import effective_rank, numerical_rank, singular_values
from workers.attention import visual_block
from workers.llava import Llava
from workers.prefill import LayerRun
from workers.streams import Stream
from workers.work import SpectrumSpec

MATRICES = ("attention_weights", "attention_output", "hidden_states", "hidden_states_prenorm")
GRAM_THRESHOLD = 1e-6  # below it the eigenvalues of a float64 Gram matrix no longer resolve the singular values


def check_spectra(specs: Sequence[SpectrumSpec], layers: int) -> None:
    """Whether all of them can be measured on a model of that many layers.

    Raises:
        ValueError: unknown matrix, or a layer that the model does not have.
    """
    for spec in specs:
        if spec.matrix not in MATRICES:
            raise ValueError(f"spectrum of '{spec.matrix}': is none of {', '.join(MATRICES)}")
        if not 0 <= spec.layer < layers:
            raise ValueError(f"spectrum of {spec.matrix}: layer {spec.layer} is outside 0..{layers - 1}")


class SpectraRecorder:
    """Collects the spectra of the streams of some samples while a prefill runs."""

    def __init__(self, llava: Llava, specs: Sequence[SpectrumSpec], samples: Collection[int]) -> None:
        """Args:
        llava: the model.
        specs: what to measure.
        samples: indices within the micro-batch; the others are left alone.
        """
        self._llava = llava
        self._specs = specs
        self._samples = frozenset(samples)
        self._values: dict[tuple[Stream, SpectrumSpec], tuple[float, float]] = {}

    def __call__(self, run: LayerRun) -> None:
        """Measure what is asked of this layer."""
        for spec in self._specs:
            if spec.layer != run.layer:
                continue
            for stream in run.packing.streams:
                if stream.sample in self._samples:
                    self._values[stream, spec] = _ranks(self._matrices(spec, run, stream), spec)

    def measures(self, stream: Stream) -> tuple[tuple[str, float], ...]:
        """``matrix.layer.numerical_rank`` and ``.effective_rank`` of a stream, for everything that was asked."""
        if stream.sample not in self._samples:
            return ()
        named: list[tuple[str, float]] = []
        for spec in self._specs:
            numerical, effective = self._values[stream.at(spec.layer), spec]
            place = f"{spec.matrix}.{spec.layer}"
            named += [(f"{place}.numerical_rank", numerical), (f"{place}.effective_rank", effective)]
        return tuple(named)

    def _matrices(self, spec: SpectrumSpec, run: LayerRun, stream: Stream) -> Tensor:
        """(batch, rows, columns) of one stream."""
        if spec.matrix == "attention_weights":
            return visual_block(run.query_RHE, run.key_RGE, run.packing, stream, self._llava.scale)
        rows = run.packing.visual(stream)
        if spec.matrix == "attention_output":
            return self._llava.attention_output(run.layer, run.attended_RHE[rows])[None]
        hidden_VD = run.hidden_RD[rows]
        last = run.layer == len(self._llava.layers) - 1
        return (self._llava.final_norm(hidden_VD) if last and spec.matrix == "hidden_states" else hidden_VD)[None]


def _ranks(matrices: Tensor, spec: SpectrumSpec) -> tuple[float, float]:
    """Numerical and effective rank, means over the leading dimension; 0 where no visual token is left."""
    if 0 in matrices.shape:
        return 0.0, 0.0
    values = gram_singular_values(matrices) if spec.threshold >= GRAM_THRESHOLD else singular_values(matrices)
    numerical = numerical_rank(values, spec.threshold).double().mean()
    return float(numerical), float(effective_rank(values, spec.power).mean())


def gram_singular_values(matrices: Tensor) -> Tensor:
    """Singular values through the eigenvalues of the smaller Gram matrix in float64, two to three times as fast as SVD.

    Args:
        matrices: (..., M, N), finite.

    Returns:
        (..., min(M, N)) float64, descending. Values above 1e-7 of the largest have a relative error below 1e-2; smaller
        ones drown in the rounding of the squares, so a threshold of 1e-6 is resolved and 1e-8 is not.

    Raises:
        ValueError: a NaN or an infinity.
    """
    lifted = matrices.double()
    if not lifted.isfinite().all():
        raise ValueError("a matrix whose spectrum is asked for holds NaN or infinity")
    transposed = lifted.shape[-2] > lifted.shape[-1]
    gram = lifted.mT @ lifted if transposed else lifted @ lifted.mT
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(-1)
