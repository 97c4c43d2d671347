"""Whether a new version of a model becomes the current one: one gate for ALS, the two towers, the encoder and the generator.

It does where it is not worse than the current version on the same validation rows by more than `max_loss_frac`. Otherwise
it stands as a candidate with the reason, and what uses the model goes on with the current version. Both are scored now, by
fits that saw nothing of these rows. The plain difference decides, and its paired interval is told beside it: with few
rows the interval is so wide that no version could ever show that it is not worse, while the current one knows neither
new users nor new items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from lib.lake.lake import Lake
from lib.runs import model_registry
from lib.runs.model_registry import judged
from lib.runs.run import Run
from lib.statistics.bootstrap import Floats, mean_interval
from lib.tables import contract

Row = Mapping[str, Any]
# What loading weights raises that are missing, cut off, or of another network.
UNREADABLE = (OSError, RuntimeError, KeyError, TypeError, ValueError)
SEED = 0  # of the interval
SAID = {
    "promoted": "becomes the current version",
    "candidate": "stands as a candidate",
    "retired": "does not become the current version",
}


class PromotionSettings(BaseModel):
    """When a new version of a model becomes the current one."""

    model_config = ConfigDict(frozen=True)

    max_loss_frac: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest share of the current version's score on the validation rows that a new version may lose "
        "and still become the current one",
    )


class EarlierFitsSettings(BaseModel):
    """Which fits a version has, for models that learn from vectors of earlier days."""

    model_config = ConfigDict(frozen=True)

    num_fits_before: int = Field(
        3,
        ge=1,
        le=12,
        description="fits beside the one that serves, on what was known whole validation windows before `as_of`, one to as many; the version "
        "is judged by the latest, and `train_ranker`, whose windows begin there, learns from the vectors of all",
    )


@dataclass(frozen=True)
class Scores:
    """Both versions' scores by metric, one number a validation row, higher is better; both have the same rows.

    `why` says why the current version, which `current` then leaves out, cannot be scored.
    """

    new: Mapping[str, Floats] = field(default_factory=dict)
    current: Mapping[str, Floats] = field(default_factory=dict)
    why: str = ""


class Verdict(NamedTuple):
    """A status of ops/models and its reason."""

    status: str
    reason: str


def decide(scores: Scores, *, current: str, max_loss_frac: float) -> Verdict:
    """Whether the new version may replace `current`."""
    if scores.why:
        return Verdict("promoted", f"{current} cannot be scored on today's validation rows: {scores.why}")
    if not scores.new or not all(map(len, scores.new.values())):
        return Verdict("candidate", f"there are no validation rows to compare it with {current} on")
    told, too_low = [], []
    for metric, new in scores.new.items():
        before = scores.current[metric]
        assert len(new) == len(before), "both versions are scored on the same rows"
        difference, low, high = mean_interval(new - before, SEED)
        told.append(
            f"{metric} {new.mean():.4f}, {current}'s {before.mean():.4f}: {difference:+.4f} ({low:+.4f} to {high:+.4f}) "
            f"on {len(new):,} validation rows"
        )
        if not difference >= -max_loss_frac * abs(before.mean()):  # nor if it is not a number
            too_low.append(metric)
    told.append(
        f"too low in {' and '.join(too_low)}" if too_low else f"at most {100 * max_loss_frac:.3g} % may be lost"
    )
    return Verdict("candidate" if too_low else "promoted", "; ".join(told))


def validation_from(run: Run) -> datetime:
    """Where the validation rows of a version as of `run.as_of` begin; they end at `run.as_of`."""
    return run.as_of - (run.times.test_from - run.times.valid_from)


def moments_of_fits(run: Run, version: str, num_fits_before: int = 1) -> dict[str, datetime]:
    """By the name of a version's fits, up to when each knows what happened; the oldest first, last the one that serves."""
    length = run.as_of - validation_from(run)
    before = {
        model_registry.earlier(version, place): run.as_of - place * length for place in range(num_fits_before, 1, -1)
    }
    return {**before, judged(version): run.as_of - length, version: run.as_of}


def settle(
    run: Run,
    model: str,
    score: Callable[[Row], Scores],
    *,
    max_loss_frac: float,
    folder: Path | str,
    checkpoint: Path | None = None,
    num_parameters: int,
    curves: Mapping[str, Sequence[float]] | None = None,
    known: Mapping[str, str] | None = None,
) -> str | None:
    """Decide on this run's version of a model and register it, before any of its rows are committed.

    A run that is resumed keeps its decision. A version as of an earlier time than the current one's is made for that time
    and replaces nothing.

    Args:
        run: this run; its id is the version.
        model: the model.
        score: scores this run's version and the current one, whose row of ops/models it is given.
        max_loss_frac: see PromotionSettings.
        folder: as for Run.register_model, like the two below.
        checkpoint: the file with the weights.
        num_parameters: trainable parameters.
        curves: what was measured after each epoch, by name.
        known: what is recorded beside the job's settings.

    Returns:
        The version that stays current, whose rows must stay beside this one's; None if this one is now current.
    """
    current = run.current_model(model)
    before = str(current["version"]) if current and current["version"] != run.run_id else None
    if model_registry.model_version(run.lake, model, run.run_id) is None:
        verdict = _verdict(run, current, score, max_loss_frac)
        run.log(f"{model} {run.run_id} {SAID[verdict.status]}: {verdict.reason}")
        run.register_model(
            model,
            folder,
            checkpoint=checkpoint,
            num_parameters=num_parameters,
            status=verdict.status,
            reason=verdict.reason,
            curves=curves,
            known=known,
        )
        before = None if verdict.status == "promoted" else before
    return before


def _verdict(run: Run, current: Row | None, score: Callable[[Row], Scores], max_loss_frac: float) -> Verdict:
    if current is None:
        return Verdict("promoted", "it is the first version")
    until = current.get("as_of")
    if until is not None and until > run.as_of:
        return Verdict(
            "retired", f"it is as of {run.as_of:%Y-%m-%d %H:%M}, {current['version']} as of {until:%Y-%m-%d %H:%M}"
        )
    return decide(score(current), current=current["version"], max_loss_frac=max_loss_frac)


def rows_of_version(lake: Lake, table: str, model: str, version: str | None) -> pa.Table:
    """The rows of a version's fits in gold/vectors or gold/model_metrics, as they are now; none without a version."""
    schema = contract(table).schema
    if version is None or not lake.exists(table):
        return schema.empty_table()
    is_of_version = pc.field("version").isin([version, judged(version)]) & (pc.field("model") == model)
    return lake.dataset(table).to_table(schema.names, filter=is_of_version).cast(schema)


def commit_beside(run: Run, table: str, model: str, own: pa.Table, kept: str | None) -> None:
    """Replace a model's rows by this version's, beside those of the version that stays current (see `settle`)."""
    schema = contract(table).schema
    stored = rows_of_version(run.lake, table, model, kept)
    run.commit_arrow(table, pa.concat_tables([own.select(schema.names).cast(schema), stored]), where={"model": model})
