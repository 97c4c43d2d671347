"""The ranker that may answer at a moment: the current version, by the fit that learned only from before."""

import json
from collections.abc import Mapping
from datetime import datetime

import numpy as np

from lib.candidates.features import FEATURES
from lib.candidates.ranker import Ranker, load
from lib.runs.model_registry import judged
from lib.runs.run import Run


def ranker_at(run: Run, as_of: datetime, options: Mapping[str, float | int]) -> Ranker | None:
    """The current ranker, or for an earlier `as_of` the fit that it was judged by; None if neither learned only from before.

    Raises:
        ValueError: it learned from other candidates than these settings retrieve, or from other features.
    """
    row = run.current_model("ranker")
    if row is None:
        return None
    folder = run.lake.local(row["uri"])
    known = json.loads((folder / "ranker.json").read_text())
    if known["options"] != options:
        raise ValueError(
            f"{run.job.name}: {row['version']} learned from candidates of {known['options']}, these are of "
            f"{options}; give both jobs the same settings, or run train_ranker again"
        )
    if known["features"] != list(FEATURES):
        raise ValueError(f"{run.job.name}: {row['version']} knows other features of a candidate; run train_ranker again")
    for fit, name in ((row["version"], "ranker"), (judged(row["version"]), judged("ranker"))):
        if name in known["learned_until"] and datetime.fromisoformat(known["learned_until"][name]) <= as_of:
            return Ranker(fit, load(folder, name), np.array(known["usual"], np.float32))
    return None
