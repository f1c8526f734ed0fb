"""What is known of methods by their names alone, for who shows results and has no use for torch.

`tests/test_strategies_catalog.py` holds it against the catalog.
"""

from __future__ import annotations

KEEP_NOTHING = frozenset({"cutoff", "vtw"})
STAGED = frozenset({"fitprune", "himap", "pyramiddrop", "sparsevlm", "sparsevlm_plus", "v2drop", "vscan"})
PUBLISHED = frozenset({  # by their authors at ranks of a list, some with parameters that go with each
    "cdpruner", "dart", "divprune", "fastervlm", "fastv", "fitprune", "himap", "hiprune", "holov", "prumerge",
    "prumerge_plus", "prunesid", "prunesid_drawn", "pyramiddrop", "scope", "sparsevlm", "sparsevlm_plus", "trim",
    "v2drop", "visionzip", "vispruner", "vscan",
})  # fmt: skip
