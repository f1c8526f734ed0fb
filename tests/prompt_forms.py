"""A benchmark's options of which a test needs the prompt's alone."""

from __future__ import annotations

from workers.work import TaskSpec


def prompt_form(conversation: str = "vicuna_v1", single_prediction: bool = True) -> TaskSpec:
    return TaskSpec(name="scienceqa", data="/nowhere", conversation=conversation, single_prediction=single_prediction)
