"""train_ranker: gold/interactions, gold/vectors, silver/items, silver/descriptions -> gold/model_metrics, model `ranker`.

One run of Ray Train fits LightGBM's LambdaMART (lib/candidates/ranker.py) over the candidates of several windows before
`run.as_of`, each as long as the validation window. Candidates and features are those that were known when a window began, and
relevant is what the user bought in it. The first fit learns from all windows but the last, which chooses the number of trees,
and is what the version is judged by (lib/runs/promotion.py); the second learns from all of them with as many trees. evaluate
judges the lists. Nothing from `run.as_of` on is used. A checkpoint after each fit lets a killed worker or job continue. A
rerun, a retry or a kill changes nothing.

Tasks make the candidates by shard of users, of at most `max_users` a window; each worker takes a share of them. Workers build
the trees together, by LightGBM's own protocol.
"""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from ray import train
from ray.util import get_node_ip_address
from torch import distributed

from lib.candidates import tasks
from lib.candidates.features import FEATURES
from lib.candidates.preparing import RetrievalSettings, Tables, described, retrievals, versions_at
from lib.candidates.ranker import (
    PATIENCE,
    TREES_AT_ONCE,
    Examples,
    fitted,
    grown,
    joined,
    ndcg_by_trees,
    ndcg_of,
    ordinary,
    predicted,
    text_of,
)
from lib.candidates.tasks import Moment
from lib.engines.arrow_tasks import gathered
from lib.engines.parts import Parts
from lib.engines.ray_tasks import RayParts, RayRun, batches_of
from lib.engines.ray_train import fit_on_workers, last_state, ray_session, report_epoch
from lib.models.workers import total_over_workers
from lib.runs.model_registry import judged
from lib.runs.promotion import PromotionSettings, Row, Scores, commit_beside, settle, validation_from
from lib.runs.run import start_run
from lib.settings import JobSettings
from lib.statistics.bootstrap import Floats, mean_interval
from lib.tables import contract

MODEL = "ranker"
TABLES = Tables("gold/interactions", "gold/vectors", "silver/items", "silver/descriptions")
QUESTIONS = ("all", "new")
TREES_WITHOUT_VALIDATION = 100  # where there is one window alone
LEAST_USERS = 5  # of a window, to learn from or to validate by


class TrainRankerSettings(RetrievalSettings, PromotionSettings, JobSettings):
    """Defaults chosen on the validation window of Online Retail."""

    num_windows: int = Field(3, ge=1, le=50, description="windows before as_of to learn from; the last one validates")
    max_users: int = Field(
        10_000, ge=1, description="users of a window whose candidates are learned from, drawn by their keys"
    )
    max_trees: int = Field(120, ge=10, le=10_000, description="trees at most; the last window chooses how many")
    num_leaves: int = Field(31, ge=2, le=4096, description="leaves of a tree")
    learning_rate: float = Field(0.1, gt=0, le=1, description="shrinkage of each tree")
    min_leaf_candidates: int = Field(50, ge=1, description="candidates in a leaf at least")
    max_failures: int = Field(3, ge=0, description="how often lost workers are restarted")
    seed: int = Field(0, ge=0, description="seed of the trees' samples")


@dataclass(frozen=True)
class Task:
    """All that a worker needs."""

    shares: RayParts  # the examples of each worker
    windows: tuple[str, ...]  # in their order; the last one validates, if there are several
    max_trees: int
    options: Mapping[str, object]  # of LightGBM

    def examples(self, rank: int) -> dict[str, Examples]:
        """A worker's examples of each window; one without any of a window takes those of another worker."""
        found = tasks.examples_of(batches_of(self.shares.partitions[rank]))
        for other in self.shares.partitions[rank + 1 :] + self.shares.partitions[:rank]:
            if missing := [name for name in self.windows if name not in found]:
                of_other = tasks.examples_of(batches_of(other))
                found |= {name: of_other[name] for name in missing if name in of_other}
        return found


def train_worker(config: dict[str, Task]) -> None:
    """The work of each Ray Train worker: both fits, with a checkpoint after each."""
    task, context = config["task"], train.get_context()
    states: dict[str, Any] = last_state() or {}
    found = task.examples(context.get_world_rank())
    num_trees = TREES_WITHOUT_VALIDATION
    if len(task.windows) > 1:
        if "first" not in states:
            states |= first_fit(task, found)
            report_epoch(states, {"trees": states["num_trees"], "ndcg": max(states["curve"])})
        num_trees = int(str(states["num_trees"]))
    if "last" not in states:
        every = joined([found[name] for name in task.windows])
        last = fitted(every, num_trees=num_trees, options=options_of(task))
        states |= {"last": text_of(last), "usual": ordinary(every.features).tolist()}
        report_epoch(states, {"trees": num_trees})


def first_fit(task: Task, found: Mapping[str, Examples]) -> dict[str, Any]:
    """Learn from all windows but the last, on which more trees are tried until they no longer help; the best number is kept."""
    growing = grown(joined([found[name] for name in task.windows[:-1]]), options_of(task))
    curve: list[float] = []
    num_trees = most = 0
    for booster, ndcg in ndcg_by_trees(growing, found[task.windows[-1]]):
        sums = torch.from_numpy(np.stack([np.nansum(ndcg, axis=0), (~np.isnan(ndcg)).sum(axis=0)]))
        total, count = total_over_workers(sums)
        curve.append(float((total / count.clamp(min=1)).sum()))  # of both questions
        num_trees, most = TREES_AT_ONCE * (1 + int(np.argmax(curve))), TREES_AT_ONCE * len(curve)
        if most >= task.max_trees or most >= num_trees + PATIENCE:
            return {"first": text_of(booster, num_trees=num_trees), "num_trees": num_trees, "curve": curve}
    raise AssertionError("a ranker grows without end")


def options_of(task: Task) -> dict[str, Any]:
    """LightGBM's parameters of one fit, with the workers that build its trees together, each at a port that is free now."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return dict(task.options)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    machines: list[str] = [""] * distributed.get_world_size()
    own: str = get_node_ip_address()  # type: ignore[no-untyped-call]
    distributed.all_gather_object(machines, f"{own}:{port}")
    names = {"machines": ",".join(machines), "num_machines": len(machines), "local_listen_port": port}
    return {**task.options, "tree_learner": "data", **names}


def windows_of(run: RayRun, num_windows: int) -> dict[str, Moment]:
    """The windows before `run.as_of`, each as long as the validation window, oldest first."""
    length = run.as_of - validation_from(run)
    starts = [run.as_of - number * length for number in range(num_windows, 0, -1)]
    return {f"{start:%Y-%m-%dT%H:%M}": Moment(start, start + length) for start in starts}


def examples(run: RayRun, settings: TrainRankerSettings, windows: Mapping[str, Moment]) -> tuple[Parts, list[str]]:
    """The examples of the windows in which somebody bought something that could have been known, by worker."""
    versions = {name: versions_at(run, TABLES, moment.as_of) for name, moment in windows.items()}
    parts = described(run, TABLES, windows, versions)
    counts = gathered(parts.of(tasks.USER).collected(), tasks.USER, tasks.GATHERED).group_by("moment").sum()
    num_asked = {name: asked for name, asked in counts.select("moment", "num_asked").rows() if asked}
    known = {name for name, num_pairs in counts.select("moment", "num_pairs").rows() if num_pairs}
    useful = [name for name in windows if name in known and num_asked.get(name, 0) >= LEAST_USERS]
    if not useful:
        most = max((num_asked.get(name, 0) for name in known), default=0)
        run.skip(
            f"{most} {'user' if most == 1 else 'users'} bought something in the windows before {run.as_of:%Y-%m-%d %H:%M}, of "
            f"which each must have {LEAST_USERS} to learn a ranker from"
        )
    found = retrievals(run, TABLES, parts, {name: windows[name] for name in useful}, versions, settings)
    for name in useful:
        users = min(num_asked[name], settings.max_users)
        run.log(f"window {name}", users=users, items=len(found[name].catalogue), **versions[name])
    made = parts.then(
        tasks.make_examples,
        retrievals=run.engine.broadcast(found),
        shares={name: settings.max_users / num_asked[name] for name in useful},
        num_workers=settings.cluster.num_workers,
    )
    return made.to_shards(settings.cluster.num_workers), useful


def task_of(settings: TrainRankerSettings, shares: RayParts, useful: list[str]) -> Task:
    """The workers' task."""
    options = {
        "num_leaves": settings.num_leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.min_leaf_candidates,
        "seed": settings.seed,
    }
    return Task(shares, tuple(useful), settings.max_trees, options)


def publish(
    run: RayRun, task: Task, states: Mapping[str, Any], windows: Mapping[str, Moment], settings: TrainRankerSettings
) -> None:
    """Write the fits, settle the version, and commit its metrics on the last window."""
    folder = run.files(MODEL)
    fits = {MODEL: str(states["last"]), **({judged(MODEL): str(states["first"])} if "first" in states else {})}
    until = {MODEL: windows[task.windows[-1]].until, judged(MODEL): windows[task.windows[-1]].as_of}
    for name, text in fits.items():
        (folder / f"{name}.txt").write_text(text)
    known = {"options": settings.retrieval_options(), "features": FEATURES, "usual": states["usual"]}
    learned = {name: moment.isoformat() for name, moment in until.items() if moment and name in fits}
    (folder / "ranker.json").write_text(json.dumps({**known, "learned_until": learned}, indent=2))
    valid = validation_examples(task) if judged(MODEL) in fits else None
    new = None if valid is None else by_question(fits[judged(MODEL)], valid)
    kept = settle(
        run,
        MODEL,
        partial(scores, run, new, valid),
        max_loss_frac=settings.max_loss_frac,
        folder=folder,
        checkpoint=folder / f"{MODEL}.txt",
        num_parameters=lgb.Booster(model_str=fits[MODEL]).num_trees() * settings.num_leaves,
        curves={f"NDCG@10 of both questions by {TREES_AT_ONCE} trees": states.get("curve", [])},
    )
    rows = []
    for question, values in (new or {}).items():
        value, low, high = mean_interval(values, settings.seed)
        named = {"model": MODEL, "version": run.run_id, "split": "valid", "metric": f"{question} NDCG@10"}
        rows.append({**named, "value": value, "low": low, "high": high, "n": len(values)})
        run.log(f"NDCG@10 on the last window, {question}", value=value, low=low, high=high, users=len(values))
    table = pa.Table.from_pylist(rows, schema=contract("gold/model_metrics").schema)
    commit_beside(run, "gold/model_metrics", MODEL, table, kept)


def validation_examples(task: Task) -> Examples:
    """The examples of the last window; their users are at most `max_users`."""
    shares = [tasks.examples_of(batches_of(share)) for share in task.shares.partitions]
    return joined([found[task.windows[-1]] for found in shares if task.windows[-1] in found])


def by_question(text: str, valid: Examples) -> dict[str, Floats]:
    """NDCG@10 of each user who wanted something, by question."""
    found = ndcg_of(predicted(lgb.Booster(model_str=text), valid.features), valid)
    return {question: found[~np.isnan(found[:, place]), place] for place, question in enumerate(QUESTIONS)}


def scores(run: RayRun, new: Mapping[str, Floats] | None, valid: Examples | None, current: Row) -> Scores:
    """NDCG@10 on the last window of this version's first fit and of the current version's, which may have seen the window."""
    if new is None or valid is None:
        return Scores()
    folder = run.lake.local(current["uri"])
    file = folder / f"{judged(MODEL)}.txt"
    if not file.is_file():
        return Scores(why=f"{run.uri(file)} is missing")
    if json.loads((folder / "ranker.json").read_text())["features"] != list(FEATURES):
        return Scores(why=f"{current['version']} knows other features")
    before = by_question(file.read_text(), valid)
    named = {question: f"{question} NDCG@10" for question in new}
    return Scores({named[q]: new[q] for q in new}, {named[q]: before[q] for q in new})


def main(settings: TrainRankerSettings) -> None:
    with start_run("train_ranker", settings, RayRun) as run:
        run.version_of(TABLES.interactions)  # without which the job is skipped, before Ray is started
        windows = windows_of(run, settings.num_windows)
        with ray_session(settings.cluster):
            shares, useful = examples(run, settings, windows)
            assert isinstance(shares, RayParts)
            task = task_of(settings, shares, useful)
            states = fit_on_workers(
                train_worker,
                task,
                settings.cluster,
                name=run.run_id,
                storage=run.storage(MODEL),
                max_failures=settings.max_failures,
            )
            if "num_trees" in states:
                run.log("trees chosen on the last window", trees=states["num_trees"], ndcg_of_both=max(states["curve"]))
            publish(run, task, states, windows, settings)


if __name__ == "__main__":
    main(TrainRankerSettings.from_command_line())
