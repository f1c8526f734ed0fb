"""What a forward asks of a device's memory, and how much it may have: planned from sizes and free memory, not guessed.

A **wave** is what goes through the decoder together (``prefill.py``). Where all sequences of a micro-batch fit into one
wave they are one; where they do not, forks wait for a later one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil

import torch

from strategies import catalog
from workers import evidence
from workers.decoder import FEED_FORWARD_ROWS
from workers.families.config import ModelConfig, ModelError
from workers.offload import BUFFERS
from workers.work import GridPoint

LANES = 2  # on a GPU; a third gained nothing
ENOUGH_ROWS = (
    60_000  # matrix products gain nothing beyond, and there are two lanes of them (measured: 40,000 1.3 % slower)
)
FILLED = 0.92  # of a card that weights may fill; beyond it some layers stay in host memory
WAVES_SHARE = 0.35  # of a card that is left to the waves then: what decodes waits for copies, so waves should be large
CONTEXT_BYTES = 600 << 20  # that CUDA takes for itself
WORKSPACE_BYTES = 128 << 20  # of cuBLAS, for each CUDA stream that multiplies
PIECE_STEP = 1024  # rows: fewer leave a chip idle
FIRST_ROOM = 4  # decoded tokens that a cache begins with; most multiple-choice answers end at the second
DECODED_ALLOWANCE = 64  # decoded tokens a sequence that are planned for; longer answers may make waves smaller
SAFETY = 0.9  # of the free memory: fragments, scoring and the vision tower take the rest
WIDE_SHARE = 0.125  # of a wave's memory that one piece of the feed-forward may take
BUSY_ROWS = 16_000  # where two lanes with so many rows each do not fit, one with more is faster
STREAMED_ROWS = 32_000  # of a wave where layers take turns in buffers: fewer are done before the next layer has come
FEW_ROWS = 8_000  # where one lane's caches do not fit for so many, they go to host memory
ENOUGH_WAVES = 8  # of trunks that go through the decoder together: the last, which is not full, is then a small part
RIDING_WAVES = 24  # of a micro-batch, where each decodes beside the next: the last has none, and waits for its caches
FULL = 0.75  # of a wave that need not be filled by breaking its last sample up
HELD_SHARE = 0.4  # of a lane's memory that trunks may hold for the waves to come
CACHES = 4  # that a lane has in host memory: of a wave, of two before it (one may not have been read), of all trunks
IN_FLIGHT = 4  # layers of a wave's caches on the device then: one more than is on its way, in each direction


@dataclass(frozen=True, slots=True)
class Budget:
    """What one wave may take."""

    rows: int = sys.maxsize
    bytes: int = sys.maxsize
    host_bytes: int = sys.maxsize  # for caches that are not on the device

    def half(self) -> Budget:
        return Budget(-(-self.rows // 2), -(-self.bytes // 2), -(-self.host_bytes // 2))

    def takes(self, total: Footprint, another: Footprint) -> bool:
        """Whether a micro-batch should have another sample.

        It should while all fit one wave together; else while their trunks do, hold no more than a part of the memory
        for the waves to come, and are not enough yet for `ENOUGH_WAVES`.
        """
        both = total + another
        bytes = max(1, self.bytes - both.evidence_bytes)
        if both.rows <= self.rows and both.bytes <= bytes and both.host_bytes <= self.host_bytes:
            return True
        waves = self.waves(total, both.evidence_bytes)
        fit = both.trunk_bytes <= bytes and both.held_bytes <= HELD_SHARE * bytes
        fit = fit and both.held_host_bytes <= self.host_bytes
        return fit and waves < ENOUGH_WAVES and not FULL < waves <= 1

    def waves(self, total: Footprint, evidence_bytes: int = 0) -> float:
        """That a micro-batch fills."""
        bytes = max(1, self.bytes - max(total.evidence_bytes, evidence_bytes))
        return max(total.rows / self.rows, total.bytes / bytes, total.host_bytes / self.host_bytes)


@dataclass(frozen=True, slots=True)
class RowBytes:
    """Bytes of packed rows in a model."""

    layers: int
    cached: int  # keys and values of a row in one layer
    active: int  # of a row while a layer runs
    wide: int  # of a row in the feed-forward, which takes some at a time
    start: int  # of a row that a fork starts from
    decoded: int  # of a sequence: keys and values of what it decodes, in all layers
    logits: int  # of a sequence, when no layer runs
    keeps: bool  # whether keys and values outlive their layer, for decoding
    rides: bool = False  # which goes on beside the prefill of the next wave
    away: bool = False  # with keys and values in host memory
    piece: int = FEED_FORWARD_ROWS  # rows that the feed-forward takes at a time
    evidence: int = 0  # that a strategy chooses by, of one sequence at a time and before a layer's feed-forward
    added: int = 0  # to a visual token's row behind the first layers, until the last wave

    @classmethod
    def of(cls, config: ModelConfig, value_bytes: int, max_new_tokens: int) -> RowBytes:
        """Take the sizes of a model.

        Args:
            config: sizes of the model.
            value_bytes: of one value, 2 in half precision.
            max_new_tokens: what is decoded is attended to, so one token needs no cache.
        """
        cached = 2 * config.kv_heads * config.head_dim * value_bytes
        keeps = max_new_tokens > 1
        tail = min(max_new_tokens - 1, DECODED_ALLOWANCE) * config.layers * cached if keeps else 0
        # The residual stream before and after a fork, its norm, queries and what they attend to; sines and cosines.
        active = value_bytes * (3 * config.hidden + 2 * config.heads * config.head_dim + 4 * config.head_dim) + cached
        wide = value_bytes * (3 * config.ffn + config.hidden)
        # As the head gives them and in float32; when decoding, also those of the first token and of the one before.
        logits = config.vocab * (value_bytes + (3 if keeps else 1) * 4)
        row = config.hidden * value_bytes
        added = row * config.vision.deep if config.vision else 0
        return cls(config.layers, cached, active, wide, row, tail, logits, keeps, added=added)

    def within(self, budget: Budget, scratch: int = 0, entered: bool = False) -> RowBytes:
        """The same in smaller pieces, where the feed-forward's would take too much of a wave's budget.

        Args:
            budget: of the wave.
            scratch: bytes that the strategies of the grid choose by, see ``evidence.scratch``.
            entered: whether they read what entered a layer, which is kept while it runs.
        """
        active = self.active + self.start * entered
        most = int(WIDE_SHARE * budget.bytes) // self.wide // PIECE_STEP * PIECE_STEP
        piece = max(PIECE_STEP, min(most, FEED_FORWARD_ROWS))
        return replace(self, active=active, piece=piece, evidence=scratch)

    def riding(self, away: bool) -> RowBytes:
        """The same where two waves have caches at a time: one decodes beside the next one's prefill.

        Args:
            away: whether they wait in host memory.
        """
        return replace(self, rides=True, away=away, decoded=2 * self.decoded)

    def wave(self, cached_rows: int, rows: int, sequences: int) -> int:
        """Bytes of a wave on the device.

        Args:
            cached_rows: summed over the layers, of all keys and values that it makes.
            rows: of the layer that has most.
            sequences: that are decoded.
        """
        cached = (2 if self.rides else 1) * cached_rows if self.keeps else rows
        cached = self.cached * (IN_FLIGHT * rows if self.away else cached)
        layer = self.active * rows + max(self.wide * min(rows, self.piece), self.evidence)
        return cached + max(layer, self.logits * sequences) + self.decoded * sequences

    def on_host(self, cached_rows: int) -> int:
        """Bytes of host memory that so many rows take, summed over the layers."""
        return self.cached * cached_rows if self.away else 0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one sample asks of a device."""

    rows: int  # packed rows of the layer that has most, were all its sequences in one wave
    bytes: int  # of that wave
    trunk_bytes: int  # of the un-pruned prompt alone
    held_bytes: int  # what stays between waves: caches before the last fork, and the rows that forks start from
    evidence_bytes: int = 0  # that strategies choose by, of one sequence at a time
    host_bytes: int = 0  # of host memory in that wave
    held_host_bytes: int = 0  # and between waves

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(
            self.rows + other.rows,
            self.bytes + other.bytes,
            self.trunk_bytes + other.trunk_bytes,
            self.held_bytes + other.held_bytes,
            max(self.evidence_bytes, other.evidence_bytes),
            self.host_bytes + other.host_bytes,
            self.held_host_bytes + other.held_host_bytes,
        )


def footprint(
    row: RowBytes,
    points: Sequence[GridPoint],
    *,
    prompt: int,
    visual: int,
    system: int = 0,
    scratch: int = 0,
    further: bool = False,
) -> Footprint:
    """An upper bound: grid points that share a fork are counted apart.

    Args:
        row: bytes of rows in the model.
        points: the grid.
        prompt: tokens of the un-pruned prompt, visual ones included.
        visual: visual tokens among them.
        system: tokens before the image.
        scratch: bytes that strategies choose by, see ``evidence.scratch``.
        further: it asks about an image that another question asks about; rows of this and before it are counted there.
    """
    if further:
        prompt, system = prompt - system, 0
    after = prompt - visual  # rows of a fork beside those that are kept
    own = after if further else prompt  # rows of its trunk
    changes, sequences = [own] + [0] * row.layers, 1  # of the rows before each layer
    starts: dict[int, int] = {}  # fork layer -> rows of the trunk that forks start from
    for point in points:
        stages = [
            stage for stage in evidence.stages_of(point, visual) if stage.layer < row.layers and stage.rank < visual
        ]
        if not stages:
            continue  # answered by the trunk
        sequences += 1
        first, strategy = stages[0], catalog.get(stages[0].strategy)
        kept = visual if strategy.merge or strategy.rows else first.rank
        starts[first.layer] = min(own, starts.get(first.layer, after) + kept)
        rows, shares = 0, further
        for stage in stages:
            shares = shares and not evidence.stage_reads_question(stage)
            kept = 0 if shares else stage.rank
            changes[stage.layer] += kept + after - rows
            rows = kept + after
    layers = list(accumulate(changes[:-1]))
    added = 0 if further else row.added * visual
    before = max(starts, default=0) if row.keeps and not row.away else 0
    held = row.cached * (own * before + system * (row.layers - before)) + row.start * sum(starts.values())
    return Footprint(
        rows=max(layers),
        bytes=row.wave(sum(layers), max(layers), sequences) + added,
        trunk_bytes=row.wave(own * row.layers, own, 1) + added,
        held_bytes=held + added if starts else 0,
        evidence_bytes=scratch if visual else 0,
        host_bytes=row.on_host(sum(layers)),
        held_host_bytes=row.on_host(own * row.layers) if starts else 0,
    )


NOTHING = Footprint(0, 0, 0, 0)


class Room:
    """What is left of a wave's budget as it goes from layer to layer."""

    def __init__(self, budget: Budget, row: RowBytes) -> None:
        """Begin an empty wave.

        Args:
            budget: of the wave, without what is held for others.
            row: bytes of rows in the model.
        """
        self._budget = budget
        self._row = row
        self._layer = 0  # about to run
        self._past = 0  # rows cached so far, summed over the layers
        self._present = 0  # rows of the packing
        self._sequences = 0
        self._later, self._later_cached, self._later_sequences = 0, 0, 0  # of forks that will enter

    def reserve(self, rows: int, layer: int, sequences: int = 1) -> bool:
        """Keep room for a fork that enters before ``layer``; whether there is any."""
        cached = rows * (self._row.layers - layer)
        if not self._fits(0, rows, cached, sequences):
            return False
        self.expect(rows, layer, sequences)
        return True

    def expect(self, rows: int, layer: int, sequences: int = 1) -> None:
        """Keep room for a fork, whether there is any or not."""
        self._later += rows
        self._later_cached += rows * (self._row.layers - layer)
        self._later_sequences += sequences

    def enter(self, rows: int, layer: int, sequences: int = 1) -> None:
        """A fork that room was kept for enters now."""
        self.expect(-rows, layer, -sequences)

    def now(self, layer: int, rows: int, sequences: int) -> None:
        """Before ``layer`` the packing has so many rows and sequences."""
        self._layer, self._present, self._sequences = layer, rows, sequences

    def admit(self, rows: int, layer: int, sequences: int = 1) -> bool:
        """Take a new fork into the packing before ``layer``, if it fits."""
        assert layer == self._layer
        if not self._fits(rows, 0, 0, sequences):
            return False
        self._present += rows
        self._sequences += sequences
        return True

    def ran(self, key_rows: int) -> None:
        """A layer has run and its keys and values stay."""
        self._past += key_rows

    def hold(self, bytes: int) -> None:
        """Something else takes a part of the budget."""
        self._budget = replace(self._budget, bytes=self._budget.bytes - bytes)

    def _fits(self, present: int, later: int, later_cached: int, more: int) -> bool:
        rows = self._present + present + self._later + later
        if rows > self._budget.rows:
            return False
        ahead = (self._present + present) * (self._row.layers - self._layer)
        cached = self._past + ahead + self._later_cached + later_cached
        sequences = self._sequences + self._later_sequences + more
        on_host = self._row.on_host(cached) <= self._budget.host_bytes
        return on_host and self._row.wave(cached, rows, sequences) <= self._budget.bytes


def layers_away(config: ModelConfig, value_bytes: int, offload: int | str, free: int) -> int:
    """Decoder layers that stay in host memory.

    Args:
        config: sizes of the model.
        value_bytes: of one value, 2 in half precision.
        offload: how many, or ``never``, or ``auto``: none where the card holds all, else as many as leave a part of it
            for the waves.
        free: bytes of the card.

    Raises:
        ModelError: there are fewer layers, or the card is too small even for two of them beside the rest.
    """
    if not isinstance(offload, str):
        if not 0 <= offload <= config.layers:
            raise ModelError(f"model.offload: {offload} is outside 0..{config.layers}, the model's decoder layers")
        return offload
    whole, layer = weight_bytes(config, value_bytes), layer_bytes(config, value_bytes)
    if offload == "never" or whole + CONTEXT_BYTES <= FILLED * free:
        return 0
    away = ceil((whole + BUFFERS * layer + CONTEXT_BYTES - (1 - WAVES_SHARE) * free) / layer)
    if away > config.layers:
        least = (whole - (config.layers - BUFFERS) * layer + CONTEXT_BYTES) / (1 - WAVES_SHARE)
        raise ModelError(
            f"a GPU of {free / 2**30:.4g} GiB is too small for this model even with all its layers in host memory: "
            f"that needs {ceil(10 * least / 2**30) / 10:g} GiB; take a larger card or a smaller model"
        )
    return max(away, 0)


def weight_bytes(config: ModelConfig, value_bytes: int) -> int:
    """Of all weights: decoder, embeddings and head, tower and projector."""
    return value_bytes * (config.parameters + 2 * config.vocab * config.hidden + _tower_parameters(config))


def layer_bytes(config: ModelConfig, value_bytes: int) -> int:
    """Of a decoder layer's weights."""
    return value_bytes * config.parameters // config.layers


def resident_bytes(config: ModelConfig, value_bytes: int, away: int) -> int:
    """Of the weights that are on the card, where some layers take turns in buffers."""
    kept = weight_bytes(config, value_bytes) - away * layer_bytes(config, value_bytes)
    return kept + (BUFFERS * layer_bytes(config, value_bytes) if away else 0)


def free_bytes(device: torch.device) -> int:
    """Memory of a card that this process may use, with what it has already; without end where there is none."""
    if device.type != "cuda":
        return sys.maxsize
    free, total = torch.cuda.mem_get_info(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    share = _read_share(index) if _read_share else 1.0
    return int(min(free + torch.cuda.memory_reserved(device), share * total))


def arrange(free: int, host: int, row: RowBytes, streamed: bool) -> tuple[int, RowBytes]:
    """How micro-batches share a card: lanes, and where their caches are.

    Two lanes hide each other's waits; one has twice the memory for its waves. Where even that is too little for the
    caches they go to host memory, if it has room for them, and a wave decodes beside the next one's prefill, which
    hides the copies. So it does where layers are streamed, which one lane at a time can ask for.

    Args:
        free: bytes of the card that all micro-batches may take together.
        host: bytes of host memory that they may take.
        row: bytes of rows in the model.
        streamed: whether layers take turns in buffers.
    """
    if not row.keeps:
        return (1 if streamed else LANES if LANES * row.wave(BUSY_ROWS, BUSY_ROWS, 0) <= free else 1), row
    few, here = (BUSY_ROWS, row.riding(away=False)) if streamed else (FEW_ROWS, row)
    if here.wave(few * row.layers, few, 0) <= free:
        busy = LANES * row.wave(BUSY_ROWS * row.layers, BUSY_ROWS, 0) <= free
        return (LANES if busy and not streamed else 1), here
    away = row.riding(away=True)
    return 1, away if CACHES * away.on_host(FEW_ROWS * row.layers) <= host else here


def lane_budget(free: int, host: int, count: int, row: RowBytes, streamed: bool, learned: float = 1.0) -> Budget:
    """Of a wave in one of the lanes.

    Args:
        free, host, streamed: as of ``arrange``.
        count: lanes.
        row: bytes of rows in the model.
        learned: share of the planned memory that has not been refused.
    """
    rows = ENOUGH_ROWS
    if row.rides:  # the last wave has none to decode beside, so it should be small
        rows = STREAMED_ROWS if streamed else BUSY_ROWS
    return Budget(rows, max(1, int(free // count * learned)), max(1, host // (CACHES * count)))


def _tower_parameters(config: ModelConfig) -> int:
    """Of the vision tower's layers, as far as they are known, and of a projector of two layers."""
    if (vision := config.vision) is None:
        return 0
    layer = 4 * vision.hidden**2 + vision.ffn_matrices * vision.hidden * vision.ffn
    given = vision.hidden * vision.features * vision.merge**2
    inner = config.hidden if vision.merge == 1 or vision.tile else given
    made = (1 + vision.deep) * (given * inner + inner * config.hidden)
    return vision.stored_layers * layer + vision.positions * vision.hidden + made


def budget_bytes(device: torch.device, resident: int) -> int:
    """Memory that all micro-batches under way may take together; without end where it is not the device's to plan.

    Args:
        device: where the model is.
        resident: bytes that stay allocated, the weights.
    """
    if device.type != "cuda":
        return sys.maxsize
    return int(SAFETY * (free_bytes(device) - resident - WORKSPACE_BYTES))


def expandable_segments() -> None:
    """Let PyTorch's allocator grow what it has instead of asking for more beside it, unless the user says otherwise.

    Waves and layers have rows of many numbers, so blocks that are free are seldom of a size that is asked for. To be
    called before anything is allocated on a GPU, which is when it is read.
    """
    newer = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 9)
    name = "PYTORCH_ALLOC_CONF" if newer else "PYTORCH_CUDA_ALLOC_CONF"
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        os.environ[name] = "expandable_segments:True"


def share_gpu(share: float) -> None:
    """Let this process allocate no more than a part (0 .. 1) of its GPU's memory, because others use the rest."""
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


_read_share = getattr(torch.cuda.memory, "get_per_process_memory_fraction", None)  # torch 2.8 and newer
