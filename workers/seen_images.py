"""What tower and projector made of the last images, for the questions about them that come with later micro-batches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.families.config import ModelConfig
from workers.families.model import Encoded, Model, SeenImage
from workers.sites import Tower

KEPT = 4  # images: questions about one come together, so that only those where a micro-batch ends come again
Key = tuple[str, frozenset[str]]  # the image, and what was read of the tower


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    image: SeenImage
    made: torch.cuda.Event | None  # when it is there; None: at once


class SeenImages:
    """Looks at each image once, for all lanes: what one has made another waits for on the device, not here."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def planned_bytes(config: ModelConfig, value_bytes: int) -> int:
        """Of the features that are kept and what is added to them, and room for what is read of the tower."""
        deep = config.vision.deep if config.vision else 0
        return (2 + deep) * KEPT * config.visual_tokens * config.hidden * value_bytes

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()

    def see(
        self, images: Sequence[str], prompts: Sequence[Encoded], readers: Mapping[str, Callable[[Tower], Tensor]]
    ) -> list[SeenImage | None]:
        """For each prompt its image, None where it has none; see ``Model.see``.

        Args:
            images: by what each prompt's image is recognised; '' where nothing is known of it.
            prompts: of a micro-batch.
            readers: what is to be read of the tower.
        """
        read = frozenset(readers)
        found = {image: kept for image in set(images) - {""} if (kept := self._get((image, read)))}
        new: dict[str | int, Encoded] = {}  # an image, or the place of one that is not recognised
        for place, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            if prompt.images and image not in found:
                new.setdefault(image or place, prompt)
        made = dict(zip(new, self._model.see(list(new.values()), readers), strict=True)) if new else {}
        self._keep({(image, read): seen for image, seen in made.items() if isinstance(image, str) and seen})
        seen: list[SeenImage | None] = []
        for place, image in enumerate(images):
            seen.append(found[image] if image in found else made.get(image or place))
        return seen

    def _get(self, key: Key) -> SeenImage | None:
        with self._lock:
            if (kept := self._kept.get(key)) is None:
                return None
            self._kept.move_to_end(key)
        if kept.made is not None:
            stream = torch.cuda.current_stream(self._model.device)
            stream.wait_event(kept.made)
            for tensor in (kept.image.features_VD, kept.image.added_JVD, *kept.image.evidence.values()):
                if tensor is not None:
                    tensor.record_stream(stream)
        return kept.image

    def _keep(self, made: Mapping[Key, SeenImage]) -> None:
        most = KEPT * self._model.config.visual_tokens  # which several images of one prompt may exceed
        some = [(key, image) for key, image in made.items() if len(image.features_VD) <= most]
        copies = {key: _apart(image) for key, image in some[-KEPT:]}
        event = None
        if self._model.device.type == "cuda" and copies:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._model.device))
        with self._lock:
            self._kept |= {key: _Kept(image, event) for key, image in copies.items()}
            while len(self._kept) > KEPT or sum(one.image.features_VD.shape[0] for one in self._kept.values()) > most:
                self._kept.popitem(last=False)


def _apart(image: SeenImage) -> SeenImage:
    """A copy that does not hold those that were made with it."""
    evidence = {name: rows.clone() for name, rows in image.evidence.items()}
    added_JVD = None if image.added_JVD is None else image.added_JVD.clone()
    return SeenImage(image.features_VD.clone(), evidence, added_JVD)
