"""Where choices lie once all have chosen: on the host, and what was there from the beginning waited for no device."""

from __future__ import annotations

import torch

from strategies import catalog
from strategies.stages import Stage
from workers.forks import _Choice, _on_host
from workers.sequences import new_prefix


class OnDevice(torch.Tensor):
    """What a GPU would hold; counts how often the host asks for it."""

    copies = 0

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        OnDevice.copies += 1
        return self.as_subclass(torch.Tensor)


def test_the_host_waits_once_and_only_for_what_lies_on_a_device() -> None:
    sequences = [new_prefix(torch.arange(4)[None], visual=3, sample=sample) for sample in range(2)]
    stages = [Stage("cutoff", 1, 0, ()), Stage("fastv", 1, 2, ()), Stage("fastv", 1, 3, ())]
    there = [_Choice(catalog.get("cutoff"), torch.arange(0), None) for _ in sequences]
    OnDevice.copies = 0
    kept = {sequence: {stages[0]: one} for sequence, one in zip(sequences, there, strict=True)}
    found = _on_host(kept)
    assert OnDevice.copies == 0
    assert all(found[sequence][stages[0]] is one for sequence, one in zip(sequences, there, strict=True))
    for sequence in sequences:
        for stage in stages[1:]:
            kept_K = torch.arange(stage.rank).add(10 * sequence.sample).as_subclass(OnDevice)
            kept[sequence][stage] = _Choice(catalog.get("fastv"), kept_K, None)
    found = _on_host(kept)
    assert OnDevice.copies == 1
    for sequence in sequences:
        for stage in stages[1:]:
            assert found[sequence][stage].kept_K.tolist() == [10 * sequence.sample + k for k in range(stage.rank)]
        assert found[sequence][stages[0]].kept_K.tolist() == []
