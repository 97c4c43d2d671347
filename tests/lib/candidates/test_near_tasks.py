"""The tasks that approximate EASE, one after the other as a job runs them."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import scipy.sparse as sp

from lib.candidates import near_tasks, tasks
from lib.candidates.catalogue import catalogue_of
from lib.candidates.known import added_items, item_sums, known_pairs
from lib.engines.arrow_tasks import InProcess, packed
from lib.ranking.near_ease import near_gram
from tests.lib.candidates.shop import NOW, event, interactions

ROWS = interactions(
    event("ann", "a", 1),
    event("ann", "b", 2, num_relevant=0),
    event("bob", "a", 1),
    event("bob", "b", 2),
    event("cid", "b", 2),
    event("cid", "c", 4),
    event("cid", "d", 4),
    event("dan", "d", 9),
)


def counts_of(rows: pl.DataFrame, ids: list[str], num_shards: int) -> Iterator[pa.RecordBatch]:
    known = InProcess({"now": pa.array(ids, pa.string())})
    parts = list(packed(known_pairs(rows, as_of=NOW), f"{tasks.PAIR}/now"))
    return near_tasks.count_near(parts, item_ids=known, num_shards=num_shards)


def test_items_of_too_few_users_are_left_out_and_squares_are_those_of_what_was_bought_or_seen() -> None:
    catalogue = catalogue_of(added_items(item_sums(known_pairs(ROWS, as_of=NOW))), None)
    assert near_tasks.supported(catalogue, 2).tolist() == [0, 1, 3]
    assert near_tasks.supported(catalogue, 0).tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(near_tasks.squares(catalogue), [2, 2.04, 1, 2])


def test_pairs_are_counted_both_ways_for_the_shards_of_both_items() -> None:
    parts = list(counts_of(ROWS, ["a", "b", "d"], 2))
    found = {part["shard"][0].as_py(): pl.read_ipc_stream(part["content"][0].as_py()) for part in parts}
    rounded = {
        shard: rows.with_columns(pl.col("product").round(5)).sort("item", "other") for shard, rows in found.items()
    }
    assert rounded[0].rows() == [(0, 0, 2, 2.0), (0, 1, 2, 1.2), (2, 1, 1, 1.0), (2, 2, 2, 2.0)]
    assert rounded[1].rows() == [(1, 0, 2, 1.2), (1, 1, 3, 2.04), (1, 2, 1, 1.0)]


def test_of_a_user_with_many_items_those_count_of_which_something_was_done_last() -> None:
    limit = near_tasks.MAX_USER_ITEMS
    ids = [f"{number:04}" for number in range(limit + 2)]
    rows = interactions(*(event("ann", item, 1 + place % (limit + 1)) for place, item in enumerate(ids)))
    (part,) = counts_of(rows, ids, 1)
    counts = pl.read_ipc_stream(part["content"][0].as_py())
    # Two too many: the first and the last were touched a day ago, each other a day before the one before it.
    assert sorted(set(range(limit + 2)) - set(counts["item"])) == [limit - 1, limit]
    assert len(counts) == limit**2


def test_the_steps_together_give_the_weights_worked_by_hand_whatever_the_shards() -> None:
    ids = ["a", "b", "d"]
    for num_shards in (1, 3):
        by_shard: dict[int, list[pa.RecordBatch]] = {}
        for user in ROWS["user_key"].unique(maintain_order=True):
            for part in counts_of(ROWS.filter(user_key=user), ids, num_shards):
                by_shard.setdefault(part["shard"][0].as_py(), []).append(part)
        given = {"diagonals": InProcess({"now": np.array([2, 2.04, 2])}), "penalty": 1, "num_neighbours": 2}
        kept = [list(near_tasks.keep_nearest(parts, **given)) for parts in by_shard.values()]  # type: ignore[arg-type]
        frames = near_tasks.frames_of(
            [(part["kind"][0].as_py(), part["content"][0].as_py()) for parts in kept for part in parts]
        )
        ordered = frames[near_tasks.NEAREST, "now"].sort("item", maintain_order=True)
        gram = near_gram(ordered, frames[near_tasks.TOTAL, "now"], len(ids))
        solved = [
            (part["kind"][0].as_py(), part["content"][0].as_py())
            for parts in kept
            for part in near_tasks.solve_near(parts, grams=InProcess({"now": gram}), penalty=1, min_support=1)
        ]
        weights = near_tasks.frames_of(solved)[tasks.WEIGHTS, "now"].sort("other", "item")
        assert weights.select("item", "other").rows() == [(1, 0), (0, 1), (2, 1), (1, 2)]
        # b is seen with a by ann, .2, and bought with it by bob; a and d have no user in common, and nothing is left over.
        np.testing.assert_allclose(weights["weight"], [1.2 / 3.04, 1.2 / 3, 1 / 3, 1 / 3.04], rtol=1e-5)


def test_the_most_owned_are_solved_given_what_the_others_say_whatever_the_shards() -> None:
    known, others = InProcess({"now": pa.array(["a", "b"])}), sp.csr_array(np.array([[0, 0], [0.6, 0]], np.float32))
    for shards in ([ROWS], ROWS.partition_by("user_key")):
        pairs = [list(packed(known_pairs(rows, as_of=NOW), f"{tasks.PAIR}/now")) for rows in shards]
        counts = [part for parts in pairs for part in tasks.count_pairs(parts, item_ids=known)]
        (solved,) = tasks.solve_ease(counts, num_items=[2], penalty=1, min_support=1, others=InProcess([others]))
        weights = np.frombuffer(solved["content"][0].as_py(), np.float32).reshape(2, 2)
        # Of what a and b have in common, 1.2, others say a half to a, and nothing to b.
        np.testing.assert_allclose(weights, [[0, 1.2 / 3], [0.6 / 3.04, 0]], rtol=1e-5)
