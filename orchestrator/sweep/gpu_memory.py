"""How a sweep takes a GPU's memory: whether it fits at all, what it takes at most, and in how many waves."""

from __future__ import annotations

from math import ceil

from orchestrator.cluster.faults import SweepError
from orchestrator.sweep.plan import prompt_lengths, questions_per_image
from orchestrator.sweep.prepare import Prepared
from results.wording import plural
from workers.forecast import Forecast, forecast
from workers.host_memory import cache_bytes

VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GIB = 1 << 30


def card_bytes(gib: float | None) -> int | None:
    """Memory of the card that is asked about, else of the first one here; None where there is neither."""
    if gib is not None:
        return int(gib * GIB)
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def memory_forecast(prepared: Prepared, memory: int) -> Forecast:
    """What the longest of the sweep's prompts asks of a card with so many bytes."""
    spec = prepared.spec
    known = prepared.visual.of if prepared.visual.every else {}  # else one of the largest may come
    lengths = (prompt_lengths(sample, spec.config, spec.engine.task, known) for sample in prepared.samples)
    system, visual, text = max(lengths, key=sum)
    return forecast(
        spec.config,
        spec.points,
        memory,
        host=cache_bytes(),
        prompt=system + visual + text,
        visual=visual,
        system=system,
        value_bytes=VALUE_BYTES[spec.engine.model.dtype],
        max_new_tokens=spec.engine.max_new_tokens,
        samples=len(prepared.samples),
        questions=questions_per_image(prepared.samples),
        offload=spec.engine.model.offload,
    )


def memory_text(found: Forecast, memory: int) -> str:
    """For people.

    Raises:
        SweepError: The sweep does not fit a card of that size.
    """
    size = f"{memory / GIB:.4g} GiB"
    if found.least > memory:
        larger = ceil(10 * found.least / GIB) / 10
        raise SweepError(
            f"a GPU of {size} is too small: weights of {found.weights / GIB:.1f} GiB, one prompt and one fork need "
            f"{larger:g} GiB; take a larger card, a smaller model or, with float32, model.dtype=bfloat16"
        )
    side = "" if found.lanes == 1 else f"{found.lanes} x "
    of = f"{found.weights / GIB:.1f} of them weights"
    if found.away:
        of += f" ({plural(found.away, 'decoder layer')}, {found.away_bytes / GIB:.1f} GiB, in host memory)"
    caches = f"; keys and values in up to {found.host / GIB:.1f} GiB of host memory" if found.host else ""
    return (
        f"at most {found.peak / GIB:.1f} of {size} on a GPU, {of}: "
        f"{side}{plural(found.samples, 'sample')} at a time, in {plural(found.waves, 'wave')}{caches}"
    )
