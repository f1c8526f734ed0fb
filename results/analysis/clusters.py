"""Questions about one image: their answers are alike, so an image, not a question, is what was drawn at random.

A vector of ints (S,) says which image each question shows. Statistics sum over the questions of an image first and then
treat images as independent; where every image has one question nothing is summed, and their numbers stay as they were
to the last bit. Shape letters: P configurations, S samples, G images.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

BY_IMAGE, BY_FILE = "image", "image file"  # what tells images apart: decoded pixels, else the name of the file


class Groups(NamedTuple):
    """Which samples belong together."""

    order_S: NDArray[np.int64]  # samples, those of an image next to each other
    start_G: NDArray[np.int64]  # where in ``order_S`` each image begins

    def sum(self, value_PS: NDArray) -> NDArray:
        """(P, G): sums over the samples of each image; of flags their number."""
        kind = np.int64 if value_PS.dtype == bool else value_PS.dtype
        return np.add.reduceat(value_PS[..., self.order_S], self.start_G, axis=-1, dtype=kind)


def groups_of(cluster_S: NDArray[np.int64] | None) -> Groups | None:
    """The images that samples show; None where each has its own, or nothing is known."""
    if cluster_S is None or not cluster_S.size:
        return None
    order_S = np.argsort(cluster_S, kind="stable")
    ordered_S = cluster_S[order_S]
    start_G = np.flatnonzero(np.concatenate([[True], ordered_S[1:] != ordered_S[:-1]]))
    return Groups(order_S, start_G) if len(start_G) < len(cluster_S) else None


def per_image(value_PS: NDArray, groups: Groups | None) -> NDArray:
    """Sums over the questions of an image; the values themselves where there are no groups."""
    return value_PS if groups is None else groups.sum(value_PS)


def image_names(samples: pd.DataFrame) -> tuple[list[str], str]:
    """What tells the images of samples apart.

    Args:
        samples: With the columns id, image and pixels (the digest of the decoded image; missing in experiments that
            took none, and of images that cannot be decoded).

    Returns:
        Of each sample the digest, else the name of its image's file, else "" for a question without an image; and by
        which of the two it was.
    """
    known = samples["pixels"].notna() & (samples["pixels"] != "")
    names = samples["pixels"].where(known, samples["image"]).fillna("")
    return names.tolist(), BY_IMAGE if known.any() or not names.any() else BY_FILE


def clusters_of(names: list[str], ids: list[str]) -> NDArray[np.int64]:
    """(S,) a number for each image, the same in every experiment; a question without an image has one of its own."""
    number = {name: _number(name) for name in dict.fromkeys(names)}
    return np.array(
        [number[name] if name else _number(f"\0{id}") for name, id in zip(names, ids, strict=True)], dtype=np.int64
    )


def _number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=7).digest(), "big")
