"""What a patched model is shown: the images of a prompt, what is read of them and of the questions, and draws' seeds.

Shape letters: see ``workers/patch.py``.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from functools import partial, wraps
from typing import Any

from torch import Tensor

from strategies.errors import UsageError
from workers import evidence
from workers.families.base import Call, Parts
from workers.families.model import joined_rows
from workers.forks import Seeds
from workers.layer_calls import Replaced
from workers.padded import Batch, input_rows
from workers.sites import Questions

PIXEL_STRIDE = 8  # every eighth pixel of every eighth line names a picture well enough for a draw


class PromptImages:
    """The hooks at tower and projector, and what they remember of the last prompt."""

    def __init__(
        self,
        parts: Parts,
        needs: frozenset[str],
        seed: int,
        sample_ids: Sequence[str] | None,
        image_ids: Sequence[str] | None,
        asked: Questions | None,
    ) -> None:
        """Nothing is seen yet.

        Args:
            parts: of the model.
            needs: evidence that the strategies read.
            seed, sample_ids, image_ids, asked: as of ``pruned``.
        """
        self._parts = parts
        self._needs = needs
        self._seed = seed
        self._sample_ids = sample_ids
        self._image_ids = image_ids
        self._asked = asked
        self._make_features = parts.body.get_image_features
        self._call: Call = {}  # for features, the last
        self._pictures: Sequence[Tensor] = ()  # some pixels of each image of it
        self._tokens: Sequence[int] = ()  # visual tokens of each
        self.several = False  # whether a sample has several
        self._tower_states: list[Tensor] = []  # what entered each layer of the tower, and what left the last

    def attach(self) -> Iterator[Any]:
        """Register the hooks; the handles remove them."""
        seeing = wraps(self._make_features)(partial(self._see))  # of which ``generate`` asks what it takes
        yield Replaced(self._parts.body, "get_image_features", seeing)
        if evidence.tower_readers(self._needs):
            for layer in self._parts.tower_layers:
                yield layer.register_forward_pre_hook(lambda _, args: self._tower_states.append(args[0]))
            last = self._parts.tower_layers[-1]
            yield last.register_forward_hook(lambda _, args, out: self._tower_states.append(out))

    def read(self, ids_BS: Tensor, inputs_BSD: Tensor, batch: Batch) -> tuple[list[Seeds], list[dict[str, Tensor]]]:
        """Of a prompt, per sample what seeds its draws, and what is read of tower, question and input, (V, ...).

        Raises:
            UsageError: names or questions do not fit the batch, or images the samples, or pixels are missing.
        """
        self._see_pictures(ids_BS)
        shown = batch.pictures(self._tokens)
        self.several = any(len(places) > 1 for places in shown)
        return self._seeds(ids_BS, batch, shown), self._evidence(ids_BS, inputs_BSD, batch, shown)

    def _see(self, *args: Any, **kwargs: Any) -> Any:
        """The body's own forward asks it for features, and ``generate`` from transformers 5.24 on before that."""
        self._call, self._tower_states = inspect.signature(self._make_features).bind(*args, **kwargs).arguments, []
        return self._make_features(*args, **kwargs)

    def _see_pictures(self, ids_BS: Tensor) -> None:
        """Whose features were asked for; nothing new where a prompt is run again with the same."""
        if self._call:
            given = self._parts.pictures(self._call, ids_BS)
            self._pictures = [picture[..., ::PIXEL_STRIDE, ::PIXEL_STRIDE] for picture, _ in given]
            self._tokens = [tokens for _, tokens in given]

    def _seeds(self, ids_BS: Tensor, batch: Batch, shown: Sequence[range]) -> list[Seeds]:
        """What seeds each sample's draws; beams and further sequences of a sample share it."""
        size = ids_BS.shape[0]
        samples = self._named("sample_ids", self._sample_ids, size)
        images = self._named("image_ids", self._image_ids, size)
        if not samples or not images:  # what has names is not fetched from the device
            pictures, alive_BW = self._pixels(shown), batch.groups[0].alive_BW
            words = [str(ids_S[alive_S].tolist()) for ids_S, alive_S in zip(ids_BS, alive_BW, strict=True)]
            contents = [_digest(text.encode() + picture) for text, picture in zip(words, pictures, strict=True)]
            samples, images = samples or contents, images or [*map(_digest, pictures)]
        return [
            Seeds(f"{self._seed}|{one}", f"{self._seed}|{image}") for one, image in zip(samples, images, strict=True)
        ]

    @staticmethod
    def _named(what: str, names: Sequence[str] | None, size: int) -> list[str]:
        """Names that the caller gave, for each row of the batch; none where they gave none."""
        if names is None:
            return []
        if not names or size % len(names):
            raise UsageError(f"{len(names)} {what} were given for a batch of {size}")
        return [name for name in names for _ in range(size // len(names))]

    def _pixels(self, shown: Sequence[range]) -> list[bytes]:
        """Per sample the pixels of its images; nothing where it has none."""
        pictures = [picture.float().cpu().numpy().tobytes() for picture in self._pictures]
        return [b"".join(pictures[place] for place in places) for places in shown]

    def _evidence(
        self, ids_BS: Tensor, inputs_BSD: Tensor, batch: Batch, shown: Sequence[range]
    ) -> list[dict[str, Tensor]]:
        """Per sample what is read of the vision tower and of the input."""
        readers = evidence.tower_readers(self._needs)
        reads = readers and self._tower_states
        towers = self._parts.read_tower(self._tower_states, self._call, ids_BS) if reads else ()
        self._call, self._tower_states = {}, []
        if self._asked is not None:
            for tower, _ in towers:
                tower.text_tower = self._asked.tower
        words = self._read_questions(len(batch.groups[0].visual))
        seen = {
            name: [rows for tower, of_images in towers for rows in of_images(read(tower))]
            for name, read in readers.items()
        }
        found: list[dict[str, Tensor]] = []
        for sample, visual_V in enumerate(batch.groups[0].visual):
            if not len(visual_V):
                found.append({})
                continue
            own = words[sample]
            for name in readers:
                if not shown[sample] or not seen[name]:
                    raise UsageError(f"sample {sample} has image tokens without pixel_values, whose {name} is needed")
                own[name] = joined_rows(name, [seen[name][place] for place in shown[sample]])
            found.append(own | evidence.of_input(self._needs, input_rows(batch, inputs_BSD, sample)))
        return found

    def _read_questions(self, size: int) -> list[dict[str, Tensor]]:
        """Per sample what is read of its question; beams and further sequences of a sample share it."""
        if self._asked is None:
            return [{} for _ in range(size)]
        asked = self._asked.asked
        if not asked or size % len(asked):
            raise UsageError(f"asked: {len(asked)} questions were given for a batch of {size}")
        found = evidence.of_questions(self._needs, asked, self._asked.tower)
        return [dict(words) for words in found for _ in range(size // len(asked))]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
