"""A pruned model as other harnesses want one: a question and its images in, a text out. Knows no harness."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from strategies.errors import UsageError
from strategies.suggestion import near
from workers.families.catalog import load_model, open_checkpoint
from workers.families.model import Encoded, default_device
from workers.patch import pruned
from workers.tasks.prompts import CHAT_TEMPLATE, CONVERSATION_MODES, CONVERSATIONS, IMAGE_MARKER, before
from workers.work import UNPRUNED, ModelSpec

GENERATION = ("do_sample", "temperature", "top_p", "num_beams")  # what is passed on to transformers' generate


class PrunedModel:
    """A checkpoint that drops visual tokens while transformers' own ``generate`` runs (`workers.patch`)."""

    def __init__(
        self,
        pretrained: str,
        *,
        strategy: str = UNPRUNED,
        layer: int = 2,
        rank: int | str | None = None,
        tokens: float | str | None = None,
        seed: int = 0,
        dtype: str | None = None,
        device: str | None = None,
        base: str | None = None,
        vision_tower: str | None = None,
        image_mode: str = "auto",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_tiles: int | None = None,
        conversation: str = "auto",
        **params: Any,
    ) -> None:
        """Load, and refuse at once what cannot work.

        Args:
            pretrained: checkpoint directory, or a hub id in the local cache.
            strategy: a name of ``strategies.catalog``; ``none`` is the un-pruned model.
            layer: K, decoder layers that run on the whole sequence.
            rank, tokens: what is kept, as ``workers.patch.pruned`` takes it.
            seed: of strategies that draw; a draw also depends on the question and its image.
            dtype: None: bfloat16 on CUDA, else float32.
            device: as torch names it; None: a GPU if there is one.
            base: of an adapter, the model that it changes.
            vision_tower: of LLaVA's own form, where its config.json does not say it right.
            image_mode: one of the checkpoint's; auto: what it was made with.
            min_pixels, max_pixels: of an image, where the model looks at each in its own size.
            max_tiles: of an image, where the model cuts images into tiles.
            conversation: vicuna_v1, llava_v1 or chat_template; auto: as the checkpoint was trained.
            params: the strategy's own parameters, and ``positions``, keep or compact.

        Raises:
            UsageError: a setting is unknown or does not fit the model.
            ModelError: the checkpoint cannot be used.
        """
        _known("conversation", conversation, ("auto", *CONVERSATION_MODES))
        device = device or default_device()
        dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
        spec = ModelSpec(
            path=pretrained,
            dtype=dtype,
            base=base,
            vision_tower=vision_tower,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            max_tiles=max_tiles,
        )
        checkpoint = open_checkpoint(spec)
        _known("image_mode", image_mode, ("auto", *checkpoint.image_modes))
        self._image_mode = checkpoint.image_mode if image_mode == "auto" else image_mode
        # transformers' forward needs all layers there
        self.model = load_model(replace(spec, image_mode=self._image_mode, offload="never"), device)
        self._conversation = checkpoint.conversation if conversation == "auto" else conversation
        asked = {"strategy": strategy, "layer": layer, "rank": rank, "tokens": tokens}
        self._pruning = None if strategy == UNPRUNED else {**asked, **params}
        self._seed = seed
        if self._pruning is None and params:
            raise UsageError(f"{next(iter(params))}: the un-pruned model takes no such setting; give strategy=NAME")
        self._encode("What is it?", [Image.new("RGB", (8, 8))])
        with self._pruned():
            pass  # what cannot be asked or pruned is refused before the first question

    @torch.inference_mode()
    def answer(
        self,
        question: str,
        images: Sequence[Image.Image],
        *,
        max_new_tokens: int,
        until: Sequence[str] = (),
        **how: Any,
    ) -> str:
        """Answer one question.

        Args:
            question: its text. Of several images it may say by image markers where they go; else they stand before it.
            images: RGB, in order.
            max_new_tokens: the first included.
            until: the answer ends before the first of these texts.
            how: of GENERATION, for transformers' ``generate``; greedy without them.

        Raises:
            UsageError: there are videos, or other images than places for them.
        """
        if not all(isinstance(image, Image.Image) for image in images):
            raise UsageError("the question has a video, or what is no image; images are supported")
        places, text = question.count(IMAGE_MARKER), question.strip()
        if len(images) < 2:
            text = question.replace(IMAGE_MARKER, "").strip()
        elif places not in (0, len(images)):
            raise UsageError(f"the question has {places} places for images, and there are {len(images)} images")
        prompt = self._encode(text, [image.convert("RGB") for image in images])
        module, inputs = self.model.module, self.model.inputs(prompt)
        with self._pruned():
            made = module.generate(
                **inputs,
                attention_mask=torch.ones_like(inputs["input_ids"]),
                max_new_tokens=max_new_tokens,
                pad_token_id=min(self.model.end_tokens),
                **_generation(how),
            )
        answer = str(self.model.tokenizer.decode(made[0, prompt.length :].tolist(), skip_special_tokens=True))
        for stop in until:
            answer = answer.partition(stop)[0] if stop else answer
        return answer.strip()

    def _encode(self, question: str, images: Sequence[Image.Image]) -> Encoded:
        if self._conversation == CHAT_TEMPLATE:
            prompt = self.model.chat(question, len(images))
        else:
            marked = question if IMAGE_MARKER in question else before(question, len(images))
            prompt = CONVERSATIONS[self._conversation].format(question=marked)
        return self.model.encode(prompt, images, self._image_mode, whole=self._conversation == CHAT_TEMPLATE)

    def _pruned(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._pruning is None else pruned(self.model.module, seed=self._seed, **self._pruning)


def _known(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name}: '{value}' is unknown{near(value, known)} (known: {', '.join(known)})")


def _generation(how: dict[str, Any]) -> dict[str, Any]:
    """Settings of ``generate``; sampling only where a temperature above 0 asks for it."""
    chosen = {name: how[name] for name in GENERATION if how.get(name) is not None}
    sampled = chosen.pop("do_sample", True) and float(chosen.get("temperature", 0)) > 0
    if not sampled:
        chosen = {name: value for name, value in chosen.items() if name == "num_beams"}
    return {**chosen, "do_sample": bool(sampled)}
