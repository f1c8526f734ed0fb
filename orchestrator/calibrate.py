"""FitPrune's calibration as lines for the grid of a sweep file. Without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from orchestrator.sweep.prepare import Prepared
from orchestrator.sweep.spec import SpecError
from workers.calibration import Fitted, calibrate
from workers.encoding import encode_sample
from workers.families.catalog import load_model
from workers.families.model import default_device


def calibrated(
    prepared: Prepared, budgets: Sequence[int], questions: int, progress: Callable[[float], None] = lambda share: None
) -> Iterator[str]:
    """The lines, one a budget, behind one that says what they were found on.

    Args:
        prepared: a sweep: its model, its benchmark and how that is asked.
        budgets: average visual tokens of a layer.
        questions: how many to calibrate on: the first with an image.
        progress: see `workers.calibration.calibrate`.

    Raises:
        SpecError: no question has an image, or the model's images differ in their tokens.
        UsageError: a budget cannot be met.
        ModelError, DataError: the model or an image cannot be read.
    """
    spec = prepared.spec.engine
    if prepared.spec.config.varies:
        raise SpecError(f"{spec.model.path}: its images differ in their tokens, and fitprune drops the same of each")
    asked = [sample for sample in prepared.samples if len(sample.images) == 1][:questions]
    if not asked:
        raise SpecError(f"{prepared.spec.name}: no question has one image, so that nothing is pruned")
    model = load_model(spec.model, default_device())
    prompts = [encode_sample(model, sample, spec.task, spec.model.image_mode) for sample in asked]
    found = calibrate(model, prompts, budgets, progress)
    yield f"  # fitprune of {spec.model.path}, on {len(asked)} questions of {spec.task.name} in {spec.task.data}"
    yield from map(_line, found)


def _line(fitted: Fitted) -> str:
    left = "-".join(map(str, fitted.left))
    point = f'strategy: fitprune, layer: {fitted.layer}, rank: {fitted.rank}, left: "{left}"'
    return f"  - {{{point}}}     # {fitted.average:.4g} on average; {100 * fitted.share:.3g} % of the attention may go"
