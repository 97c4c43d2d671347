"""The als job on small tables, and its integers and preferences by themselves."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from lib.tables import contract
from tests.jobs.spark.interactions import LATER, pair
from tests.lakes import START, TEST_FROM, VALID_FROM, Row, SmallLake, arrow_rows


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["als"])


@pytest.fixture(scope="module")
def spark(job: ModuleType) -> SparkSession:
    from lib.engines.spark import session

    return session(job.AlsSettings(cluster={"driver_memory": "1g"}))


def interactions(spark: SparkSession, *rows: Row) -> DataFrame:
    return spark.createDataFrame(arrow_rows(contract("gold/interactions"), *rows))


def weighed(spark: SparkSession, *rows: tuple[str, str, float]) -> DataFrame:
    return spark.createDataFrame(list(rows), "user_key string, item_id string, weight double")


def test_a_strength_is_the_log_of_the_weight_in_units_of_the_median_pair(job: ModuleType, spark: SparkSession) -> None:
    found = job.strengths(weighed(spark, ("ann", "a", 5.0), ("ann", "b", 15.0), ("bob", "a", 5.0)))
    assert [(f.name, f.dataType.simpleString()) for f in found.schema] == [
        ("user_key", "string"),
        ("item_id", "string"),
        ("strength", "float"),
    ]
    strengths = {(row.user_key, row.item_id): row.strength for row in found.collect()}
    assert strengths == pytest.approx({("ann", "a"): np.log(2), ("ann", "b"): np.log(4), ("bob", "a"): np.log(2)})


@pytest.mark.parametrize("outlier", [0.001, 1000.0])
def test_one_unusual_pair_does_not_rescale_the_others(job: ModuleType, spark: SparkSession, outlier: float) -> None:
    usual = [("ann", "a", 1.0), ("ann", "b", 1.0), ("bob", "a", 1.0), ("bob", "b", 3.0)]
    without, beside = (job.strengths(weighed(spark, *rows)) for rows in (usual, [*usual, ("eve", "c", outlier)]))
    found = {(row.user_key, row.item_id): row.strength for row in beside.where("user_key != 'eve'").collect()}
    assert found == {(row.user_key, row.item_id): row.strength for row in without.collect()}
    assert found["bob", "b"] == pytest.approx(np.log(4))


@pytest.mark.slow
@pytest.mark.parametrize("num_partitions", [1, 5])
def test_ids_are_numbered_in_their_order_whatever_the_partitions(
    job: ModuleType, spark: SparkSession, num_partitions: int
) -> None:
    names = [f"user{number:03}" for number in range(40)]
    shuffled = [names[(7 * i) % 40] for i in range(80)]  # each twice
    frame = spark.createDataFrame([(name,) for name in shuffled], "id string").repartition(num_partitions)
    spark.conf.set("spark.sql.adaptive.enabled", "false")  # else a sort of so few rows is one partition
    try:
        found = job.numbered(frame, "id").collect()
    finally:
        spark.conf.unset("spark.sql.adaptive.enabled")
    assert sorted((row["id"], row["number"]) for row in found) == [(name, i) for i, name in enumerate(names)]


def test_nothing_has_no_numbers(job: ModuleType, spark: SparkSession) -> None:
    assert job.numbered(spark.createDataFrame([], "id string"), "id").count() == 0


@pytest.mark.parametrize(
    ("num_pairs", "expected"), [(1, 2), (1_000_000, 2), (1_000_001, 3), (100_000_000, 200), (10**10, 500)]
)
def test_the_blocks_follow_the_pairs_and_no_cluster(job: ModuleType, num_pairs: int, expected: int) -> None:
    assert job.blocks_for(num_pairs) == expected


def two_tastes() -> Iterator[dict[str, Any]]:
    """Users of two tastes, each with all but one of the five items of theirs."""
    for taste, letters in (("x", "abcde"), ("y", "fghij")):
        for number, missing in enumerate(letters):
            for letter in letters:
                if letter != missing:
                    yield pair(f"{taste}{number}", letter)


def test_factors_recover_two_planted_tastes_and_land_with_their_version(job: ModuleType, small_lake: SmallLake) -> None:
    small_lake.put("gold/interactions", *two_tastes(), pair("z", "later", **LATER))
    settings = job.AlsSettings(**small_lake.shared_settings, rank=4, num_iterations=5)
    job.main(settings)
    stored = small_lake.read("gold/vectors")
    fits = {("als", "als-000001", TEST_FROM), ("als", "als-000001-valid", VALID_FROM)}
    assert {(r["model"], r["version"], r["as_of"]) for r in stored} == fits
    rows = [row for row in stored if row["version"] == "als-000001"]
    users = {r["id"]: np.array(r["values"]) for r in rows if r["kind"] == "user"}
    items = {r["id"]: np.array(r["values"]) for r in rows if r["kind"] == "item"}
    assert sorted(users) == sorted({p["user_key"] for p in two_tastes()})
    assert sorted(items) == list("abcdefghij")
    for user, factor in users.items():
        best = sorted(items, key=lambda item: -float(factor @ items[item]))[:5]
        assert sorted(best) == list("abcde" if user.startswith("x") else "fghij")
    assert [(m["model"], m["version"], m["status"], m["num_parameters"]) for m in small_lake.read("ops/models")] == [
        ("als", "als-000001", "promoted", 80)
    ]


@pytest.mark.slow
def test_a_second_fit_gives_the_same_factors_and_other_models_keep_their_vectors(
    job: ModuleType, small_lake: SmallLake
) -> None:
    small_lake.put("gold/interactions", *two_tastes(), pair("x0", "a", split="valid", event_time=VALID_FROM))
    other = {"model": "two_tower", "version": "v", "kind": "item", "id": "a", "values": [1.0], "as_of": START}
    small_lake.put("gold/vectors", other)
    factors = []
    for _ in range(2):
        job.main(job.AlsSettings(**small_lake.shared_settings, rank=4, num_iterations=3))
        rows = small_lake.read("gold/vectors")
        assert [row for row in rows if row["model"] == "two_tower"] == [other]
        own = [row for row in rows if row["model"] == "als"]
        assert len({row["version"] for row in own}) == 2, "only the version that is now current, with its judged fit"
        factors.append({(r["kind"], r["id"], r["as_of"]): r["values"] for r in own})
    assert factors[0].keys() == factors[1].keys()
    for key, values in factors[0].items():
        np.testing.assert_allclose(factors[1][key], values, atol=1e-3)


def current_fits(*, finds_wanted: bool) -> Iterator[dict[str, Any]]:
    """Vectors of als-000000, by which everyone's wanted item stands first, or last."""
    for version, as_of in (("als-000000", TEST_FROM), ("als-000000-valid", VALID_FROM)):
        row = {"model": "als", "version": version, "as_of": as_of}
        for letters, taste in (("abcde", "x"), ("fghij", "y")):
            for number, letter in enumerate(letters):
                place = "abcdefghij".index(letter)
                one_hot = [float(position == place) for position in range(10)]
                yield row | {"kind": "item", "id": letter, "values": one_hot}
                user = one_hot if finds_wanted else [-value for value in one_hot]
                yield row | {"kind": "user", "id": f"{taste}{number}", "values": user}


@pytest.mark.slow
@pytest.mark.parametrize("finds_wanted", [True, False])
def test_a_version_that_finds_less_on_valid_stands_as_a_candidate_beside_the_current_one(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str], finds_wanted: bool
) -> None:
    wanted = [  # in the validation window everyone takes the item of their taste that they had not
        pair(f"{taste}{number}", missing, split="valid", event_time=VALID_FROM)
        for taste, letters in (("x", "abcde"), ("y", "fghij"))
        for number, missing in enumerate(letters)
    ]
    small_lake.put("gold/interactions", *two_tastes(), *wanted)
    small_lake.put("gold/vectors", *current_fits(finds_wanted=finds_wanted))
    before = small_lake.read("gold/vectors")
    current = {"model": "als", "version": "als-000000", "uri": "gold/vectors", "run_id": "r", "inputs": []}
    small_lake.put("ops/models", current | {"status": "promoted", "created_at": START, "as_of": TEST_FROM})
    job.main(job.AlsSettings(**small_lake.shared_settings, rank=4, num_iterations=5))
    models = {row["version"]: row for row in small_lake.read("ops/models")}
    statuses = {version: row["status"] for version, row in models.items()}
    stored = small_lake.read("gold/vectors")
    own = {"als-000001", "als-000001-valid"}
    if finds_wanted:
        assert statuses == {"als-000000": "promoted", "als-000001": "candidate"}
        assert "als als-000001 stands as a candidate: NDCG@10 0." in capsys.readouterr().out
        assert "als-000000's 1.0000" in models["als-000001"]["reason"]
        assert "on 10 validation rows; too low in NDCG@10" in models["als-000001"]["reason"]
        assert [row for row in stored if row["version"] not in own] == before
    else:
        assert statuses == {"als-000000": "retired", "als-000001": "promoted"}
        assert f"als-000000's {1 / np.log2(11):.4f}" in models["als-000001"]["reason"]  # at rank 10
        assert {row["version"] for row in stored} == own


def test_without_interactions_before_as_of_the_run_is_skipped(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("gold/interactions", pair("z", "later", **LATER))
    job.main(job.AlsSettings(**small_lake.shared_settings))
    assert "skipped: no interaction before 2026-01-21 00:00" in capsys.readouterr().out
    assert small_lake.read("gold/vectors") == []
