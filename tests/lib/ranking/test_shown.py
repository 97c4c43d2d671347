"""What lists show, worked by hand."""

import math

import polars as pl
import pytest

from lib.ranking.shown import SMOOTHING, ItemFacts, figures_of, new_among, with_shown

# Ten users; a and b are of kind x, c of y, d of none. C and d came within the last 28 days; e is not known yet.
ITEMS = pl.DataFrame(
    {"item_id": ["a", "b", "c", "d", "a"], "num_users": [5, 2, 2, 1, 3], "age_days": [90.0, 60.0, 28.0, 3.0, 100.0]}
)
DESCRIBED = pl.DataFrame({"item_id": ["a", "b", "c", "d"], "category": [["x"], ["x"], ["y"], []]})
FACTS = ItemFacts.of(ITEMS, 10, ["rebuy", "popularity"], DESCRIBED)
HISTORY = pl.DataFrame({"user_key": ["ann", "ann", "ann", "ann"], "item_id": ["a", "b", "c", "d"]})
WANTED = pl.DataFrame(
    {"question": ["all"] * 4, "user_key": ["ann", "ann", "ann", "dan"], "item_id": ["a", "c", "e", "d"]}
)


def shown(*places: tuple[str, str, str]) -> pl.DataFrame:
    """Places of lists: strategy, user and item."""
    rows = pl.DataFrame(places, schema=["strategy", "user_key", "item_id"], orient="row")
    segment = pl.when(pl.col("user_key") == "ann").then(pl.lit("light")).otherwise(pl.lit("unseen"))
    named = rows.with_columns(question=pl.lit("all"), segment=segment)
    return named.join(FACTS.rows, on="item_id", how="left")


def figures(*places: tuple[str, str, str]) -> dict[tuple[str, str], dict[str, float]]:
    """The sums by strategy and part of the users."""
    found = figures_of(shown(*places), HISTORY, FACTS.rows)
    return {(row["strategy"], row["segment"]): row for row in found.to_dicts()}


def test_facts_of_all_shards_are_brought_together() -> None:
    assert FACTS.strategies == ("popularity", "rebuy", "rebuy_then_popularity")
    facts = {row["item_id"]: row for row in FACTS.rows.to_dicts()}
    assert facts["a"]["surprise"] == pytest.approx(-math.log2(8 / 10))
    assert {item: row["is_young"] for item, row in facts.items()} == {"a": False, "b": False, "c": True, "d": True}
    assert {item: row["is_head"] for item, row in facts.items()} == {"a": True, "b": False, "c": False, "d": False}


def test_a_list_of_the_historys_categories_does_not_diverge_and_one_of_another_does() -> None:
    # Ann's history is two thirds x and a third y; d has no category.
    alike = figures(("rebuy", "ann", "a"), ("rebuy", "ann", "b"), ("rebuy", "ann", "c"), ("rebuy", "ann", "d"))
    assert alike["rebuy", "light"]["divergence"] == pytest.approx(0, abs=1e-12)
    other = figures(("rebuy", "ann", "c"), ("rebuy", "dan", "a"))
    of_x, of_y = SMOOTHING * 2 / 3, (1 - SMOOTHING) + SMOOTHING / 3
    expected = 2 / 3 * math.log2(2 / 3 / of_x) + 1 / 3 * math.log2(1 / 3 / of_y)
    assert other["rebuy", "light"]["divergence"] == pytest.approx(expected)
    assert (other["rebuy", "light"]["num_diverging"], other["rebuy", "unseen"]["num_diverging"]) == (
        1,
        0,
    )  # dan has none


def test_a_category_of_the_history_that_a_list_lacks_and_one_that_the_history_lacks_both_count() -> None:
    # The list has c of y, and a new item of z, which is not in the history: two thirds of the history are x.
    facts = FACTS.rows.vstack(FACTS.rows.filter(item_id="c").with_columns(item_id=pl.lit("n"), tag=pl.lit("z")))
    rows = shown(("rebuy", "ann", "c")).drop(facts.columns[1:])
    both = rows.vstack(rows.with_columns(item_id=pl.lit("n"))).join(facts, on="item_id", how="left")
    (found,) = figures_of(both, HISTORY, facts).to_dicts()
    of_y = (1 - SMOOTHING) / 2 + SMOOTHING / 3
    expected = 2 / 3 * math.log2(1 / SMOOTHING) + 1 / 3 * math.log2(1 / 3 / of_y)
    assert found["divergence"] == pytest.approx(expected)


def test_wanted_items_that_came_within_the_last_days_or_are_unknown_are_new_and_older_ones_are_not() -> None:
    assert new_among(WANTED, FACTS.rows).rows() == [("all", "ann", "c"), ("all", "ann", "e"), ("all", "dan", "d")]


def test_figures_of_shards_become_values() -> None:
    sums = figures_of(shown(("popularity", "ann", "c"), ("popularity", "dan", "d")), HISTORY, FACTS.rows)
    key = {"question": "all", "strategy": "popularity", "num_without_list": 0}
    summary = pl.DataFrame(
        [
            {**key, "segment": segment, "num_users": users}
            for segment, users in (("all", 2), ("light", 1), ("heavy", 0), ("new_items", 2))
        ]
    ).with_columns(metric=pl.lit("ndcg"), value=pl.lit(0.5), low=pl.lit(0.1), high=pl.lit(0.9))
    summary = summary.select(
        *("question", "segment", "strategy", "metric", "value", "low", "high"), "num_users", "num_without_list"
    )
    covered = pl.DataFrame([{"question": "all", "segment": "all", "strategy": "popularity", "num_items": 2}])
    rows = with_shown(summary, sums.with_columns(shard=pl.lit(0)), covered, num_items=4)
    values = {(row["segment"], row["metric"]): row["value"] for row in rows.to_dicts()}
    assert values["all", "coverage"] == pytest.approx(2 / 4)
    assert values["all", "miscalibration"] == values["light", "miscalibration"] > 1
    assert values["heavy", "miscalibration"] is None
    assert ("new_items", "coverage") not in values  # lists show the same whatever is asked of them
