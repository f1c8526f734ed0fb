"""How rules and benchmarks of a user's own files are called. Python alone is needed here: who reads names runs none."""

from __future__ import annotations


def in_file(name: str) -> bool:
    """Whether it is of a user's own file, such as ``my_rule.py:my_rule``."""
    return ".py:" in name
