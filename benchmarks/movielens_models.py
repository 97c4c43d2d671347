"""The models of implicit, RecBole and RePlay: each yields every user's score of every item, after each stage of its training."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import implicit.nearest_neighbours
import numpy as np
import polars as pl
import replay.models
import scipy.sparse as sp
import torch
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from pyspark.sql import SparkSession
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from recbole.data.utils import create_samplers, get_dataloader
from recbole.utils import get_model, get_trainer, init_seed
from replay.data import Dataset, FeatureHint, FeatureInfo, FeatureSchema, FeatureType
from replay.utils.session_handler import State

from benchmarks.movielens_known import SEED, Known, Options, Scores


def implicit_als(known: Known, options: Options) -> Iterator[Scores]:
    """Alternating least squares."""
    named = {name: options[name] for name in ("factors", "regularization", "alpha")}
    model = AlternatingLeastSquares(**named, iterations=15, num_threads=1, random_state=SEED)
    model.fit(known.matrix(options["learns"]), show_progress=False)
    yield model.user_factors @ model.item_factors.T


def implicit_bpr(known: Known, options: Options) -> Iterator[Scores]:
    """Bayesian personalised ranking."""
    named = {name: options[name] for name in ("factors", "learning_rate", "regularization", "iterations")}
    model = BayesianPersonalizedRanking(**named, num_threads=1, random_state=SEED)
    model.fit(known.matrix(options["learns"]), show_progress=False)
    yield model.user_factors @ model.item_factors.T


def implicit_items(known: Known, options: Options) -> Iterator[Scores]:
    """Item to item: cosine, TF-IDF or BM25."""
    model = getattr(implicit.nearest_neighbours, options["model"])(K=options["K"], num_threads=1)
    matrix = known.matrix(options["learns"])
    model.fit(matrix, show_progress=False)
    yield (matrix @ model.similarity).toarray()


def recbole_model(
    name: str, fixed: Options, *, epochs: int, every: int
) -> Callable[[Known, Options], Iterator[Scores]]:
    """A model of RecBole, with scores each `every` epochs."""

    def stages(known: Known, options: Options) -> Iterator[Scores]:
        # RecBole 1.2.1 uses names that NumPy 2 and SciPy no longer have.
        np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_  # type: ignore[attr-defined]
        sp.dok_matrix._update = lambda matrix, values: matrix._dict.update(values)

        rows = known.chosen(options["learns"])
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "known").mkdir()
            named = {"user": "user_id:token", "item": "item_id:token", "at": "timestamp:float"}
            rows.select(*named).rename(named).write_csv(Path(folder) / "known" / "known.inter", separator="\t")
            given = {
                **{"data_path": folder, "checkpoint_dir": folder, "device": "cpu", "use_gpu": False, "seed": SEED},
                **{"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "show_progress": False},
                **{"eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": None, "mode": "full"}},
                **{"state": "ERROR", "log_wandb": False, **fixed},
                **{key: value for key, value in options.items() if key != "learns"},
            }
            config = Config(model=name, dataset="known", config_dict=given)
            init_seed(SEED, True)
            dataset = create_dataset(config)
            built = dataset.build()
            samplers = create_samplers(config, dataset, built)
            data = get_dataloader(config, "train")(config, built[0], samplers[0], shuffle=config["shuffle"])
            init_seed(SEED, True)
            model = get_model(name)(config, data.dataset)
            trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
            for start in range(0, epochs, every):
                trainer.start_epoch, trainer.epochs = start, start + every
                trainer.fit(data, saved=False, show_progress=False)
                yield recbole_scores(model, dataset, known, rows)

    return stages


def recbole_scores(model: Any, dataset: Any, known: Known, rows: pl.DataFrame) -> Scores:
    """Every user's score of every item; minus infinity for those that RecBole did not see."""
    tokens = {name: dataset.field2token_id[f"{name}_id"] for name in ("user", "item")}
    users = [number for number in range(len(known.users)) if str(number) in tokens["user"]]
    items = [number for number in range(len(known.items)) if str(number) in tokens["item"]]
    given: dict[str, Any] = {"user_id": torch.tensor([tokens["user"][str(user)] for user in users])}
    length = getattr(model, "max_seq_length", None)
    if length:
        histories = dict(rows.group_by("user", maintain_order=True).agg("item").rows())
        sequence = torch.zeros((len(users), length), dtype=torch.int64)
        for row, user in enumerate(users):
            last = [tokens["item"][str(item)] for item in histories[user][-length:]]
            sequence[row, : len(last)] = torch.tensor(last)
        given |= {"item_id_list": sequence, "item_length": (sequence > 0).sum(dim=1)}
    model.eval()
    with torch.no_grad():
        found = model.full_sort_predict(Interaction(given)).reshape(len(users), -1).numpy()
    model.train()
    scores = np.full((len(known.users), len(known.items)), -np.inf, np.float32)
    scores[np.ix_(users, items)] = found[:, [tokens["item"][str(item)] for item in items]]
    return scores


def replay_model(name: str) -> Callable[[Known, Options], Iterator[Scores]]:
    """A model of RePlay on Spark, of one core."""

    def stages(known: Known, options: Options) -> Iterator[Scores]:

        spark = replay_spark()
        rows = known.chosen(options["learns"]).select(user_id="user", item_id="item", at="at", rating=pl.lit(1.0))
        hints = {"user_id": FeatureHint.QUERY_ID, "item_id": FeatureHint.ITEM_ID, "at": FeatureHint.TIMESTAMP}
        kinds = {**dict.fromkeys(("user_id", "item_id"), FeatureType.CATEGORICAL), "at": FeatureType.NUMERICAL}
        features = [FeatureInfo(column, kinds[column], hint) for column, hint in hints.items()]
        features.append(FeatureInfo("rating", FeatureType.NUMERICAL, FeatureHint.RATING))
        dataset = Dataset(
            feature_schema=FeatureSchema(features),
            interactions=spark.createDataFrame(rows.to_pandas()).coalesce(1),
            categorical_encoded=True,
            check_consistency=False,
        )
        given = {"allow_collect_to_master": True, "seed": SEED} if name == "SLIM" else {}
        model = getattr(replay.models, name)(
            **given, **{key: value for key, value in options.items() if key not in ("learns", "model")}
        )
        model.fit(dataset)
        lists = model.predict(dataset, k=len(known.items), filter_seen_items=False).toPandas()
        scores = np.full((len(known.users), len(known.items)), -np.inf, np.float32)
        scores[lists["user_id"].to_numpy(), lists["item_id"].to_numpy()] = lists["rating"].to_numpy()
        yield scores

    return stages


def replay_spark() -> Any:
    """The session that RePlay's models run in."""
    settings = {
        **{"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "1", "spark.driver.memory": "2g"},
        **{"spark.sql.execution.arrow.pyspark.enabled": "true", "spark.driver.bindAddress": "127.0.0.1"},
        **{"spark.driver.host": "127.0.0.1", "spark.sql.adaptive.enabled": "false"},
    }
    building = SparkSession.builder.master("local[1]")
    for key, value in settings.items():
        building = building.config(key, value)
    spark = building.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return State(spark).session
