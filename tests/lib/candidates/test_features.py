import numpy as np
import pytest

from lib.candidates.features import FEATURES, features_of, standings
from lib.candidates.sources import candidates_of
from tests.lib.candidates.shop import event, interactions, shop


def test_a_candidates_features_are_those_worked_by_hand() -> None:
    rows = interactions(
        event("ann", "a", 40), event("ann", "a", 20), event("ann", "b", 20), event("bob", "b", 2), event("bob", "c", 2)
    )
    retrieval, block = shop(rows, ease=np.array([[0, 0, 0.5], [0, 0, 0.25], [0, 0, 0]]))
    found = candidates_of(retrieval, block)
    features = features_of(found, block, retrieval.catalogue)
    row = {
        (int(u), int(i)): dict(zip(FEATURES, f, strict=True))
        for u, i, f in zip(found.user, found.item, features, strict=True)
    }
    ann_a, ann_c = row[0, 0], row[0, 2]
    assert (ann_a["num_relevant"], ann_a["num_orders"], ann_a["share_of_orders"]) == (2, 2, 1)
    assert (ann_a["bought_days"], ann_a["interval_days"], ann_a["due"]) == (20, 20, 1)
    assert np.isnan(row[0, 1]["interval_days"]) and row[0, 1]["share_of_orders"] == 0.5
    assert (ann_c["num_relevant"], ann_c["share_of_orders"], ann_c["weight_60"]) == (0, 0, 0)
    assert np.isnan(ann_c["bought_days"]) and np.isnan(ann_c["als"])
    assert ann_c["ease"] == 0.75 and np.isnan(row[1, 0]["ease"])
    assert (ann_c["item_buyers"], ann_c["item_age_days"], ann_c["item_silence_days"]) == (1, 2, 2)
    assert (ann_c["user_num_orders"], ann_c["user_silence_days"], ann_c["user_num_items"]) == (2, 20, 2)
    usual = (2 * np.log(1) + np.log(2)) / 3  # a twice, b once
    assert ann_c["price_fit"] == pytest.approx(np.log(4) - usual, rel=1e-6)
    assert ann_a["tag_share"] == pytest.approx(2 / 3) and ann_c["tag_share"] == 0


def test_what_the_log_does_not_describe_is_unknown() -> None:
    retrieval, block = shop(interactions(event("ann", "x", 4), event("bob", "y", 4)))
    found = features_of(candidates_of(retrieval, block), block, retrieval.catalogue)
    unknown = [FEATURES.index(name) for name in ("price_fit", "tag_share", "item_log_price", "ease", "two_tower")]
    assert np.isnan(found[:, unknown]).all()
    assert not np.isnan(found[:, FEATURES.index("item_buyers")]).any()


def test_a_score_stands_among_those_of_the_same_user() -> None:
    nan = np.nan
    scores = np.array([[1, nan, 5], [3, nan, 5], [nan, 2, 5], [8, 0.25, nan], [8, 0.75, 4]], np.float32)
    found = standings(np.array([0, 0, 0, 4, 4]), scores)
    # The first has 1 and 3, one deviation to either side of their mean; the other has the same score twice.
    np.testing.assert_allclose(found[:, 0], [-1, 1, nan, 0, 0])
    np.testing.assert_allclose(found[:, 1], [nan, nan, 0, -1, 1])
    np.testing.assert_allclose(found[:, 2], [0, 0, 0, nan, 0])
    apart = np.concatenate([standings(np.zeros(3, np.int64), scores[:3]), standings(np.zeros(2, np.int64), scores[3:])])
    np.testing.assert_array_equal(found, apart)
    assert standings(np.zeros(0, np.int64), np.zeros((0, 7), np.float32)).shape == (0, 7)
