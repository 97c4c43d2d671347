"""The tasks of train_encoder, run one after the other in this process."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lib.engines.arrow_tasks import TABLE_FILES, InProcess, files_of, gathered
from lib.engines.local_tasks import LocalEngine, batches_of
from lib.models import tasks
from lib.models.known_fits import distinct_items
from lib.models.purchase_encoder import PurchaseEncoder
from lib.models.rows import INTERACTION_COLUMNS, Weights
from lib.models.tasks import TowerFit
from lib.models.two_tower import TwoTower
from lib.ranking.known_pairs import spread_interactions
from lib.ranking.vector_files import copy_vectors
from tests.lakes import TEST_FROM, VALID_FROM, SmallLake

NUM_USERS, NUM_SHARES = 40, 3
ITEMS = [f"i{number}" for number in range(7)]
MOMENTS = {"early": VALID_FROM, "late": TEST_FROM}
COUNTS = {"split": "train", "weight": 1.0, "count": 1, "num_relevant": 1}


def interactions(factor: int = 1) -> list[dict[str, Any]]:
    """A user has three items, one on each of three days; the first is known early."""
    return [
        {
            "user_key": f"u{user:04d}",
            "item_id": ITEMS[(user + n) % 7],
            "event_time": VALID_FROM + timedelta(days=5 * n - 5),
        }
        for user in range(NUM_USERS * factor)
        for n in range(3)
    ]


def files(lake: SmallLake, table: str) -> pa.Table:
    rows = [{"location": path, "num_bytes": size, "kind": ""} for path, size in lake.lake.data_files(table)]
    return pa.Table.from_pylist(rows, schema=TABLE_FILES)


def test_whole_users_are_in_one_share_and_every_row_is_in_one(lake: SmallLake, engine: LocalEngine) -> None:
    lake.put("gold/interactions", *interactions(), base=COUNTS)
    read = engine.over(files(lake, "gold/interactions"), task_bytes=1)
    assert len(read.partitions) == 3, "a file a day"
    shares = read.then(
        spread_interactions, columns=INTERACTION_COLUMNS, until=TEST_FROM, num_shards=NUM_SHARES
    ).to_shards(NUM_SHARES)
    fit = TowerFit("v", TEST_FROM, pa.array(ITEMS), NUM_USERS, 3 * NUM_USERS)
    found = [tasks.pairs_of(batches_of(share), fit, Weights(30, 0.1)) for share in shares.partitions]
    assert sorted(user for known in found for user in known.user_keys.to_pylist()) == [
        f"u{u:04d}" for u in range(NUM_USERS)
    ]
    assert all(known.pairs.user.bincount().tolist() == [3] * len(known.user_keys) for known in found)
    assert all(len(known.user_keys) for known in found)

    counted = shares.then(tasks.count_known, moments=MOMENTS)
    counts = gathered(counted.of(tasks.COUNT).collected(), tasks.COUNT, tasks.GATHERED)
    totals = counts.group_by("fit").sum().sort("fit").rows()
    assert totals == [("early", NUM_USERS, NUM_USERS), ("late", NUM_USERS, 3 * NUM_USERS)]


def reaching_the_driver(lake: SmallLake, engine: LocalEngine, factor: int) -> int:
    """Bytes of what tasks tell of a log."""
    lake.put("gold/interactions", *interactions(factor), base=COUNTS)
    read = engine.over(files(lake, "gold/interactions"), task_bytes=1 << 30)
    shares = read.then(
        spread_interactions, columns=INTERACTION_COLUMNS, until=TEST_FROM, num_shards=NUM_SHARES
    ).to_shards(NUM_SHARES)
    counted = shares.then(tasks.count_known, moments=MOMENTS)
    items = counted.of(tasks.ITEM).to_shards(1).then(distinct_items)
    towers = TwoTower(torch.zeros(7, 1, dtype=torch.int64), 64)
    given: Mapping[str, Any] = {
        "towers": InProcess(towers),
        "fit": InProcess(TowerFit("v", TEST_FROM, pa.array(ITEMS), 0, 0)),
        "weights": Weights(30, 0.1),
    }
    written = shares.then(tasks.write_tower_users, lake=lake.lake, **given)
    told = [content for parts in (counted.of(tasks.COUNT), items, written) for _, content in parts.collected()]
    return sum(map(len, told))


def test_what_reaches_the_driver_does_not_grow_with_the_users(lake: SmallLake, engine: LocalEngine) -> None:
    once, four_times = (reaching_the_driver(lake, engine, factor) for factor in (1, 4))
    assert four_times < 1.1 * once


def test_weighed_pairs_of_a_share_are_those_of_its_rows_in_as_many_shares(lake: SmallLake, engine: LocalEngine) -> None:
    lake.put("gold/interactions", *interactions(), base=COUNTS)
    read = engine.over(files(lake, "gold/interactions"), task_bytes=1)
    shares = read.then(spread_interactions, columns=INTERACTION_COLUMNS, until=TEST_FROM, num_shards=NUM_SHARES)
    shares = shares.to_shards(NUM_SHARES)
    fit, weights = TowerFit("v", TEST_FROM, pa.array(ITEMS), NUM_USERS, 3 * NUM_USERS), Weights(30, 0.1)
    weighed = shares.then(tasks.weigh_pairs, fit=InProcess(fit), weights=weights).to_shards(NUM_SHARES)
    for share, pairs in zip(shares.partitions, weighed.partitions, strict=True):
        expected, found = tasks.pairs_of(batches_of(share), fit, weights).pairs, tasks.pairs_in(batches_of(pairs))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        assert [one.dtype for one in found] == [one.dtype for one in expected]


def test_of_a_share_of_which_a_fit_knows_nobody_there_are_no_pairs(lake: SmallLake, engine: LocalEngine) -> None:
    lake.put("gold/interactions", *interactions(), base=COUNTS)
    read = engine.over(files(lake, "gold/interactions"), task_bytes=1 << 30)
    shares = read.then(spread_interactions, columns=INTERACTION_COLUMNS, until=TEST_FROM, num_shards=1)
    nobody = TowerFit("v", VALID_FROM - timedelta(days=30), pa.array([], pa.string()), 0, 0)
    weighed = shares.then(tasks.weigh_pairs, fit=InProcess(nobody), weights=Weights(30, 0.1))
    assert list(weighed.pieces()) == []


def test_items_vectors_are_written_by_tasks_of_some_items_each(
    lake: SmallLake, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "ITEMS_PER_TASK", 3)
    towers, fit = TwoTower(torch.zeros(7, 1, dtype=torch.int64), 4), TowerFit("v", TEST_FROM, pa.array(ITEMS), 0, 0)
    ranges = tasks.item_ranges(fit, 4)
    assert ranges.to_pylist() == [
        {"first": 0, "last": 3, "num_bytes": 48},
        {"first": 3, "last": 6, "num_bytes": 48},
        {"first": 6, "last": 7, "num_bytes": 16},
    ]
    given = {"lake": lake.lake, "towers": InProcess(towers), "fit": InProcess(fit)}
    written = files_of(
        engine.over(ranges, task_bytes=1).then(tasks.write_tower_items, **given).collected(), "gold/vectors"
    )
    assert len(written) == 3
    stored = [
        pq.read_table(lake.lake.folder / "gold" / "vectors" / file.path, partitioning=None).to_pylist()
        for file in written
    ]
    found = {row["id"]: row["values"] for rows in stored for row in rows}
    assert found == dict(zip(ITEMS, towers.item_vectors(torch.arange(7)).tolist(), strict=True))


def test_representations_are_those_of_the_encoder_and_other_versions_are_kept(
    lake: SmallLake, engine: LocalEngine
) -> None:
    rows = [{"user_key": f"u{u}", "as_of": TEST_FROM, "split": "test", "features": [u / 5, 1.0]} for u in range(5)]
    lake.put("gold/examples", *rows)
    encoder = PurchaseEncoder(2)
    given = {"encoder": InProcess(encoder), "version": "new", "as_of": TEST_FROM}
    written = engine.over(files(lake, "gold/examples"), task_bytes=1).then(
        tasks.write_representations, lake=lake.lake, **given
    )
    (file,) = files_of(written.collected(), "gold/vectors")
    base = {"model": "encoder", "kind": "user", "as_of": TEST_FROM, "values": [1.0]}
    lake.put("gold/vectors", *({"version": version, "id": "x"} for version in ("old", "older")), base=base)
    folder = lake.lake.folder / "gold" / "vectors"
    copied = engine.over(files(lake, "gold/vectors"), task_bytes=1).then(copy_vectors, lake=lake.lake, version="old")
    (kept,) = files_of(copied.collected(), "gold/vectors")
    assert kept.partition_values == file.partition_values == {"model": "encoder", "kind": "user"}
    stored = pq.read_table(folder / file.path, partitioning=None)
    expected = encoder.represent(torch.tensor([row["features"] for row in rows]))
    assert torch.allclose(torch.tensor(stored["values"].to_pylist()), expected)
    assert pq.read_table(folder / kept.path, partitioning=None).to_pylist() == [
        {"version": "old", "id": "x", "values": [1.0], "as_of": TEST_FROM}
    ]
