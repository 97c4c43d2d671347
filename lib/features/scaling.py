"""Min-max scaling of the features of examples, by their bounds in the train split."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from lib.features.user_features import FEATURES

Bounds = Mapping[str, tuple[float, float]]  # by feature: what is scaled to 0, and what to 1


def bounds_of(raw: pl.DataFrame) -> pl.DataFrame:
    """The bounds of each feature among the train examples: feature, min, max; no rows without such examples."""
    train = raw.filter(pl.col("split") == "train")
    if train.is_empty():
        return pl.DataFrame(schema={"feature": pl.String, "min": pl.Float64, "max": pl.Float64})
    low, high = (train.select(getattr(pl.col(*FEATURES), name)()).row(0) for name in ("min", "max"))
    return pl.DataFrame({"feature": [*FEATURES], "min": low, "max": high})


def num_clipped(raw: pl.DataFrame, bounds: Bounds) -> pl.DataFrame:
    """How many values of each feature lie outside its bounds, in the other splits: feature, num_clipped."""
    others = raw.filter(pl.col("split") != "train")
    counts = others.select(
        ((pl.col(name) < low) | (pl.col(name) > high)).sum().alias(name) for name, (low, high) in bounds.items()
    )
    return pl.DataFrame(
        {"feature": [*bounds], "num_clipped": list(counts.row(0))}, schema_overrides={"num_clipped": pl.Int64}
    )


def scaled(raw: pl.DataFrame, bounds: Bounds) -> pl.DataFrame:
    """The rows of gold/examples: each feature scaled and clipped to 0..1; one that is constant in train becomes 0."""
    values = np.zeros((raw.height, len(FEATURES)), np.float32)
    for place, name in enumerate(FEATURES):
        low, high = bounds[name]
        if high > low:
            values[:, place] = np.clip((raw[name].to_numpy() - low) / (high - low), 0.0, 1.0)
    features = pl.Series("features", values, dtype=pl.Array(pl.Float32, len(FEATURES)))
    return raw.select("user_key", "as_of", "split", features.cast(pl.List(pl.Float32)), "label")
