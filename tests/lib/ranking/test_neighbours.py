import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from lib.ranking.neighbours import (
    BLOCK_SCHEMA,
    cosine_neighbours,
    gram_blocks,
    gram_parts,
    nearest_own_items,
    owned_positions,
    similarity_matrix,
)


def neighbours_of(
    shards: list[sp.csr_array], *, num_items: int, items_per_block: int, num_neighbours: int, min_support: int = 1
) -> sp.csr_array:
    """The whole way: a Gram matrix a shard, blocks of all shards brought together, neighbours block by block."""
    parts = [part for shard in shards for part in gram_parts([shard], num_items)]
    blocks = [block for part in parts for block in gram_blocks(part, items_per_block=items_per_block)]
    rows = pa.Table.from_batches(blocks, BLOCK_SCHEMA)
    num_users = np.asarray(sum(shard.sum(axis=0) for shard in shards), dtype=float)
    found = [
        cosine_neighbours(
            rows.filter(pa.compute.equal(rows["block"], block)),
            num_users=num_users,
            num_neighbours=num_neighbours,
            min_support=min_support,
        )
        for block in rows["block"].unique()
    ]
    return similarity_matrix(pa.concat_tables(found), num_items)


def test_cosines_equal_the_values_worked_by_hand() -> None:
    # Item 0 has users 0, 1, 2; item 1 has users 0, 1; item 2 has user 3.
    histories = sp.csr_array(np.array([[1.0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]))
    similarity = neighbours_of([histories], num_items=3, items_per_block=3, num_neighbours=3)
    expected = [[1, 2 / np.sqrt(6), 0], [2 / np.sqrt(6), 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(similarity.toarray(), expected)


def test_a_pair_that_rests_on_too_few_users_is_no_neighbour_whatever_the_shards() -> None:
    # Items 0 and 1 are together at users 0, 1 and 2, items 0 and 2 at users 0 and 1; item 3 has one user only.
    histories = sp.csr_array(np.array([[1.0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]]))
    expected = np.eye(4)
    expected[0, 1] = expected[1, 0] = 1.0
    for shards in ([histories], [histories[:1], histories[1:]]):
        for items_per_block in (4, 1):
            similarity = neighbours_of(
                shards, num_items=4, items_per_block=items_per_block, num_neighbours=4, min_support=3
            )
            np.testing.assert_allclose(similarity.toarray(), expected)


@pytest.mark.parametrize(("num_shards", "items_per_block"), [(1, 100), (4, 7)])
def test_neighbours_equal_those_of_implicit_whatever_the_shards_and_blocks(
    num_shards: int, items_per_block: int
) -> None:
    implicit = pytest.importorskip("implicit")
    rng = np.random.default_rng(0)
    histories = sp.csr_array((rng.random((200, 40)) < 0.15).astype(float))
    model = implicit.nearest_neighbours.CosineRecommender(K=40)
    model.fit(sp.csr_matrix(histories), show_progress=False)
    theirs = model.similarity.toarray()
    shards = [histories[start::num_shards] for start in range(num_shards)]
    all_of_them = neighbours_of(shards, num_items=40, items_per_block=items_per_block, num_neighbours=40)
    np.testing.assert_allclose(all_of_them.toarray(), theirs, atol=1e-12)
    nearest = neighbours_of(shards, num_items=40, items_per_block=items_per_block, num_neighbours=5).toarray()
    assert ((nearest > 0).sum(axis=1) == 5).all()
    np.testing.assert_allclose(np.sort(nearest, axis=1)[:, -5:], np.sort(theirs, axis=1)[:, -5:], atol=1e-12)


def test_equal_cosines_are_kept_in_item_order() -> None:
    histories = sp.csr_array(np.ones((2, 4)))
    similarity = neighbours_of([histories], num_items=4, items_per_block=4, num_neighbours=2)
    assert similarity.indices.reshape(4, 2).tolist() == [[0, 1]] * 4


def test_the_nearest_own_item_is_another_one_that_has_the_item_as_neighbour() -> None:
    similarity = sp.csr_array(
        np.array([[1.0, 0.5, 0.2, 0.0], [0.5, 1.0, 0.9, 0.0], [0.2, 0.9, 1.0, 0.0], [0, 0, 0, 1]])
    )
    histories = sp.csr_array(np.array([[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]))
    user, item = np.array([1, 1, 1, 2, 2, 0]), np.array([2, 0, 3, 3, 0, 1])
    assert nearest_own_items(histories, similarity, user, item).tolist() == [1, 1, -1, -1, -1, -1]


def test_a_gram_matrix_in_small_parts_sums_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    histories = [sp.csr_array((rng.random((5, 12)) < 0.3).astype(float)) for _ in range(6)]
    (whole,) = gram_parts(histories, 12)
    parts = list(gram_parts(histories, 12, most_pairs=20))
    assert len(parts) > 3
    assert max(part.nnz for part in parts) < whole.nnz
    everyone = np.vstack([history.toarray() for history in histories])
    np.testing.assert_array_equal(whole.toarray(), everyone.T @ everyone)
    np.testing.assert_array_equal(sum(part.toarray() for part in parts), whole.toarray())


def test_each_shard_owns_the_positions_of_its_users_items_once() -> None:
    items = pa.array([["c", "a"], [], ["a"], ["c", "unknown"]], pa.list_(pa.string()))
    users = pa.RecordBatch.from_arrays([pa.array([0, 0, 0, 1], pa.int32()), items], names=["shard", "items"])
    found = pa.Table.from_batches(owned_positions([users], item_ids=pa.array(["a", "b", "c"])))
    assert sorted(found.to_pylist(), key=lambda row: (row["shard"], row["item"])) == [
        {"shard": 0, "item": 0},
        {"shard": 0, "item": 2},
        {"shard": 1, "item": 2},
    ]
