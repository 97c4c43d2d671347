"""The peers of `python -m benchmarks.movielens`: runs in an environment of their own (requirements-recommenders.lock), not in ours.

    python -m benchmarks.movielens_peers FOLDER [PEER ...]

Reads FOLDER/known.parquet: what was known when the test window began, a row a rating (user, item, at, liked, is_valid). Each peer's
grid is tried on the ratings before the validation window and judged by NDCG@10 of what known users liked in it, and the best is fitted
to all of them. Writes FOLDER/lists-PEER.parquet: ten movies a user that the user had not rated; and FOLDER/told-PEER.json.
"""

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import psutil
import torch

from benchmarks.movielens_known import K, Known, Options, Scores, ndcg_on, top
from benchmarks.movielens_models import implicit_als, implicit_bpr, implicit_items, recbole_model, replay_model


class Peer(NamedTuple):
    """A model of a package: what it is tried with, and how it is fitted; scores come after each stage of its training."""

    package: str
    every: int  # epochs in a stage
    grid: list[dict[str, Any]]
    stages: Callable[[Known, Options], Iterator[Scores]]


def grid(**values: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Every combination."""
    return [dict(zip(values, one, strict=True)) for one in product(*values.values())]


LEARNS = ("liked", "all")
PEERS: dict[str, Peer] = {
    "implicit ALS": Peer(
        "implicit",
        1,
        grid(learns=LEARNS, factors=(8, 16, 32), regularization=(1.0, 10.0, 100.0), alpha=(1.0, 5.0)),
        implicit_als,
    ),
    "implicit BPR": Peer(
        "implicit",
        1,
        grid(
            learns=LEARNS,
            factors=(16,),
            learning_rate=(0.003, 0.01),
            regularization=(0.01, 0.1),
            iterations=(30, 100),
        ),
        implicit_bpr,
    ),
    "implicit item to item": Peer(
        "implicit",
        1,
        grid(
            learns=LEARNS,
            model=("CosineRecommender", "TFIDFRecommender", "BM25Recommender"),
            K=(20, 50, 100, 200, 1700),
        ),
        implicit_items,
    ),
    "RecBole EASE": Peer(
        "recbole",
        1,
        grid(learns=LEARNS, reg_weight=(100.0, 250.0, 500.0, 1000.0)),
        recbole_model("EASE", {}, epochs=1, every=1),
    ),
    "RecBole ItemKNN": Peer(
        "recbole",
        1,
        grid(learns=LEARNS, k=(100, 200), shrink=(0.0, 10.0, 100.0)),
        recbole_model("ItemKNN", {}, epochs=1, every=1),
    ),
    "RecBole LightGCN": Peer(
        "recbole",
        5,
        grid(learns=LEARNS, n_layers=(2,), learning_rate=(0.005,), reg_weight=(1e-4,)),
        recbole_model("LightGCN", {"embedding_size": 64}, epochs=60, every=5),
    ),
    "RecBole MultiVAE": Peer(
        "recbole",
        5,
        grid(learns=LEARNS, dropout_prob=(0.5,), anneal_cap=(0.2,)),
        recbole_model("MultiVAE", {"train_batch_size": 256}, epochs=100, every=5),
    ),
    "RecBole SASRec": Peer(
        "recbole",
        1,
        grid(learns=("liked",), hidden_dropout_prob=(0.3,)),
        recbole_model(
            "SASRec",
            {
                **{"train_neg_sample_args": None, "loss_type": "CE", "MAX_ITEM_LIST_LENGTH": 50, "hidden_size": 64},
                **{"inner_size": 128, "n_layers": 1, "n_heads": 2, "attn_dropout_prob": 0.3, "learning_rate": 0.001},
            },
            epochs=10,
            every=1,
        ),
    ),
    "RePlay ItemKNN": Peer(
        "replay-rec",
        1,
        grid(learns=LEARNS, num_neighbours=(50, 200), weighting=(None, "bm25")),
        replay_model("ItemKNN"),
    ),
    "RePlay SLIM": Peer(
        "replay-rec",
        1,
        grid(learns=("liked",), beta=(0.1, 1.0), lambda_=(0.003, 0.01, 0.03)),
        replay_model("SLIM"),
    ),
}


def tried(peer: Peer, known: Known, valid: pl.DataFrame) -> Iterator[tuple[float, int, dict[str, Any]]]:
    """NDCG@10 on the validation window, the stage and the options of all that is tried."""
    seen = known.seen()
    for options in peer.grid:
        for stage, scores in enumerate(peer.stages(known, options)):
            yield ndcg_on(valid, known, scores, seen), stage, options


def cpu_seconds() -> float:
    """Of this process and of those that it started, such as Spark's."""
    here = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (here, *here.children(recursive=True)))


def slug_of(name: str) -> str:
    """A peer's name in names of files."""
    return name.replace(" ", "-").lower()


def run_peer(name: str, ratings: pl.DataFrame, folder: Path) -> None:
    """Search on the validation window, fit to all, write lists."""
    peer, start = PEERS[name], cpu_seconds()
    before, valid = ratings.filter(~pl.col("is_valid")), ratings.filter(pl.col("is_valid"))
    results = list(tried(peer, Known.of(before), valid))
    value, stage, options = max(results, key=lambda result: result[0])
    searched = cpu_seconds()
    known = Known.of(ratings)
    for number, found in enumerate(peer.stages(known, options)):  # noqa: B007
        if number == stage:
            break
    fitted = cpu_seconds()
    places = top(found, known.seen())
    lists = pl.DataFrame(
        {
            "user": np.repeat(known.users, K),
            "rank": np.tile(np.arange(1, K + 1, dtype=np.int32), len(known.users)),
            "item": np.array(known.items)[places.ravel()],
        }
    )
    slug = slug_of(name)
    lists.write_parquet(folder / f"lists-{slug}.parquet")
    last = max(number for _, number, _ in results)
    told = {
        **{"peer": name, "slug": slug, "package": peer.package, "version": version(peer.package), "options": options},
        **{"grid": {key: list(dict.fromkeys(one[key] for one in peer.grid)) for key in options}},
        **{
            "epoch": (stage + 1) * peer.every,
            "last_epoch": (last + 1) * peer.every,
            "tried": len(results),
            "valid_ndcg": value,
        },
        **{"search_seconds": searched - start, "fit_seconds": fitted - searched},
    }
    (folder / f"told-{slug}.json").write_text(json.dumps(told))
    print(json.dumps(told), flush=True)


def main() -> int:
    """Run the peers that are named, or all; one that fails does not stop the others."""
    torch.set_num_threads(1)
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(PEERS)
    del sys.argv[1:]  # which RecBole reads too
    ratings = pl.read_parquet(folder / "known.parquet")
    (folder / "peers.json").write_text(json.dumps(list(PEERS)))
    for name in names:
        if (folder / f"told-{slug_of(name)}.json").exists():
            continue
        try:
            run_peer(name, ratings, folder)
        except Exception as error:
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
