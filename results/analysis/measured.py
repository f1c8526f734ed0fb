"""What was measured on the forward, mean over questions, with the standard error of that over images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from results.analysis.clusters import clusters_of, image_names
from results.experiment import Experiment


def measure_summary(experiment: Experiment) -> pd.DataFrame:
    """What was measured on the forward, mean over image questions.

    Returns:
        One row per grid point and name, in the order of the grid: point (key), label, name, mean, se (standard error of
        the mean, clustered by image, missing for a single image), n. Undefined values of a sample (NaN) are left out.
    """
    table = experiment.measures()
    label = {point.key: point.label for point in experiment.points}
    groups = table.dropna(subset=["value"]).groupby(["point", "name"], sort=False)["value"]
    rows = groups.agg(["mean", "sem", "count"]).reset_index()
    rows.columns = pd.Index(["point", "name", "mean", "se", "n"])
    rows["se"] = _clustered_error(table.dropna(subset=["value"]), rows, experiment)
    order = {key: place for place, key in enumerate(label)}
    rows = rows.sort_values("point", key=lambda keys: keys.map(order), kind="stable", ignore_index=True)
    rows.insert(1, "label", rows["point"].map(label))
    return rows


def _clustered_error(table: pd.DataFrame, rows: pd.DataFrame, experiment: Experiment) -> pd.Series:
    """The standard errors of means over samples of which some show the same image."""
    samples = experiment.samples
    cluster = pd.Series(clusters_of(image_names(samples)[0], samples["id"].tolist()), index=samples["id"])
    if cluster.is_unique:
        return rows["se"]
    row = ["point", "name"]
    beyond = table["value"] - table.groupby(row)["value"].transform("mean")
    parts = table.assign(beyond=beyond, image=table["sample"].map(cluster)).groupby([*row, "image"])["beyond"].sum()
    images, spread = (parts**2).groupby(row).count(), (parts**2).groupby(row).sum()
    variance = (images / (images - 1).where(images > 1) * spread).loc[pd.MultiIndex.from_frame(rows[row])].to_numpy()
    shared = images.loc[pd.MultiIndex.from_frame(rows[row])].to_numpy() < rows["n"]
    return rows["se"].where(~shared, np.sqrt(variance) / rows["n"])
