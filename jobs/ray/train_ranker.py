"""train_ranker: gold/interactions, gold/vectors, silver/items, silver/descriptions -> gold/model_metrics, model `ranker`.

One run of Ray Train fits rankers of several kinds (lib/candidates/ranker.py: LambdaMART by LightGBM, and networks) over the
candidates of several windows before `run.as_of`, each as long as the validation window. Candidates and features are those that
were known when a window began, and relevant is what the user bought in it. Each kind learns first from all windows but the last,
which chooses how many trees there are, and then the kind that serves; by its fit the version is judged
(lib/runs/promotion.py). The kind that serves learns again from all windows, as long as it did. evaluate judges the lists. Nothing
from `run.as_of` on is used. A checkpoint after each fit lets a killed worker or job continue. A rerun, a retry or a kill changes
nothing.

Tasks make the candidates by shard of users, of at most `max_users` a window; each worker takes a share of them. Workers build
trees together by LightGBM's own protocol, and networks by the sum of their gradients.
"""

import json
import math
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, field_validator
from ray import train
from ray.util import get_node_ip_address
from torch import distributed

from lib.candidates import ranker, tasks
from lib.candidates.examples import Examples, joined, mostly_known, ndcg_of
from lib.candidates.features import FEATURES
from lib.candidates.network_fit import NetworkPlan, epochs, listwise_loss, network_of, pointwise_loss, state_of
from lib.candidates.networks import Network
from lib.candidates.preparing import RetrievalSettings, Tables, described, most_owned, retrievals, versions_at
from lib.candidates.ranker import BLEND, LISTWISE, NEURAL, TREES, Blend, Kind, Scorer, ordinary, square_sums
from lib.candidates.tasks import Moment
from lib.candidates.trees import TREES_AT_ONCE, Trees, grown, ndcg_by_trees, text_of
from lib.engines.arrow_tasks import gathered
from lib.engines.parts import Parts
from lib.engines.ray_tasks import RayParts, RayRun, batches_of
from lib.engines.ray_train import fit_on_workers, last_state, ray_session, report_epoch
from lib.models.workers import total_over_workers
from lib.runs.model_registry import judged
from lib.runs.promotion import UNREADABLE, PromotionSettings, Row, Scores, commit_beside, settle, validation_from
from lib.runs.run import start_run
from lib.settings import JobSettings
from lib.statistics.bootstrap import Floats, mean_interval
from lib.tables import contract

MODEL = "ranker"
TABLES = Tables("gold/interactions", "gold/vectors", "silver/items", "silver/descriptions")
QUESTIONS = ("all", "new")
# Tens of trees: how many where there is one window alone, and after how many without a higher NDCG no more are tried.
STEPS_WITHOUT_VALIDATION = 10
PATIENCE = 3
LEAST_USERS = 5  # of a window, to learn from or to validate by
ITEMS_WITH_VECTORS = 20_000  # at most, those that most users have
NEURAL_WIDTHS = (256, 128)


class TrainRankerSettings(RetrievalSettings, PromotionSettings, JobSettings):
    """Defaults chosen on the validation windows of Online Retail and of the market."""

    kinds: tuple[Kind, ...] = Field(
        (TREES, LISTWISE, BLEND),
        min_length=1,
        description="rankers that are tried, `blend` as the mean of those before it; the best on the last window serves, and "
        "without one to validate by, the first",
    )
    num_windows: int = Field(3, ge=1, le=50, description="windows before as_of to learn from; the last one validates")
    max_users: int = Field(
        10_000, ge=1, description="users of a window whose candidates are learned from, drawn by their keys"
    )
    max_trees: int = Field(120, ge=10, le=10_000, description="trees at most; the last window chooses how many")
    num_leaves: int = Field(31, ge=2, le=4096, description="leaves of a tree")
    learning_rate: float = Field(0.1, gt=0, le=1, description="shrinkage of each tree")
    min_leaf_candidates: int = Field(50, ge=1, description="candidates in a leaf at least")
    num_epochs: int = Field(8, ge=1, description="epochs of a network")
    listwise_widths: tuple[int, ...] = Field((64, 32), description="widths of the layers of the listwise network")
    listwise_learning_rate: float = Field(
        4e-3, gt=0, description="of the listwise network at the start (AdamW); it falls to 0"
    )
    vector_size: int = Field(16, ge=1, le=1024, description="length of the neural ranker's vectors of items and users")
    neural_learning_rate: float = Field(1e-3, gt=0, description="of the neural ranker at the start (AdamW)")
    weight_decay: float = Field(1e-2, ge=0, description="of both networks (AdamW)")
    users_at_once: int = Field(32, ge=1, description="users in a batch of a network, over all workers")
    max_failures: int = Field(3, ge=0, description="how often lost workers are restarted")
    seed: int = Field(0, ge=0, description="seed of the trees' samples, of weights and of batches")

    @field_validator("kinds")
    @classmethod
    def _blends_what_is_there(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if len(set(kinds)) < len(kinds):
            raise ValueError("names a kind twice")
        if BLEND in kinds and (kinds[-1] != BLEND or len(kinds) < 3):
            raise ValueError(f"{BLEND} is the mean of the kinds before it: it comes last, after two at least")
        return kinds


@dataclass(frozen=True)
class Task:
    """All that a worker needs."""

    shares: RayParts  # the examples of each worker
    windows: tuple[str, ...]  # in their order; the last one validates, if there are several
    kinds: tuple[Kind, ...]  # that are tried
    max_steps: int  # tens of trees
    options: Mapping[str, object]  # of LightGBM
    plans: Mapping[Kind, NetworkPlan]  # of the networks
    item_ids: pa.StringArray | None  # of the items with vectors, where a ranker has some

    @property
    def blended(self) -> tuple[Kind, ...]:
        """The kinds that a blend is the mean of."""
        return tuple(kind for kind in self.kinds if kind != BLEND)

    def examples(self, rank: int) -> dict[str, Examples]:
        """A worker's examples of each window; one without any of a window takes those of another worker."""
        found = self.of_share(rank)
        for other in (*range(rank + 1, len(self.shares.partitions)), *range(rank)):
            if missing := [name for name in self.windows if name not in found]:
                of_other = self.of_share(other)
                found |= {name: of_other[name] for name in missing if name in of_other}
        return found

    def of_share(self, rank: int) -> dict[str, Examples]:
        """The examples that were packed for a worker."""
        return tasks.examples_of(batches_of(self.shares.partitions[rank]), item_ids=self.item_ids)


def train_worker(config: dict[str, Task]) -> None:
    """The work of each Ray Train worker: a fit of each kind to choose by, and one that serves, with a checkpoint after each."""
    torch.set_num_threads(1)
    task, context = config["task"], train.get_context()
    states: dict[str, Any] = last_state() or {"first": {}}
    found = task.examples(context.get_world_rank())
    if len(task.windows) > 1:
        learned = joined([mostly_known(found[name]) for name in task.windows[:-1]])
        for kind in task.kinds:
            if kind not in states["first"]:
                states["first"][kind] = first_fit(task, kind, states["first"], learned, found[task.windows[-1]])
                report_epoch(states, {"kind": kind, "ndcg": states["first"][kind]["ndcg"]})
    if "last" not in states:
        kind = chosen(task, states)
        every = joined([mostly_known(found[name]) for name in task.windows])
        states |= {"last": packed(last_fit(task, kind, states["first"], every))}
        states |= {"usual": ordinary(every.features).tolist()}
        report_epoch(states, {"kind": kind})


def chosen(task: Task, states: Mapping[str, Any]) -> Kind:
    """The kind that serves."""
    if not states["first"]:
        return task.kinds[0]
    return max(task.kinds, key=lambda kind: states["first"][kind]["ndcg"])  # the first of equals


def first_fit(task: Task, kind: Kind, before: Mapping[str, Any], learned: Examples, valid: Examples) -> dict[str, Any]:
    """Learn from all windows but the last, and judge on it: as many trees as are best there; a network after its epochs.

    Args:
        task: what to fit.
        kind: of ranker.
        before: what this gave for the kinds before it.
        learned: the examples of the windows before the last.
        valid: those of the last one.
    """
    if kind == BLEND:
        blend = blended([unpacked(before[other]["fit"]) for other in task.blended], learned)
        ndcg = total_ndcg(ndcg_of(blend.scores(valid.features, valid.pairs), valid))
        return {"fit": packed(blend), "ndcg": ndcg, "curve": [ndcg]}
    curve: list[float] = []
    best: Scorer | None = None
    for scorer, of_users in judged_steps(task, kind, learned, valid):
        curve.append(total_ndcg(of_users))
        num_steps = 1 + int(np.argmax(curve)) if kind == TREES else len(curve)
        best = scorer if num_steps == len(curve) else best
        if len(curve) >= num_steps + PATIENCE:
            break
    assert best is not None
    return {"fit": packed(best), "num_steps": num_steps, "ndcg": curve[num_steps - 1], "curve": curve}


def last_fit(task: Task, kind: Kind, first: Mapping[str, Any], every: Examples) -> Scorer:
    """Learn from all windows, for as long as was best before the last one."""
    if kind == BLEND:
        return blended([last_fit(task, other, first, every) for other in task.blended], every)
    if kind != TREES:
        *_, network = epochs(every, task.plans[kind])
        return network
    num_steps = first[TREES]["num_steps"] if first else min(task.max_steps, STEPS_WITHOUT_VALIDATION)
    return Trees(text_of(next(islice(grown(every, options_of(task)), num_steps - 1, None))))


def blended(scorers: Sequence[Scorer], learned: Examples) -> Blend:
    """The mean of fits, each over the deviation of its scores within the lists of all workers' examples."""
    sums = [square_sums(scorer.scores(learned.features, learned.pairs), learned) for scorer in scorers]
    squares, count = total_over_workers(torch.from_numpy(np.stack(sums, axis=1))).numpy()
    return Blend(scorers, [float(value) or 1.0 for value in np.sqrt(squares / np.maximum(count, 1))])


def total_ndcg(of_users: Floats) -> float:
    """The mean NDCG@10 over all workers' users of both questions, summed."""
    sums = torch.from_numpy(np.stack([np.nansum(of_users, axis=0), (~np.isnan(of_users)).sum(axis=0)]))
    total, count = total_over_workers(sums)
    return float((total / count.clamp(min=1)).sum())


def judged_steps(task: Task, kind: Kind, learned: Examples, valid: Examples) -> Iterator[tuple[Scorer, Floats]]:
    """A ranker after each ten trees or each epoch, with the NDCG@10 of each user of the validation window."""
    if kind == TREES:  # what trees add is added to the scores of those before
        by_trees = islice(ndcg_by_trees(grown(learned, options_of(task)), valid), task.max_steps)
        yield from ((Trees(text_of(booster)), ndcg) for booster, ndcg in by_trees)
    else:
        inputs = None
        for network in epochs(learned, task.plans[kind]):
            inputs = network.scaling.inputs(valid.features) if inputs is None else inputs
            yield network, ndcg_of(network.scores_of_inputs(inputs, valid.pairs), valid)


def packed(scorer: Scorer) -> dict[str, Any]:
    """A fit as a checkpoint holds it."""
    if isinstance(scorer, Network):
        return state_of(scorer)
    if isinstance(scorer, Blend):
        return {"fits": [packed(part) for part in scorer.scorers], "deviations": list(scorer.deviations)}
    assert isinstance(scorer, Trees)
    return {"text": scorer.text}


def unpacked(state: Mapping[str, Any]) -> Scorer:
    """What `packed` gave."""
    if "fits" in state:
        return Blend([unpacked(part) for part in state["fits"]], state["deviations"])
    return Trees(state["text"]) if "text" in state else network_of(state)


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


def examples(
    run: RayRun, settings: TrainRankerSettings, windows: Mapping[str, Moment]
) -> tuple[Parts, list[str], pa.StringArray | None]:
    """The examples of the windows in which somebody bought something that could have been known, by worker.

    Also these windows, and the items that get vectors where a ranker has some: those that most had when the last one began.
    """
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
    item_ids = None
    if NEURAL in settings.kinds:
        catalogue = found[useful[-1]].catalogue
        item_ids = catalogue.item_ids.take(pa.array(most_owned(catalogue, ITEMS_WITH_VECTORS)))
    made = parts.then(
        tasks.make_examples,
        retrievals=run.engine.broadcast(found),
        shares={name: settings.max_users / num_asked[name] for name in useful},
        num_workers=settings.cluster.num_workers,
        item_ids=None if item_ids is None else run.engine.broadcast(item_ids),
    )
    return made.to_shards(settings.cluster.num_workers), useful, item_ids


def task_of(
    settings: TrainRankerSettings, shares: RayParts, useful: list[str], item_ids: pa.StringArray | None
) -> Task:
    """The workers' task."""
    options = {
        "num_leaves": settings.num_leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.min_leaf_candidates,
        "seed": settings.seed,
    }
    max_steps = math.ceil(settings.max_trees / TREES_AT_ONCE)
    return Task(shares, tuple(useful), settings.kinds, max_steps, options, plans_of(settings), item_ids)


def plans_of(settings: TrainRankerSettings) -> dict[Kind, NetworkPlan]:
    """How each network is fitted."""
    shared = (settings.weight_decay, settings.users_at_once, settings.num_epochs, settings.seed)
    return {
        LISTWISE: NetworkPlan(listwise_loss, settings.listwise_widths, 0, settings.listwise_learning_rate, *shared),
        NEURAL: NetworkPlan(
            pointwise_loss, NEURAL_WIDTHS, settings.vector_size, settings.neural_learning_rate, *shared
        ),
    }


def publish(
    run: RayRun, task: Task, states: Mapping[str, Any], windows: Mapping[str, Moment], settings: TrainRankerSettings
) -> None:
    """Write the fits of the kind that serves, settle the version, and commit every kind's metrics on the last window."""
    folder = run.files(MODEL)
    kind = chosen(task, states)
    first = {name: unpacked(of_kind["fit"]) for name, of_kind in states["first"].items()}
    fits = {MODEL: unpacked(states["last"]), **({judged(MODEL): first[kind]} if first else {})}
    until = {MODEL: windows[task.windows[-1]].until, judged(MODEL): windows[task.windows[-1]].as_of}
    files = {name: ranker.save(scorer, folder, name) for name, scorer in fits.items()}
    known = {"options": settings.retrieval_options(), "features": FEATURES, "usual": states["usual"], "kind": kind}
    learned = {name: moment.isoformat() for name, moment in until.items() if moment and name in fits}
    (folder / "ranker.json").write_text(json.dumps({**known, "learned_until": learned}, indent=2))
    valid = validation_examples(task) if first else None
    by_kind = {} if valid is None else {name: by_question(scorer, valid) for name, scorer in first.items()}
    run.log(f"{kind} serves", parameters=fits[MODEL].num_parameters)
    kept = settle(
        run,
        MODEL,
        partial(scores, run, by_kind.get(kind), valid),
        max_loss_frac=settings.max_loss_frac,
        folder=folder,
        checkpoint=files[MODEL],
        num_parameters=fits[MODEL].num_parameters,
        curves={f"{name}: NDCG@10 of both questions": of_kind["curve"] for name, of_kind in states["first"].items()},
    )
    rows = list(metrics(run, kind, by_kind, settings.seed))
    table = pa.Table.from_pylist(rows, schema=contract("gold/model_metrics").schema)
    commit_beside(run, "gold/model_metrics", MODEL, table, kept)


def metrics(
    run: RayRun, kind: Kind, by_kind: Mapping[str, Mapping[str, Floats]], seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of gold/model_metrics: of the kind that serves, of each kind, and the paired difference of the first to each other."""
    for question in QUESTIONS if by_kind else ():
        metric, best = f"{question} NDCG@10", by_kind[kind][question]
        if not len(best):
            run.log(f"nobody wanted anything on the last window, {question}")
            continue
        others = {name: found[question] for name, found in by_kind.items() if name != kind}
        told = {metric: best, f"{metric} of {kind}": best}
        told |= {f"{metric} of {name}": found for name, found in others.items()}
        told |= {f"{metric}_minus_{name}": best - found for name, found in others.items()}
        for name, values in told.items():
            value, low, high = mean_interval(values, seed)
            named = {"model": MODEL, "version": run.run_id, "split": "valid", "metric": name}
            yield {**named, "value": value, "low": low, "high": high, "n": len(values)}
            if name == metric:
                run.log(f"NDCG@10 on the last window, {question}", value=value, low=low, high=high, users=len(values))
        for name, found in others.items():
            more, low, high = mean_interval(best - found, seed)
            figures = {kind: float(best.mean()), name: float(found.mean()), "difference": more}
            run.log(f"{kind} against {name}, {question}", **figures, low=low, high=high)


def validation_examples(task: Task) -> Examples:
    """The examples of the last window; their users are at most `max_users`."""
    shares = [task.of_share(rank) for rank in range(len(task.shares.partitions))]
    return joined([found[task.windows[-1]] for found in shares if task.windows[-1] in found])


def by_question(scorer: Scorer, valid: Examples) -> dict[str, Floats]:
    """NDCG@10 of each user who wanted something, by question."""
    found = ndcg_of(scorer.scores(valid.features, valid.pairs), valid)
    return {question: found[~np.isnan(found[:, place]), place] for place, question in enumerate(QUESTIONS)}


def scores(run: RayRun, new: Mapping[str, Floats] | None, valid: Examples | None, current: Row) -> Scores:
    """NDCG@10 on the last window of this version's first fit and of the current version's, which may have seen the window."""
    if new is None or valid is None:
        return Scores()
    folder = run.lake.local(current["uri"])
    try:
        known = json.loads((folder / "ranker.json").read_text())
        if known["features"] != list(FEATURES):
            return Scores(why=f"{current['version']} knows other features")
        before = by_question(ranker.load(folder, judged(MODEL)), valid)
    except UNREADABLE as error:
        return Scores(why=f"{run.uri(folder)} holds no ranker from before a validation window: {error}")
    named = {question: f"{question} NDCG@10" for question in new}
    return Scores({named[q]: new[q] for q in new}, {named[q]: before[q] for q in new})


def main(settings: TrainRankerSettings) -> None:
    with start_run("train_ranker", settings, RayRun) as run:
        run.version_of(TABLES.interactions)  # without which the job is skipped, before Ray is started
        windows = windows_of(run, settings.num_windows)
        with ray_session(settings.cluster):
            shares, useful, item_ids = examples(run, settings, windows)
            assert isinstance(shares, RayParts)
            task = task_of(settings, shares, useful, item_ids)
            states = fit_on_workers(
                train_worker,
                task,
                settings.cluster.model_copy(
                    update={"use_gpu": False}
                ),  # trees and small networks: workers share numbers by gloo
                name=run.run_id,
                storage=run.storage(MODEL),
                max_failures=settings.max_failures,
            )
            publish(run, task, states, windows, settings)


if __name__ == "__main__":
    main(TrainRankerSettings.from_command_line())
