"""CLIP's text tower, and what brings states of its image tower into the space that the two share.

For strategies that compare the question with the image by CLIP. It is named in the sweep (``model.text_tower``), is no
part of a LLaVA, and is loaded only where a grid point reads it.

Shape letters: N squares, P patches, C width of the image tower, S segments of a text, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from workers.checkpoints.files import weight_files
from workers.checkpoints.settings import read_json
from workers.checkpoints.tensors import first_line, stored_tensors
from workers.families.config import ModelError

WHOLE, NORM = "text_model.", "vision_model.post_layernorm."
PROJECTIONS = ("text_projection.weight", "visual_projection.weight", f"{NORM}weight", f"{NORM}bias")


class TextTower:
    """A loaded text tower with both projections."""

    def __init__(self, text_model: Any, tokenizer: Any, projections: dict[str, Tensor], norm_eps: float) -> None:
        """Take over what was loaded.

        Args:
            text_model: transformers' CLIPTextModel.
            tokenizer: its own.
            projections: the tensors of ``PROJECTIONS``.
            norm_eps: of the norm behind the image tower.
        """
        self._model, self._tokenizer = text_model.eval(), tokenizer
        self._projections, self._norm_eps = projections, norm_eps
        self.longest: int = text_model.config.max_position_embeddings

    @property
    def nbytes(self) -> int:
        """Of all that it holds."""
        return sum(one.nbytes for one in (*self._model.parameters(), *self._projections.values()))

    def embeddings(self, texts: Sequence[str]) -> list[Tensor]:
        """(1 + S, E) float32 of each text: cut to what CLIP reads, and its S segments of that length.

        The cut text keeps its end mark. A segment is pooled where its largest id stands, as transformers pools the
        original CLIP: the end mark, or the begin mark of a first segment without one, or any word of a later one.
        """
        ids = [self._tokenizer(text)["input_ids"] for text in texts]
        cut = [self._tokenizer(text, truncation=True, max_length=self.longest)["input_ids"] for text in texts]
        rows = [
            [short, *(whole[first : first + self.longest] for first in range(0, len(whole), self.longest))]
            for short, whole in zip(cut, ids, strict=True)
        ]
        places = {row: place for place, row in enumerate(dict.fromkeys(tuple(row) for some in rows for row in some))}
        padded_NS = torch.tensor([[*row, *[0] * (self.longest - len(row))] for row in places])
        known_NE = self._pooled(padded_NS.to(self._model.device))
        return [known_NE[[places[tuple(row)] for row in some]] for some in rows]

    def _pooled(self, ids_NS: Tensor) -> Tensor:
        states_NSC = self._model(input_ids=ids_NS).last_hidden_state
        pooled_NC = states_NSC[torch.arange(len(ids_NS), device=ids_NS.device), ids_NS.argmax(dim=1)]
        return (pooled_NC @ self._projections["text_projection.weight"].T).float()

    def image_embeddings(self, states_NPC: Tensor) -> Tensor:
        """(N, P, E) of states of the image tower: its last norm, and its projection."""
        weight, bias = (self._projections[f"{NORM}{name}"] for name in ("weight", "bias"))
        normed_NPC = layer_norm(states_NPC, weight.shape, weight, bias, self._norm_eps)
        return normed_NPC @ self._projections["visual_projection.weight"].T


def load_text_tower(folder: Path, dtype: torch.dtype, device: str | torch.device) -> TextTower:
    """Load the text half of a CLIP checkpoint.

    Args:
        folder: of a whole CLIP in Hugging Face's form.
        dtype: of weights and computation.
        device: where it is to be.

    Raises:
        ModelError: the folder holds no CLIP, a tensor is missing, or the tokenizer cannot be loaded.
    """
    from transformers import AutoTokenizer, CLIPConfig, CLIPTextModel

    settings = read_json(folder / "config.json", "text tower")
    tensors = {
        name: tensor.to(device, dtype)
        for name, tensor in stored_tensors(weight_files(folder))
        if name.startswith(WHOLE) or name in PROJECTIONS
    }
    try:
        config = CLIPConfig.from_dict(settings)
        with torch.device("meta"):
            model = CLIPTextModel._from_config(config.text_config, attn_implementation="sdpa", dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"text tower {folder}: cannot be used: {first_line(error)}") from error
    # Releases of transformers differ in whether the inner module has its own level.
    wanted = {name: f"{WHOLE}{name.removeprefix(WHOLE)}" for name, _ in model.named_parameters()}
    if missing := {*wanted.values(), *PROJECTIONS} - tensors.keys():
        raise ModelError(f"text tower {folder}: {min(missing)} is missing; give a whole CLIP, text and image tower")
    for module in model.modules():
        if isinstance(ids := getattr(module, "position_ids", None), Tensor):
            module.position_ids = torch.arange(ids.shape[-1], device=device)[None]
    model.load_state_dict({name: tensors[stored] for name, stored in wanted.items()}, strict=False, assign=True)
    projections = {name: tensors[name] for name in PROJECTIONS}
    return TextTower(model.requires_grad_(False), tokenizer, projections, config.vision_config.layer_norm_eps)
