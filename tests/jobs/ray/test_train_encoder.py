from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from lib.cli.jobs import load_job
from lib.engines.ray_tasks import RayRun
from lib.models.baselines import PENALTIES
from lib.models.fitting import Examples
from lib.models.judging import log_likelihoods
from lib.models.purchase_encoder import PurchaseEncoder
from lib.pipeline import JOBS
from lib.runs import model_registry
from lib.runs.weights import load_weights
from tests.jobs.ray.killed import run_to_a_broken_end
from tests.lakes import TEST_FROM, VALID_FROM, SmallLake

TRAIN_AS_OF = datetime(2026, 1, 6, tzinfo=UTC)
EXAMPLE_TIMES = {"train": TRAIN_AS_OF, "valid": VALID_FROM, "test": TEST_FROM}
NUM_USERS, NUM_ITEMS = 120, 20
CHECKPOINTS_BEFORE_KILL = 3


def likes_second_half(user: int) -> bool:
    """The user's taste: of the second half of the items, or of the first. Each of two workers gets users of both tastes."""
    return user // 2 % 2 == 1


class EncoderLake(SmallLake):
    """The tables that the job reads, of two tastes."""

    def put_examples(
        self,
        label_of: Callable[[int], int],
        *,
        num_users: int = NUM_USERS,
        noise_of: Callable[[int], float] = lambda user: float(user % 3 == 0),
    ) -> None:
        """One example a user and split; the first feature goes with the user's number."""
        self.put(
            "gold/examples",
            *(
                {
                    "user_key": f"u{user:03d}",
                    "as_of": as_of,
                    "split": split,
                    "features": [user / num_users, noise_of(user)],
                    "label": label_of(user),
                }
                for split, as_of in EXAMPLE_TIMES.items()
                for user in range(num_users)
            ),
        )

    def put_interactions(self, *, num_users: int = NUM_USERS) -> None:
        """Four items a user in train and one more in valid; one user and one item are first seen in test."""
        rng = np.random.default_rng(0)
        rows = []
        for user in range(num_users):
            times = [("train", TRAIN_AS_OF)] * 4 + [("valid", VALID_FROM)]
            for item, (split, time) in zip(rng.permutation(NUM_ITEMS // 2)[:5], times, strict=True):
                rows.append((f"u{user:03d}", f"i{item + NUM_ITEMS // 2 * likes_second_half(user):02d}", split, time))
        rows += [("late", "i00", "test", TEST_FROM), ("u000", "late", "test", TEST_FROM)]
        counts = {"weight": 1.0, "count": 1, "num_relevant": 1}
        self.put(
            "gold/interactions",
            *(
                {"user_key": user, "item_id": item, "split": split, **counts, "event_time": t}
                for user, item, split, t in rows
            ),
        )

    def put_profiles(self) -> None:
        """Each user bought on two days, see `put_interactions`, and spent 20."""
        known = {"as_of": TEST_FROM, "first_event_at": TRAIN_AS_OF, "last_event_at": VALID_FROM, "spend": Decimal(20)}
        counts = ("events", "sessions", "active_days", "views", "carts", "purchases", "returns", "items")
        known |= dict.fromkeys([f"num_{name}" for name in counts] + ["recency_days", "tenure_days"], 2)
        self.put("gold/user_profiles", *({"user_key": f"u{user:03d}"} for user in range(NUM_USERS)), base=known)

    def settings(self, job: ModuleType, **overrides: Any) -> Any:
        return job.TrainEncoderSettings(**(self.shared_settings | overrides))


@pytest.fixture
def small_lake(tmp_path: Path) -> EncoderLake:
    return EncoderLake(tmp_path)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["train_encoder"])


@pytest.mark.slow
def test_a_killed_worker_and_a_failed_job_leave_the_tables_of_one_whole_run(
    small_lake: EncoderLake, job: ModuleType, on_workers: None, capfd: pytest.CaptureFixture[str]
) -> None:
    small_lake.put_examples(lambda user: int(user >= NUM_USERS / 2))
    small_lake.put_interactions()
    brands = [{"item_id": f"i{item:02d}", "category": ["Home"], "brand": f"b{item % 2}"} for item in range(NUM_ITEMS)]
    small_lake.put("silver/items", *brands)
    small_lake.put_profiles()
    settings = small_lake.settings(
        job,
        num_epochs=12,
        patience=12,
        learning_rate=1e-2,
        batch_size=32,
        two_tower_epochs=3,
        two_tower_batch_size=64,
        two_tower_chunk_rows=160,  # two chunks a worker
        num_resamples=100,
    )

    run_to_a_broken_end(
        job,
        settings,
        checkpoints=small_lake.lake.folder / "files" / "encoder",
        after_checkpoints=CHECKPOINTS_BEFORE_KILL,
        last_output="publish_two_towers",
    )
    assert {row["model"] for row in small_lake.read("gold/vectors")} == {"encoder"}

    version_of_encoder = small_lake.lake.data_version("gold/model_metrics")
    version_of_propensities = small_lake.lake.data_version("gold/propensity_to_buy")
    capfd.readouterr()
    job.main(settings)
    assert "resumes train_encoder-000001" in capfd.readouterr().out
    assert small_lake.lake.data_version("gold/model_metrics") == version_of_encoder
    assert small_lake.lake.data_version("gold/propensity_to_buy") == version_of_propensities
    check_vectors(small_lake)
    check_metrics(small_lake)
    check_propensities(small_lake)
    for model in ("encoder", "two_tower"):
        current = model_registry.current_model(small_lake.lake, model)
        assert current is not None
        assert (small_lake.lake.folder / current["uri"] / f"{model}.safetensors").is_file()


def check_vectors(small_lake: EncoderLake) -> None:
    stored = small_lake.read("gold/vectors")
    assert {(row["model"], row["version"], row["as_of"]) for row in stored} == {
        ("encoder", "train_encoder-000001", TEST_FROM),
        ("two_tower", "train_encoder-000001", TEST_FROM),
        ("two_tower", "train_encoder-000001-valid", VALID_FROM),
    }
    rows = [row for row in stored if row["version"] == "train_encoder-000001"]
    vectors = {(row["model"], row["kind"], row["id"]): np.array(row["values"]) for row in rows}
    users, items = [f"u{user:03d}" for user in range(NUM_USERS)], [f"i{item:02d}" for item in range(NUM_ITEMS)]
    # Nobody and nothing that was first seen from `as_of` on.
    expected = {("encoder", "user", user) for user in users} | {("two_tower", "user", user) for user in users}
    assert set(vectors) == expected | {("two_tower", "item", item) for item in items}
    assert {len(vectors[key]) for key in vectors if key[0] == "encoder"} == {128}
    scores = (
        np.array([vectors["two_tower", "user", user] for user in users])
        @ np.array([vectors["two_tower", "item", item] for item in items]).T
    )
    likes_first_half = scores[:, : NUM_ITEMS // 2].mean(axis=1) > scores[:, NUM_ITEMS // 2 :].mean(axis=1)
    expected_taste = [not likes_second_half(user) for user in range(NUM_USERS)]
    assert np.mean(likes_first_half == expected_taste) >= 0.95


def check_propensities(small_lake: EncoderLake) -> None:
    """Those of the model with the lowest log loss on valid; those who buy are the more likely half, and each spent 10 a day."""
    losses = {
        row["model"]: row["value"]
        for row in small_lake.read("gold/model_metrics")
        if (row["split"], row["metric"]) == ("valid", "log_loss")
    }
    stored = {row["user_key"]: row for row in small_lake.read("gold/propensity_to_buy")}
    assert set(stored) == {f"u{user:03d}" for user in range(NUM_USERS)}
    assert {(row["as_of"], row["model"], row["version"]) for row in stored.values()} == {
        (TEST_FROM, min(losses, key=lambda model: losses[model]), "train_encoder-000001")
    }
    likely = [stored[f"u{user:03d}"]["probability"] for user in range(NUM_USERS)]
    assert min(likely[NUM_USERS // 2 + 5 :]) > 0.8
    assert max(likely[: NUM_USERS // 2 - 5]) < 0.2
    assert {row["decile"] for row in stored.values() if row["probability"] > 0.8} <= set(range(1, 6))
    for row in stored.values():
        assert float(row["expected_spend"]) == pytest.approx(10 * row["probability"], abs=1e-4)


def check_metrics(small_lake: EncoderLake) -> None:
    rows = {(r["model"], r["split"], r["metric"]): r for r in small_lake.read("gold/model_metrics")}
    metrics = {"auc", "pr_auc", "log_loss"}
    models = ("logistic_regression", "boosted_trees", "encoder")
    compared = [(models[2], models[0]), (models[2], models[1]), (models[1], models[0])]
    expected = {(model, metric) for model in models for metric in metrics | {"ece"}}
    expected |= {(model, f"{metric}_minus_{other}") for model, other in compared for metric in metrics}
    assert {key for key in rows if "_bin_" not in key[2]} == {
        *((model, split, metric) for split in ("valid", "test") for model, metric in expected),
        *((model, "test", "ece_calibrated") for model in models),
    }
    assert rows["encoder", "test", "auc"]["value"] > 0.95
    assert rows["encoder", "test", "auc"]["n"] == NUM_USERS
    # What is scored on test was fitted on train and valid, what is scored on valid on train alone.
    examples = small_lake.read("gold/examples")
    for split, fitted_on in (("valid", ("train",)), ("test", ("train", "valid"))):
        known = [row for row in examples if row["split"] in fitted_on]
        asked = [row for row in examples if row["split"] == split]
        features, labels = ([row[name] for row in known] for name in ("features", "label"))
        # Labels that one feature tells want the weakest penalty.
        regression = LogisticRegression(C=max(PENALTIES), max_iter=1000).fit(np.float32(features), labels)
        given = regression.predict_proba(np.float32([row["features"] for row in asked]))[:, 1]
        expected = log_loss([row["label"] for row in asked], given)
        assert rows["logistic_regression", split, "log_loss"]["value"] == pytest.approx(expected, abs=1e-3)
    current = model_registry.current_model(small_lake.lake, "encoder")
    assert current is not None
    folder = small_lake.lake.folder / current["uri"]
    served, chosen = (load_weights(folder / f"encoder{end}.safetensors")[0] for end in ("", "-valid"))
    both = [row for row in examples if row["split"] != "test"]
    known = Examples(
        *(torch.tensor([row[name] for row in both], dtype=torch.float32) for name in ("features", "label"))
    )
    encoders = [PurchaseEncoder(2) for _ in (served, chosen)]
    for encoder, weights in zip(encoders, (served, chosen), strict=True):
        encoder.load_state_dict(weights)
    better, worse = (log_likelihoods(encoder, known).mean() for encoder in encoders)
    assert better > worse, "twice the batches in as many epochs"


@pytest.mark.slow
def test_a_worse_version_stands_as_a_candidate_and_the_current_one_keeps_its_rows(
    small_lake: EncoderLake, job: ModuleType, on_workers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put_examples(lambda user: int(user >= NUM_USERS / 2))
    small_lake.put_interactions()
    trained = {"num_epochs": 8, "learning_rate": 1e-2, "batch_size": 32, "num_resamples": 100}
    trained |= {"two_tower_epochs": 3, "two_tower_batch_size": 64}
    job.main(small_lake.settings(job, **trained))
    before = {table: small_lake.read(table) for table in ("gold/vectors", "gold/model_metrics")}
    capsys.readouterr()
    hardly = {"num_epochs": 1, "learning_rate": 1e-6, "two_tower_epochs": 1, "two_tower_learning_rate": 1e-6}
    job.main(small_lake.settings(job, **(trained | hardly)))
    told = capsys.readouterr().out
    assert "encoder train_encoder-000002 stands as a candidate: log likelihood" in told
    assert "the encoder of this run stands back" in told
    assert {row["model"] for row in small_lake.read("gold/propensity_to_buy")} <= {
        "logistic_regression",
        "boosted_trees",
    }
    assert "leaves expected_spend null" in told
    assert {row["expected_spend"] for row in small_lake.read("gold/propensity_to_buy")} == {None}
    assert "two_tower train_encoder-000002 stands as a candidate: NDCG@10" in told
    statuses = {(row["model"], row["version"]): row["status"] for row in small_lake.read("ops/models")}
    assert statuses == {
        (model, f"train_encoder-00000{number}"): status
        for model in ("encoder", "two_tower")
        for number, status in ((1, "promoted"), (2, "candidate"))
    }
    for table, rows in before.items():
        stored = small_lake.read(table)
        assert [row for row in stored if row["version"].startswith("train_encoder-000001")] == rows
        assert len(stored) == 2 * len(rows)


@pytest.mark.bad_input("a single class of labels")
@pytest.mark.slow
def test_a_single_class_of_labels_leaves_the_purchase_model_out_in_one_line(
    small_lake: EncoderLake, job: ModuleType, on_workers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put_examples(lambda _: 1)
    small_lake.put_interactions()
    job.main(small_lake.settings(job, two_tower_epochs=1))
    told = [line for line in capsys.readouterr().out.splitlines() if "leaves out the purchase model" in line]
    assert len(told) == 1
    assert f"all {NUM_USERS} labels of the train split are 1" in told[0]
    models = small_lake.lake.dataset("gold/vectors").to_table(columns=["model"])["model"].unique().to_pylist()
    assert models == ["two_tower"]
    assert not small_lake.lake.exists("gold/model_metrics")
    assert not small_lake.lake.exists("gold/propensity_to_buy")


@pytest.mark.bad_input("a single class of labels")
@pytest.mark.parametrize(("num_users", "label"), [(NUM_USERS, 0), (1, 1)])
def test_no_positive_label_and_one_user_leave_the_purchase_model_out(
    small_lake: EncoderLake, job: ModuleType, capsys: pytest.CaptureFixture[str], num_users: int, label: int
) -> None:
    small_lake.put_examples(lambda _: label, num_users=num_users)
    small_lake.put_interactions()
    with job.start_run("train_encoder", small_lake.settings(job), RayRun) as run:
        num_examples, num_positive = job.count_examples(run)
        assert not job.has_both_classes(run, num_examples["train"], num_positive)
    assert f"all {num_users} labels of the train split are {label}" in capsys.readouterr().out


@pytest.mark.bad_input("features that are not numbers")
@pytest.mark.usefixtures("ray_cluster")
def test_features_that_are_not_numbers_are_refused_in_one_line(small_lake: EncoderLake, job: ModuleType) -> None:
    small_lake.put_examples(lambda user: user % 2, noise_of=lambda user: float("nan") if user == 3 else 0.0)
    small_lake.put_interactions()
    with pytest.raises(ValueError, match=r"gold/examples: 3 rows have features .* not a number; run featurize again"):
        job.main(small_lake.settings(job))
    assert not small_lake.lake.exists("gold/vectors")


@pytest.mark.bad_input("fewer rows than workers")
@pytest.mark.usefixtures("ray_cluster")
def test_fewer_users_than_workers_are_refused_in_one_line(small_lake: EncoderLake, job: ModuleType) -> None:
    small_lake.put_examples(lambda user: user % 2, num_users=2)
    small_lake.put_interactions()
    with pytest.raises(ValueError, match=r"2 labelled users .* fewer than the 3 .* --cluster.num-workers 2"):
        job.main(small_lake.settings(job, cluster={"num_workers": 3}))
    assert not small_lake.lake.exists("gold/vectors")


@pytest.mark.bad_input("fewer rows than workers")
@pytest.mark.usefixtures("ray_cluster")
def test_a_log_whose_history_is_of_fewer_users_than_workers_is_refused(
    small_lake: EncoderLake, job: ModuleType
) -> None:
    small_lake.put_examples(lambda user: user % 2)
    small_lake.put_interactions(num_users=1)
    with pytest.raises(ValueError, match="1 users with a history"):
        job.main(small_lake.settings(job))
    assert not small_lake.lake.exists("gold/vectors")


def test_a_log_without_users_is_skipped(
    small_lake: EncoderLake, job: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("gold/examples")
    small_lake.put("gold/interactions")
    job.main(small_lake.settings(job))
    assert "skipped: there is no gold/examples" in capsys.readouterr().out
    assert not small_lake.lake.exists("gold/vectors")


@pytest.mark.usefixtures("ray_cluster")
def test_batches_are_shared_out_among_the_workers(small_lake: EncoderLake, job: ModuleType) -> None:
    small_lake.put_examples(lambda user: user % 2)
    small_lake.put_interactions()
    settings = small_lake.settings(job, batch_size=100, two_tower_batch_size=90, cluster={"num_workers": 3})
    with job.start_run("train_encoder", settings, RayRun) as run:
        task = job.task_of(run, settings, num_examples=job.count_examples(run)[0], with_encoder=True)
    towers = task.towers
    assert (task.encoder.batch_size, towers.plan.batch_size, towers.plan.num_parts) == (34, 30, 1)
    assert {model: fit.as_of for model, fit in towers.fits.items()} == {
        "two_tower-valid": VALID_FROM,
        "two_tower": TEST_FROM,
    }
    shares = [towers.chunks("two_tower", rank).sampler(0).pairs for rank in range(3)]
    assert sum(len(share.user.unique()) for share in shares) == NUM_USERS
    assert sum(len(share.user) for share in shares) == 5 * NUM_USERS


@pytest.mark.usefixtures("ray_cluster")
def test_a_share_too_large_for_a_worker_is_taken_in_chunks_of_whole_users(
    small_lake: EncoderLake, job: ModuleType
) -> None:
    small_lake.put_examples(lambda user: user % 2)
    small_lake.put_interactions()
    settings = small_lake.settings(job, two_tower_chunk_rows=110, cluster={"num_workers": 2})
    with job.start_run("train_encoder", settings, RayRun) as run:
        towers = job.task_of(run, settings, num_examples=job.count_examples(run)[0], with_encoder=False).towers
    assert towers.plan.num_parts == 3, "602 rows of two workers"
    for model, num_known in (("two_tower", 5), ("two_tower-valid", 4)):
        pairs = [load() for rank in range(2) for load in towers.chunks(model, rank).loads]
        assert len(pairs) == 2 * 3
        assert sum(len(chunk.user.unique()) for chunk in pairs) == NUM_USERS
        assert all(chunk.user.bincount().tolist() == [num_known] * len(chunk.user.unique()) for chunk in pairs)


@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_none_of_whose_users_are_known_works_on_those_of_the_next(
    small_lake: EncoderLake, job: ModuleType
) -> None:
    small_lake.put_examples(lambda user: user % 2)
    small_lake.put_interactions(num_users=1)
    settings = small_lake.settings(job, two_tower_chunk_rows=2, cluster={"num_workers": 2})
    with job.start_run("train_encoder", settings, RayRun) as run:
        towers = job.task_of(run, settings, num_examples=job.count_examples(run)[0], with_encoder=False).towers
    assert towers.plan.num_parts == 2, "chunks, of which three are empty"
    for rank in range(2):
        chunks = towers.chunks("two_tower", rank)
        assert chunks.sampler(0).pairs.user.tolist() == [0] * 5
        assert set(chunks.order(4, torch.Generator())) == {0}
