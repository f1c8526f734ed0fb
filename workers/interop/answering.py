"""A pruned LLaVA as other harnesses want a model: a question and an image in, a text out. Knows no harness."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from PIL import Image

from strategies.suggestion import near
from workers.checkpoints.layout import open_checkpoint
from workers.images import SQUARE_MODES, to_pixels
from workers.llava import Llava, Prompt
from workers.loading import default_device, load_llava
from workers.patch import pruned
from workers.tasks.prompts import CHAT_TEMPLATE, CONVERSATION_MODES, CONVERSATIONS, IMAGE_MARKER
from workers.work import BASELINE, ModelSpec

GENERATION = ("do_sample", "temperature", "top_p", "num_beams")  # what is passed on to transformers' generate


class PrunedModel:
    """A checkpoint that drops visual tokens while transformers' own ``generate`` runs (`workers.patch`)."""

    def __init__(
        self,
        pretrained: str,
        *,
        strategy: str = BASELINE,
        layer: int = 2,
        rank: int = 128,
        seed: int = 0,
        dtype: str | None = None,
        device: str | None = None,
        base: str | None = None,
        vision_tower: str | None = None,
        image_mode: str = "auto",
        conversation: str = "vicuna_v1",
        **params: Any,
    ) -> None:
        """Load, and refuse at once what cannot work.

        Args:
            pretrained: checkpoint directory, or a hub id in the local cache.
            strategy: a name of ``strategies.catalog``; ``none`` is the un-pruned model.
            layer: K, decoder layers that run on the whole sequence.
            rank: visual tokens kept.
            seed: of strategies that draw; a draw also depends on the question and its image.
            dtype: None: bfloat16 on CUDA, else float32.
            device: as torch names it; None: a GPU if there is one.
            base: of an adapter, the model that it changes.
            vision_tower: of LLaVA's own form, where its config.json does not say it right.
            image_mode: pad or crop; auto: what the checkpoint was made with.
            conversation: vicuna_v1, llava_v1 or chat_template.
            params: the strategy's own parameters.

        Raises:
            ValueError: a setting is unknown or does not fit the model.
            ModelError: the checkpoint cannot be used.
        """
        modes = ("auto", *SQUARE_MODES)
        for name, value, known in (
            ("conversation", conversation, CONVERSATION_MODES),
            ("image_mode", image_mode, modes),
        ):
            if value not in known:
                raise ValueError(f"{name}: '{value}' is unknown{near(value, known)} (known: {', '.join(known)})")
        device = device or default_device()
        dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
        spec = ModelSpec(path=pretrained, dtype=dtype, base=base, vision_tower=vision_tower)
        checkpoint = open_checkpoint(spec)
        if checkpoint.facts.tiling is not None:
            raise ValueError(f"pretrained: {pretrained} cuts images into tiles; only models of one square are offered")
        self.llava: Llava = load_llava(spec, device)
        self._image_mode = checkpoint.image_mode if image_mode == "auto" else image_mode
        self._conversation = conversation
        self._pruning = None if strategy == BASELINE else {"strategy": strategy, "layer": layer, "rank": rank, **params}
        self._seed = seed
        if self._pruning is None and params:
            raise ValueError(f"{next(iter(params))}: the un-pruned model takes no such setting; give strategy=NAME")
        self._encode("What is it?", True)
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
            question: its text; an image marker in it is taken out and put in front.
            images: none or one.
            max_new_tokens: the first included.
            until: the answer ends before the first of these texts.
            how: of GENERATION, for transformers' ``generate``; greedy without them.

        Raises:
            ValueError: there are several images.
        """
        if len(images) > 1:
            raise ValueError(f"the question has {len(images)} images; one is supported")
        text = question.replace(IMAGE_MARKER, "").strip()
        expanded = self._encode(text, bool(images)).expanded(self.llava.image_token, self.llava.visual_tokens)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([expanded], device=self.llava.device)}
        if images:
            pixels_PP = to_pixels(images[0].convert("RGB"), self._image_mode, self.llava.image_processor)
            inputs["pixel_values"] = pixels_PP[None].to(self.llava.device, self.llava.model.dtype)
        model: Any = self.llava.model
        with self._pruned():
            made = model.generate(
                **inputs,
                attention_mask=torch.ones_like(inputs["input_ids"]),
                max_new_tokens=max_new_tokens,
                pad_token_id=min(self.llava.end_tokens),
                **_generation(how),
            )
        answer = str(self.llava.tokenizer.decode(made[0, len(expanded) :].tolist(), skip_special_tokens=True))
        for stop in until:
            answer = answer.partition(stop)[0] if stop else answer
        return answer.strip()

    def _encode(self, question: str, image: bool) -> Prompt:
        if self._conversation == CHAT_TEMPLATE:
            return self.llava.encode(self.llava.chat(question, image), whole=True)
        marked = f"{IMAGE_MARKER}\n{question}" if image else question
        return self.llava.encode(CONVERSATIONS[self._conversation].format(question=marked))

    def _pruned(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._pruning is None else pruned(self.llava.model, seed=self._seed, **self._pruning)


def _generation(how: dict[str, Any]) -> dict[str, Any]:
    """Settings of ``generate``; sampling only where a temperature above 0 asks for it."""
    chosen = {name: how[name] for name in GENERATION if how.get(name) is not None}
    sampled = chosen.pop("do_sample", True) and float(chosen.get("temperature", 0)) > 0
    if not sampled:
        chosen = {name: value for name, value in chosen.items() if name == "num_beams"}
    return {**chosen, "do_sample": bool(sampled)}
