"""The tasks of train_sequence, run one after the other in this process."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.engines.arrow_tasks import TABLE_FILES, InProcess, files_of, gathered
from lib.engines.local_tasks import LocalEngine, batches_of
from lib.models import sequence_tasks as tasks
from lib.models.known_fits import distinct_items
from lib.models.sequence_tasks import SequenceFit
from lib.models.sequence_weights import SequenceWeights
from lib.tables.gold import SESSIONS
from tests.lakes import START, TEST_FROM, VALID_FROM, SmallLake, arrow_rows

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
ITEMS = ("a", "b", "c")


def visit(name: str, at: datetime, items: str, user: str | None = None, **overrides: Any) -> dict[str, Any]:
    times = [at + number * MINUTE for number in range(len(items))]
    return {
        "session_id": name,
        "user_key": user,
        "event_date": at.date(),
        "split": "train",
        "started_at": at,
        "ended_at": times[-1],
        "num_events": len(items),
        "items": list(items),
        "event_types": ["view"] * (len(items) - 1) + ["purchase"],
        "event_times": times,
    } | overrides


def events(*visits: dict[str, Any]) -> pl.DataFrame:
    return tasks.events_of(pl.DataFrame(arrow_rows(SESSIONS, *visits).select(tasks.READ.names)), relevant="purchase")


def weights(item_ids: tuple[str, ...] = ITEMS) -> SequenceWeights:
    """A model whose state is the last item's normed embedding: what it attends to and thinks is nothing."""
    eye = np.eye(len(item_ids), dtype=np.float32)
    width = len(item_ids)
    block = {
        **{f"norm_{number}.{part}": np.zeros(width, np.float32) for number in (1, 2) for part in ("weight", "bias")},
        **{"attention.weight": np.zeros((3 * width, width), np.float32), "attention.bias": np.zeros(3 * width)},
        **{"projection.weight": np.zeros((width, width), np.float32), "projection.bias": np.zeros(width)},
        **{"inner.weight": np.zeros((2 * width, width), np.float32), "inner.bias": np.zeros(2 * width)},
        **{"outer.weight": np.zeros((width, 2 * width), np.float32), "outer.bias": np.zeros(width)},
    }
    arrays = {
        "item.weight": np.concatenate([np.zeros((1, width), np.float32), eye]),
        "position.weight": np.zeros((5, width), np.float32),
        "later.weight": np.zeros((width, width), np.float32),
        **{"norm.weight": np.ones(width, np.float32), "norm.bias": np.zeros(width, np.float32)},
        **{f"blocks.0.{name}": array.astype(np.float32) for name, array in block.items()},
    }
    return SequenceWeights(arrays, item_ids, 1)


def test_a_users_events_are_one_sequence_across_visits_and_a_visit_of_nobody_is_its_own() -> None:
    found = tasks.known_of(
        events(
            visit("s3", START + DAY, "ca", "ann"),
            visit("s1", START, "aab", "ann"),
            visit("s2", START, "xb"),
            visit("s4", VALID_FROM - MINUTE, "bc", "ann"),  # the second comes too late
        ),
        as_of=VALID_FROM,
        item_ids=ITEMS,
    )
    assert found.owners.rows() == [("ann", True), ("s2", False)]
    assert found.starts.tolist() == [0, 6, 7]
    assert found.items.tolist() == [1, 1, 2, 3, 1, 2, 2]  # x is unknown
    assert found.visit_end.tolist() == [3, 3, 3, 5, 5, 6, 7]
    assert found.is_relevant.tolist() == [False, False, True, False, True, False, True]


def test_whole_users_are_in_one_share_and_counted_once(lake: SmallLake, engine: LocalEngine) -> None:
    rows = [visit(f"s{u}-{day}", START + day * DAY, "ab", f"u{u}") for u in range(20) for day in range(3)]
    rows += [visit("short", START, "c"), visit("late", VALID_FROM, "c", "u0"), visit("future", TEST_FROM, "d", "u0")]
    lake.put("gold/sessions", *rows)
    found = [{"location": path, "num_bytes": size, "kind": ""} for path, size in lake.lake.data_files("gold/sessions")]
    read = engine.over(pa.Table.from_pylist(found, schema=TABLE_FILES), task_bytes=1)
    given = {"until": TEST_FROM, "relevant": "purchase", "num_shards": 3}
    shares = read.then(tasks.spread_events, **given).to_shards(3)
    owners = [tasks.events_in(batches_of(share))["owner"].unique().to_list() for share in shares.partitions]
    assert all(owners)
    assert sorted(owner for of_share in owners for owner in of_share) == sorted(
        [*(f"u{u}" for u in range(20)), "short"]
    )
    counted = shares.then(tasks.count_known, moments={"early": VALID_FROM, "late": TEST_FROM})
    counts = gathered(counted.of(tasks.COUNT).collected(), tasks.COUNT, tasks.GATHERED)
    assert counts.group_by("fit").sum().sort("fit").rows() == [("early", 20, 120), ("late", 20, 121)]
    items = counted.of(tasks.ITEM).to_shards(1).then(distinct_items).collected()
    named = gathered(items, tasks.ITEM, tasks.GATHERED)
    assert named.filter(fit="late")["item_id"].to_list() == ["a", "b", "c"]


def test_users_get_vectors_from_what_was_known_and_a_moved_future_changes_none() -> None:
    fit = SequenceFit("v", VALID_FROM, ITEMS, 2, 3)
    known = [visit("s1", START, "ab", "ann"), visit("s2", START, "c"), visit("s3", START, "xc", "bob")]
    found = tasks.user_vectors(weights(), events(*known, visit("s4", START, "x", "cid")), fit)
    assert found["id"].to_pylist() == ["ann", "bob"], "nobody, and who had unknown items alone, has none"
    normed = [2**0.5, -(0.5**0.5), -(0.5**0.5)]  # of the last item's row of ones and zeros
    np.testing.assert_allclose(found["values"].to_pylist(), [np.roll(normed, 1), np.roll(normed, 2)], rtol=1e-3)
    assert set(found["version"].to_pylist()) == {"v"} and set(found["as_of"].to_pylist()) == {VALID_FROM}
    for future in ("a", "c", "x"):
        moved = events(*known, visit("s5", VALID_FROM, future * 3, "ann"), visit("s6", TEST_FROM, "b", "bob"))
        assert tasks.user_vectors(weights(), moved, fit).equals(tasks.user_vectors(weights(), events(*known), fit))


def test_files_of_vectors_hold_the_shares_users(lake: SmallLake, engine: LocalEngine) -> None:
    fit = SequenceFit("v", VALID_FROM, ITEMS, 1, 2)
    part = tasks.packed(events(visit("s1", START, "ab", "ann")), tasks.EVENT)
    parts = list(tasks.write_user_vectors(part, lake=lake.lake, weights=InProcess(weights()), fit=fit))
    (file,) = files_of([(p["kind"][0].as_py(), p["content"][0].as_py()) for p in parts], "gold/vectors")
    (location,) = lake.lake.folder.glob(f"**/{file.path.rpartition('/')[2]}")
    assert pq.read_table(location, columns=["id"], partitioning=None)["id"].to_pylist() == ["ann"]


def test_ranks_are_told_of_every_event_after_the_first_and_are_zero_where_nothing_is_known() -> None:
    visits = pl.Series([["a", "a", "x", "b"], ["x", "a"], ["c"]], dtype=pl.List(pl.String))
    # After a, and after a, a: a is the first by the model, b and c tie for the second and third, of which it is the third.
    assert tasks.reciprocal_ranks(weights(), visits).tolist() == pytest.approx([1.0, 0.0, 1 / 3, 0.0])
