"""Items that nobody has touched: in the catalogue where content vectors know them, proposed by these, and by nothing else."""

import numpy as np
import polars as pl

from lib.candidates.catalogue import catalogue_of, with_untouched
from lib.candidates.features import FEATURES, features_of
from lib.candidates.histories import histories_of
from lib.candidates.known import added_items, item_sums, known_pairs, known_users
from lib.candidates.lists import NO_RULES, Wording, Writer
from lib.candidates.sources import CONTENT, Retrieval, candidates_of
from tests.lib.candidates.shop import NOW, TITLES, event, interactions

ROWS = interactions(event("ann", "b", 1), event("ann", "c", 61), event("bob", "b", 3), event("bob", "c", 2))
# b and c are touched, a and e are not: they stand behind them.
VECTORS = np.array([[1, 0], [0, 1], [0.8, 0.6], [0.6, -0.8]], np.float32)
EASE = np.array([[0, 0.5], [0.5, 0]], np.float32)


def retrieval() -> Retrieval:
    sums = with_untouched(added_items(item_sums(known_pairs(ROWS, as_of=NOW))), pl.Series(["e", "a", "b"]))
    return Retrieval(NOW, catalogue_of(sums, TITLES), EASE, {CONTENT: VECTORS}, num_proposed=3)


def test_untouched_items_stand_behind_the_others_and_nobody_bought_them() -> None:
    catalogue = retrieval().catalogue
    assert catalogue.item_ids.to_pylist() == ["b", "c", "a", "e"]
    assert catalogue.names.to_pylist() == ["Bread", "Cheese", "Apple", "Egg"]
    assert catalogue.num_buyers.tolist() == [2, 2, 0, 0]
    assert catalogue.sums["age_days"].to_list()[2:] == [None, None]


def test_content_proposes_what_is_like_the_recent_history_and_untouched_items_too() -> None:
    known = retrieval()
    users = ROWS.select("user_key").unique().join(known_users(ROWS, as_of=NOW), on="user_key", how="left")
    block = histories_of(known_pairs(ROWS, as_of=NOW), users, known.catalogue, vectors={})
    found = candidates_of(known, block)
    proposed = found.proposed[CONTENT]
    assert list(zip(proposed.user.tolist(), proposed.item.tolist(), strict=True)) == [(0, 2), (0, 3), (1, 2), (1, 3)]
    # Ann's b of yesterday weighs twice her c of two months ago: 2/3 (1, 0) + 1/3 (0, 1).
    np.testing.assert_allclose(proposed.score[:2], [(2 * 0.8 + 0.6) / 3, (2 * 0.6 - 0.8) / 3], rtol=1e-5)
    assert all(
        not np.isin(of_source.item, [2, 3]).any() for name, of_source in found.proposed.items() if name != CONTENT
    )
    features = features_of(found, block, known.catalogue)
    assert np.isnan(features[found.item == 2][:, FEATURES.index("item_age_days")]).all()
    assert np.isfinite(features[:, FEATURES.index(CONTENT)]).all()
    made = Writer(known, None, 2, Wording("bought", 1), NO_RULES).lists(block, found)
    of_content = pl.concat([pl.DataFrame(rows) for strategy, rows in made if strategy == CONTENT]).filter(
        question="new"
    )
    assert of_content["item_id"].to_list() == ["a", "e", "a", "e"]
    assert of_content["reason"].unique().to_list() == ["much like what you chose"]


def test_one_who_had_nothing_with_a_vector_gets_nothing_by_content() -> None:
    known = retrieval()
    users = pl.DataFrame({"user_key": ["new"]}).join(known_users(ROWS, as_of=NOW), on="user_key", how="left")
    found = candidates_of(known, histories_of(known_pairs(ROWS, as_of=NOW), users, known.catalogue, vectors={}))
    assert len(found.proposed[CONTENT].user) == 0
    assert len(found.proposed["popular"].user) == 2
