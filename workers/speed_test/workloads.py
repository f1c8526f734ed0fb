"""The grids that the benchmark measures, and the least arithmetic that each of them needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from strategies import catalog
from workers.families.config import ModelConfig
from workers.work import GridPoint, MeasureSpec, SampleOutcome, Scalar, SpectrumSpec, unpruned_point

FULL = 576  # ranks are named for LLaVA-1.5's visual tokens and scaled to the model's
BUDGETS = {192: 166, 128: 98, 64: 30}  # average visual tokens over 32 layers -> kept from layer 2 on
TOWER_METHODS = (
    *("fastervlm", "visionzip", "vispruner", "cdpruner", "trim", "prumerge", "prumerge_plus", "holov", "scope"),
    *("hiprune", "prunesid", "vscan_tower"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A grid with a name; its last point is the un-pruned model."""

    name: str
    what: str
    points: tuple[GridPoint, ...]
    measure: MeasureSpec = field(default_factory=MeasureSpec)


def make_workloads(layers: int, heads: int, visual: int) -> dict[str, Workload]:
    """The workloads for a model with so many decoder layers, query heads and visual tokens."""
    pruning_layer = min(2, layers)
    cutoffs = [GridPoint(strategy="cutoff", layer=layer, rank=0) for layer in range(pruning_layer, layers)]
    ranks = dict.fromkeys(scaled(rank, visual) for rank in range(576, 15, -10))
    ladder = [GridPoint(strategy="fastv", layer=pruning_layer, rank=rank) for rank in ranks]
    weighted = [GridPoint(strategy="text_weighted", layer=pruning_layer, rank=rank) for rank in ranks]
    choices = _strategies(heads)
    forks = [
        GridPoint(strategy=name, layer=pruning_layer, rank=scaled(rank, visual), params=tuple(params.items()))
        for rank in BUDGETS.values()
        for name, params in choices
    ]

    def grid(alphas: int, step: int, deep: int) -> list[GridPoint]:
        """Alphas 0..1, ranks 576, 576 - step, ..., and so many layers from the pruning layer on."""
        return [
            GridPoint(
                strategy="weighted_combination",
                layer=layer,
                rank=rank,
                params=(("alpha", round(alpha / (alphas - 1), 4)),),
            )
            for layer in range(pruning_layer, min(pruning_layer + deep, layers))
            for alpha in range(alphas)
            for rank in dict.fromkeys(scaled(rank, visual) for rank in range(576, 0, -step))
        ]

    towers = [
        GridPoint(strategy=name, layer=0, rank=scaled(rank, visual)) for name in TOWER_METHODS for rank in BUDGETS
    ]
    one = [GridPoint(strategy="fastv", layer=pruning_layer, rank=scaled(128, visual))]
    baseline = unpruned_point(layers, visual)
    named = "; ".join(_label(name, params) for name, params in choices)
    budgets = ", ".join(str(scaled(rank, visual)) for rank in BUDGETS.values())
    last = SpectrumSpec(matrix="attention_weights", layer=layers - 1, threshold=1e-6, power=2)
    measures = {"spectra": MeasureSpec(spectra=(last,))}
    return {
        name: Workload(
            name=name,
            what=f"{what} + un-pruned",
            points=(*points, baseline),
            measure=measures.get(name, MeasureSpec()),
        )
        for name, what, points in (
            ("cutoffs", f"{len(cutoffs)} cut-offs, rank 0, layers {pruning_layer}..{layers - 1}", cutoffs),
            ("ranks", f"{len(ladder)} ranks {max(ranks)}..{min(ranks)}, fastv, layer {pruning_layer}", ladder),
            (
                "spectra",
                f"{len(weighted)} ranks, text_weighted, layer {pruning_layer}, spectra of the last layer's attention",
                weighted,
            ),
            (
                "strategies",
                f"{len(choices)} strategies x ranks {budgets} at layer {pruning_layer} "
                f"(averages {'/'.join(map(str, BUDGETS))} of 32 layers): {named}",
                forks,
            ),
            (
                "towers",
                f"{len(TOWER_METHODS)} methods before the decoder x ranks "
                f"{', '.join(str(scaled(rank, visual)) for rank in BUDGETS)}: {', '.join(TOWER_METHODS)}",
                towers,
            ),
            ("one", f"fastv, rank {one[0].rank}, layer {pruning_layer}", one),
            ("grid", f"20 alphas x 29 ranks, weighted_combination, layer {pruning_layer}", grid(20, 20, 1)),
            ("grid3000", "15 alphas x 20 ranks x 10 layers, weighted_combination", grid(15, 29, 10)),
        )
    }


def scaled(rank: int, visual: int) -> int:
    """A rank of LLaVA-1.5 for a model with another number of visual tokens."""
    return rank * visual // FULL


def _strategies(heads: int) -> list[tuple[str, dict[str, Scalar]]]:
    """18 rules that score differently and so keep different tokens: 17 read attention, one draws.

    Left out: names of one rule (``avg_all_heads`` is ``fastv``; ablations that coincide, see their remark), methods
    that act before the decoder only, and the greedy choices on features, which score nothing.
    """
    half = max(1, heads // 2)
    head_rules = ("sum", "variance", "entropy", "max_attention", "sparsity", "gini_coefficient")
    query_rules = ("last_n_tokens", "last_5_tokens", "weighted_recent", "attention_weighted")
    plain = "fastv max_head weighted_combination text_weighted text_weighted_max_head text_sum image_column_sum random"
    chosen: list[tuple[str, dict[str, Scalar]]] = [(name, {}) for name in plain.split()]
    chosen += [("ablation", {"heads_kept": half, "head": rule}) for rule in head_rules]
    chosen += [("ablation", {"heads_kept": half, "head": "variance", "query": rule}) for rule in query_rules]
    return chosen


def _label(name: str, params: Mapping[str, object]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in params.items())])


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSizes:
    """Parameters of one decoder layer's linear maps."""

    layers: int
    keys_values: int  # needed for every row of every layer
    others: int  # query, output, feed-forward: in the last layer needed for the last row only

    @classmethod
    def of(cls, config: ModelConfig) -> LinearSizes:
        keys_values = 2 * config.hidden * config.kv_heads * config.head_dim
        return cls(
            layers=config.layers, keys_values=keys_values, others=config.parameters // config.layers - keys_values
        )

    def rows_flop(self, rows: int, first_layer: int) -> int:
        """Of rows that exist from ``first_layer`` on and are only attended to in the last one."""
        inner = max(0, self.layers - 1 - first_layer)
        return 2 * (inner * rows * (self.keys_values + self.others) + rows * self.keys_values)

    def prefill_flop(self, rows: int, first_layer: int) -> int:
        """Of rows that exist from ``first_layer`` on and answer with their last one."""
        return self.rows_flop(rows, first_layer) + 2 * self.others

    def decode_flop(self, steps: int) -> int:
        return 2 * steps * self.layers * (self.keys_values + self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """What the cells of a workload need at least, nothing computed twice."""

    sequences: int  # different continuations, the un-pruned one of each sample included
    rows: int  # summed over the layers
    prefill_flop: int
    decode_flop: int


def needed(
    sizes: LinearSizes,
    points: Sequence[GridPoint],
    cells: Iterable[SampleOutcome],
    system: Mapping[str, int],
    images: Mapping[str, str] | None = None,
) -> Needed:
    """Count the decoder's linear maps for the tokens that were really kept; points with equal tokens count once.

    Attention, the vision tower, the scores, the head over the vocabulary, and the rows before the image, which are the
    same for all samples, are left out, so a share of the matmul ceiling computed from this is a lower bound.

    Args:
        sizes: of the model.
        points: the grid, each pruning at one layer.
        cells: what the engine answered.
        system: per sample the tokens before the image.
        images: per sample which one it shows; the same tokens of one image then count once. None: none is shown twice.
    """
    of_key = {point.key: point for point in points}
    text: dict[tuple, tuple[int, int, int]] = {}  # what a sample goes on with -> its own rows, first layer, steps
    visual: dict[tuple, tuple[int, int]] = {}  # what is kept of an image -> rows, first layer
    for cell in cells:
        point, kept = of_key[cell.point], tuple[object, ...]()
        first = 0
        if cell.tokens_kept < cell.visual_tokens and point.layer < sizes.layers:
            strategy = catalog.get(point.strategy)
            assert strategy.schedule is None, "a method of several stages has no single first layer"
            positions = point.positions or strategy.positions
            kept = (first := point.layer, cell.kept_mask, positions, strategy.merge, strategy.rows)
        shown = images[cell.sample] if images else cell.sample
        visual[shown, *kept] = (cell.tokens_kept, first)
        rows = cell.prompt_tokens - cell.visual_tokens - system[cell.sample]
        text[cell.sample, *kept] = (rows, first, cell.decoded_tokens - 1)
    runs = [*visual.values(), *((rows, first) for rows, first, _ in text.values())]
    return Needed(
        sequences=len(text),
        rows=sum(rows * (sizes.layers - first) for rows, first in runs),
        prefill_flop=sum(sizes.rows_flop(rows, first) for rows, first in runs) + 2 * sizes.others * len(text),
        decode_flop=sum(sizes.decode_flop(steps) for _, _, steps in text.values()),
    )
