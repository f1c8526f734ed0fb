"""What there is to prune by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def strategies() -> pd.DataFrame:
    """All strategies, one a row: name, family, what it reads, where it acts, parameters with defaults, source.

    Those of installed packages are among them. `saccade strategies NAME` on the command line shows one in full.
    """
    import pandas as pd

    from orchestrator.listing import StrategyRow, every_strategy, strategy_rows

    return pd.DataFrame(strategy_rows(every_strategy()[0]), columns=StrategyRow._fields)
