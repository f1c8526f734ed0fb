"""An image as the model saw it, with the patches faded that a grid point drops."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from results.analysis.kept_quality import token_maps
from results.experiment import Experiment
from results.pictures import Pictures
from results.tables import unpacked
from strategies.errors import UsageError
from workers.work import GridPoint

FADED = 0.8  # of a dropped patch is white


def kept_picture(experiment: Experiment, sample: str, point: GridPoint) -> Image.Image:
    """Draw it in the vision tower's size; where tiles and a whole view show a place, it is kept if either is.

    Several images of a question are one below the other, all as large.

    Args:
        experiment: Where the picture was recorded.
        sample: Its id.
        point: That keeps some tokens.

    Raises:
        UsageError: There is no picture or no cell, or nobody knows where the tokens lie.
    """
    webp = Pictures(experiment).get(sample)
    kept = experiment.kept(points=[point.key], samples=[sample])
    if kept.empty:
        raise UsageError(f"there is no cell of sample '{sample}' at {point.label}")
    if webp is None:
        raise UsageError(f"no picture of sample '{sample}' was recorded; run again with a higher `pictures`")
    row = kept.iloc[0]
    visual = int(row["visual_tokens"])
    maps = token_maps(experiment.config, row["maps"], visual)
    if not maps:
        raise UsageError(f"sample '{sample}': where its {visual} visual tokens lie in the image is not recorded")
    kept_V = unpacked(row["kept_mask"], visual)
    seen = Image.open(BytesIO(webp)).convert("RGB")
    shown_HW = np.zeros((seen.height, seen.width), dtype=bool)
    height = seen.height // (1 + max(one.image for one in maps))
    for one in maps:
        rows = np.arange(height) * one.rows // height
        columns = np.arange(seen.width) * one.columns // seen.width
        shown_HW[one.image * height :][:height] |= kept_V[one.token(rows[:, None], columns[None, :])]
    white = Image.new("RGB", seen.size, "white")
    faded = Image.blend(seen, white, FADED)
    return Image.composite(seen, faded, Image.fromarray(shown_HW))
