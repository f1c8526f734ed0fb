"""Spectra of the pruned forward itself: how many directions the visual tokens still span, layer by layer.

Three matrices are called "rank" in the literature of this field; each is named, for K kept visual tokens:

    attention_weights      (K, K) a head: attention probabilities of the kept visual tokens among themselves; ranks are
                           means over the heads. HiMAP, fastv_rank_experiment.py. A causal softmax block is triangular
                           with a positive diagonal, so its numerical rank is always about K; read the effective rank.
    attention_output       (K, D): the visual rows of the attention sub-layer's output, after the output projection.
    hidden_states          (K, D): the visual rows of the residual stream after the layer; after the last layer and the
                           final norm, as Hugging Face's hidden_states[-1] is.
    hidden_states_prenorm  the same without the final norm.

In a layer before a grid point's own, its matrix is that of the sequence it forks from: all visual tokens are still
there.

What is said of each matrix's singular values s, largest first; means over the heads of attention weights:

    numerical_rank     values above ``threshold`` times the largest
    effective_rank     exponential of the entropy of s ** power, as shares
    spectral_entropy   that entropy, in nats
    stable_rank        sum of s ** 2 over the largest s ** 2
    top_8_energy       share of the eight largest in the sum of s ** 2
    log10_condition    decimal logarithm of largest over smallest; 8 says "8 or more", which is as far as float64 Gram
                       matrices reach
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from strategies import rank
from strategies.errors import SaccadeError, UsageError
from strategies.rank import effective_rank, numerical_rank, spectral_entropy, stable_rank, top_k_energy
from workers.attention import visual_block
from workers.decoder import Decoder
from workers.prefill import LayerRun
from workers.sequences import TokenSequence, on
from workers.singular import singular_values
from workers.upload import to_device
from workers.work import SpectrumSpec

MATRICES = ("attention_weights", "attention_output", "hidden_states", "hidden_states_prenorm")
MEASURES = (
    "numerical_rank",
    "effective_rank",
    "spectral_entropy",
    "stable_rank",
    "top_8_energy",
    "log10_condition",
)
GRAM_THRESHOLD = 1e-6  # below it the eigenvalues of a float64 Gram matrix no longer resolve the singular values
GRAM_CONDITION = 1e8


def check_spectra(specs: Sequence[SpectrumSpec], layers: int) -> None:
    """Whether all of them can be measured on a model of that many layers.

    Raises:
        UsageError: unknown matrix, or a layer that the model does not have.
    """
    for spec in specs:
        if spec.matrix not in MATRICES:
            raise UsageError(f"spectrum of '{spec.matrix}': is none of {', '.join(MATRICES)}")
        if not 0 <= spec.layer < layers:
            raise UsageError(f"spectrum of {spec.matrix}: layer {spec.layer} is outside 0..{layers - 1}")


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """What one spectrum says of some sequences, still on the device."""

    rows: Mapping[TokenSequence, int]
    values_SM: Tensor  # float64, a column for each of MEASURES


class NoSpectrumError(SaccadeError):
    """A matrix holds NaN or infinity."""


class SpectraRecorder:
    """Collects the spectra of the sequences of some samples while a prefill runs.

    On CUDA they are queued with the layers, beside the micro-batch of the other lane; nothing waits for them before
    ``measures`` is asked.
    """

    def __init__(self, decoder: Decoder, specs: Sequence[SpectrumSpec], samples: Mapping[int, str]) -> None:
        """Say what to measure; a prefill then calls this once a layer.

        Args:
            decoder: the model's.
            specs: what to measure.
            samples: index within the micro-batch -> name; the others are left alone.
        """
        self._decoder = decoder
        self._specs = specs
        self._samples = samples
        self._tables: dict[SpectrumSpec, list[_Table]] = {spec: [] for spec in specs}  # one for each wave

    def __call__(self, run: LayerRun) -> None:
        """Measure what is asked of this layer."""
        specs = [spec for spec in self._specs if spec.layer == run.layer]
        measured = (sequence for sequence in run.packing.sequences if sequence.sample in self._samples)
        images = list(dict.fromkeys(sequence.image for sequence in measured))
        if not specs or not images:
            return
        for spec in specs:
            self._tables[spec].append(self._measure(spec, run, images))

    def measures(self, sequence: TokenSequence) -> tuple[tuple[str, float], ...]:
        """``matrix.layer.measure`` of a sequence, for everything that was asked; what is not defined is left out.

        Raises:
            NoSpectrumError: the sample is named.
        """
        if sequence.sample not in self._samples:
            return ()
        named: list[tuple[str, float]] = []
        for spec in self._specs:
            own = sequence.at(spec.layer).image
            table = self._settled(spec, own)
            place = f"{spec.matrix}.{spec.layer}"
            values = table.values_SM[table.rows[own]].tolist()
            if values[0] != values[0]:
                name = self._samples[sequence.sample]
                raise NoSpectrumError(
                    f"sample {name}: {spec.matrix} of layer {spec.layer} ({own.visual} visual tokens kept) hold NaN "
                    "or infinity, so they have no spectrum"
                )
            named += [
                (f"{place}.{measure}", value)
                for measure, value in zip(MEASURES, values, strict=True)
                if value == value  # the entropy of nothing
            ]
        return tuple(named)

    def _settled(self, spec: SpectrumSpec, sequence: TokenSequence) -> _Table:
        """The table of a spectrum that has a sequence, brought to the host once."""
        tables = self._tables[spec]
        number = next(number for number, table in enumerate(tables) if sequence in table.rows)
        if tables[number].values_SM.is_cuda:
            tables[number] = _Table(tables[number].rows, tables[number].values_SM.cpu())
        return tables[number]

    def _measure(self, spec: SpectrumSpec, run: LayerRun, sequences: Sequence[TokenSequence]) -> _Table:
        some = [sequence for sequence in sequences if sequence.visual > 0]
        none = [sequence for sequence in sequences if sequence.visual == 0]
        device, nothing = run.hidden_RD.device, torch.tensor([0.0, 0.0, torch.nan, 0.0, torch.nan, torch.nan])
        empty_SM = to_device(nothing.double().expand(len(none), -1).contiguous(), device)
        table_SM = torch.cat((_described(self._blocks(spec, run, some), spec), empty_SM)) if some else empty_SM
        return _Table({sequence: row for row, sequence in enumerate((*some, *none))}, table_SM)

    def _blocks(self, spec: SpectrumSpec, run: LayerRun, sequences: Sequence[TokenSequence]) -> Iterator[Tensor]:
        """(batch, rows, columns) of each sequence, made when it is its turn."""
        for sequence in sequences:
            rows = on(run.packing.visual(sequence), run.hidden_RD.device)
            if spec.matrix == "attention_weights":
                yield visual_block(run.query_RHE, run.key_RGE, run.packing, sequence, self._decoder.scale)
            elif spec.matrix == "attention_output":
                yield self._decoder.attention_output(run.layer, run.attended_RHE[rows])[None]
            elif spec.matrix == "hidden_states" and run.layer == len(self._decoder.layers) - 1:
                yield self._decoder.final_norm(run.hidden_RD[rows])[None]
            else:
                yield run.hidden_RD[rows][None]


def _described(blocks: Iterator[Tensor], spec: SpectrumSpec) -> Tensor:
    """(blocks, measures): means over each block's matrices; a row of NaN where one is not finite."""
    sizes: list[tuple[int, int]] = []  # matrices, and values of each

    def counted() -> Iterator[Tensor]:
        for block in blocks:
            sizes.append((block.shape[0], min(block.shape[1:])))
            yield block

    values_NK = singular_values(counted()) if spec.threshold >= GRAM_THRESHOLD else _exact(counted())
    batches, lengths = torch.tensor(sizes).unbind(1)
    last_N1 = to_device((lengths - 1).repeat_interleave(batches)[:, None], values_NK.device)
    measured_NM = torch.stack(
        (
            numerical_rank(values_NK, spec.threshold).double(),
            effective_rank(values_NK, spec.power),
            spectral_entropy(values_NK, spec.power),
            stable_rank(values_NK),
            top_k_energy(values_NK, 8),
            (values_NK[:, 0] / values_NK.gather(1, last_N1)[:, 0]).clamp(max=GRAM_CONDITION).log10(),
        ),
        dim=1,
    )
    broken_N1 = values_NK.isnan().any(dim=1, keepdim=True)
    return measured_NM.masked_fill(broken_N1, torch.nan).view(len(sizes), -1, len(MEASURES)).mean(dim=1)


def _exact(blocks: Iterator[Tensor]) -> Tensor:
    """As ``singular_values``, by singular value decomposition: for thresholds that Gram matrices do not resolve."""
    found = []
    for block in blocks:
        finite_B1 = block.flatten(1).isfinite().all(dim=1, keepdim=True)
        values = rank.singular_values(block.where(finite_B1[..., None], 0.0))
        found.append(values.where(finite_B1, torch.nan))
    longest = max(values.shape[-1] for values in found)
    return torch.cat([pad(values, (0, longest - values.shape[-1])) for values in found])
