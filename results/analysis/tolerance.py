"""Which grid points lose little enough to be recommended: one criterion for the pages and `saccade compare`."""

from __future__ import annotations

import pandas as pd

TOLERATED_LOSS = 0.01  # of accuracy, against the un-pruned model on the same questions
CRITERION = f"lose at most {100 * TOLERATED_LOSS:g} percentage point of accuracy"


def loses_little(rows: pd.DataFrame) -> pd.Series:
    """Whether the observed loss of each row is tolerated and nothing about it is suspicious.

    Args:
        rows: Of `results.analysis.metrics.summarise`. False where nothing has been compared.
    """
    return (rows["difference"] >= -TOLERATED_LOSS - 1e-12) & (rows["flags"] == "")


def surely(rows: pd.DataFrame) -> int:
    """Of how many rows the whole 95 % interval lies above the tolerated loss."""
    return int((rows["diff_low"] >= -TOLERATED_LOSS).sum())
