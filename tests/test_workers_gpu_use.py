"""How busy a GPU is, as its driver says."""

from __future__ import annotations

import threading

import torch

from workers.gpu_use import BusyWatch, driver_of


def test_the_share_is_the_mean_of_what_the_driver_says_in_between() -> None:
    asked, said = threading.Event(), iter((0.25, 0.75))

    def ask() -> float:
        value = next(said, 0.5)
        if value == 0.5:
            asked.set()
        return value

    watch = BusyWatch(ask, every_s=0.001)
    watch.start()
    assert asked.wait(60)
    assert watch.stop() == 0.5
    assert watch.stop() == 0.5  # asked twice it says the same


def test_a_driver_that_does_not_say_it_costs_nothing() -> None:
    def ask() -> float:
        raise OSError("not of a part of a card")

    for watch in (BusyWatch(ask), BusyWatch(driver_of(torch.device("cpu")))):
        watch.start()
        assert watch.stop() is None
