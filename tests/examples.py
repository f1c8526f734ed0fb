"""How many examples a slow property is tried on: few by `make test`, many by `make fuzz`."""

from hypothesis import settings

USUAL = 100  # of Hypothesis's own profile


def few(count: int) -> int:
    """So many, unless a profile asks for more than usual."""
    asked: int = settings.default.max_examples
    return count if asked <= USUAL else asked
