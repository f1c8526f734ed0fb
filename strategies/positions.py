"""Position ids of what is kept: the original ones, gaps and all, or renumbered as if nothing had been there.

Each method has its own, and any grid point may say otherwise, because papers differ in it as much as in their rules.
Renumbering ends every gap that there is, also those that an earlier stage left; keys of the layers before stay as they
were computed. A decoded token goes on after the last of the prompt's ids in each layer.
"""

from __future__ import annotations

from typing import Literal

Positions = Literal["keep", "compact"]
