"""The papers' table of a suite with what was asked for beside it: one computation for command, page and report."""

from __future__ import annotations

from collections.abc import Sequence

from results.analysis.benchmark_table import REPLICATES, BenchmarkTable, benchmark_table
from results.analysis.printed_costs import with_costs
from results.analysis.published import with_band, with_published
from results.suites import LeftOut, Results


def suite_table(
    found: Sequence[Results],
    left_out: Sequence[LeftOut] = (),
    *,
    against: str | None = None,
    published: str | None = None,
    cost: bool = False,
    replicates: int = REPLICATES,
) -> BenchmarkTable:
    """Put a suite's experiments, or some of one grid, side by side.

    Args:
        found: Experiments.
        left_out: What models cannot run.
        against: A method that all others are held against at each budget.
        published: A lineage of printed figures that stands beside ours.
        cost: Whether to add columns of cost.
        replicates: Of the bootstrap.

    Raises:
        UsageError: No grid point is of ``against``, or ``published`` has no figures of these models and benchmarks.
    """
    return with_asked(benchmark_table(found, against, left_out, replicates), found, published=published, cost=cost)


def with_asked(
    table: BenchmarkTable, found: Sequence[Results], *, published: str | None = None, cost: bool = False
) -> BenchmarkTable:
    """`suite_table` of a table of ``found`` that has been made already, which is what takes long."""
    table = with_band(table, found)
    table = with_costs(table, found) if cost else table
    return table if published is None else with_published(table, found, published)
