"""The rows of ops/models: the model versions, and which of them is current. The table stays small.

A version of a model that is fitted again on all that was known has several fits: the one that serves, named after the run; the one by
which it was judged, fitted on nothing from the validation window on; and for models that learn from vectors of earlier days, some on
what was known before earlier windows.
"""

import re
from typing import Any

from lib.lake.lake import Lake
from lib.lake.writes import rows_of, upsert
from lib.tables.ops import MODELS

RELEASE = "release"  # what publish makes of models and tables; registered as one, so that readers find it whole


def models(lake: Lake) -> list[dict[str, Any]]:
    """Rows of ops/models, oldest first."""
    return rows_of(lake, MODELS, "created_at")


def current_model(lake: Lake, model: str) -> dict[str, Any] | None:
    """The promoted version of a model, the newest if several; None if there is none."""
    promoted = [row for row in models(lake) if row["model"] == model and row["status"] == "promoted"]
    return promoted[-1] if promoted else None


def judged(version: str) -> str:
    """The name of the fit by which a version was judged."""
    return f"{version}-valid"


def earlier(version: str, place: int) -> str:
    """The name of the fit on what was known so many windows ago."""
    return f"{version}-earlier-{place}"


def version_of(fit: str) -> str:
    """The version that a fit is one of."""
    return re.sub(r"-(valid|earlier-\d+)$", "", fit)


def model_version(lake: Lake, model: str, version: str) -> dict[str, Any] | None:
    """One version of a model; None if it is not registered."""
    return next((row for row in models(lake) if (row["model"], row["version"]) == (model, version)), None)


def candidates(lake: Lake, model: str) -> set[str]:
    """The versions that stand as candidates: nothing is made with their fits."""
    return {row["version"] for row in models(lake) if row["model"] == model and row["status"] == "candidate"}


def register_model(lake: Lake, row: dict[str, Any]) -> None:
    """Insert or update a model version; a promoted one retires the previous ones in the same transaction."""
    changed = [row]
    if row["status"] == "promoted":
        changed += [
            {**old, "status": "retired"}
            for old in models(lake)
            if old["model"] == row["model"] and old["version"] != row["version"] and old["status"] == "promoted"
        ]
    upsert(lake, MODELS, changed)
