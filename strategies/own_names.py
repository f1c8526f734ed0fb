"""How rules of a user's own files are called. Nothing but Python is needed here: who only reads names runs no rule."""

from __future__ import annotations


def in_file(name: str) -> bool:
    """Whether a strategy is a rule of a user's own file, such as ``my_rule.py:my_rule``."""
    return ".py:" in name
