"""MovieLens beside the peers: what the log becomes, what the peers are told of it, and how all lists are judged."""

from datetime import UTC, datetime, timedelta
from math import log2
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.movielens import MAPPING, RANKED, SINGLES, Results, judged, known_ratings, page, with_popularity
from benchmarks.movielens_known import Known, ndcg_on, top
from lib.cleaning.shard import clean_events
from lib.cleaning.thresholds import Thresholds
from lib.formats.log_files import LogFile
from lib.formats.mapping import load_mapping
from lib.formats.reading import Reading

START = datetime(1998, 2, 19, tzinfo=UTC)
RATINGS = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n22\t377\t5\t878887116\n"
MOVIES = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    '1\tToy "Story"\t1995\tAnimation Children\'s Comedy\n'
)


def interaction(user: str, item: str, *, days: float, liked: bool = True, split: str = "train") -> dict[str, object]:
    return {
        **{"user_key": user, "item_id": item, "event_time": START + timedelta(days=days), "split": split},
        **{"weight": 1.0 if liked else 0.2, "num_relevant": int(liked)},
    }


def lists(strategy: str, user: str, *items: str) -> pl.DataFrame:
    rows = [
        {"strategy": strategy, "question": question, "user_key": user, "rank": rank, "item_id": item}
        for question in ("all", "new")
        for rank, item in enumerate(items, 1)
    ]
    return pl.DataFrame(rows, schema_overrides={"rank": pl.Int32})


def test_a_movie_rated_4_or_5_is_what_a_user_wants_and_one_rated_lower_was_seen(tmp_path: Path) -> None:
    mapping, read = load_mapping(str(MAPPING)), {}
    for source, name, text in (("ratings", "ml-100k.inter", RATINGS), ("movies", "ml-100k.item", MOVIES)):
        (tmp_path / name).write_text(text)
        found = LogFile(str(tmp_path / name), name, len(text), source)
        batches = [pl.DataFrame(batch) for batch in Reading(found, mapping.sources[source])]
        named = {"source_file": name, "source_file_sha256": "0", "batch_id": "1"}
        read[source] = pl.concat(batches, how="diagonal").with_columns(
            *(pl.lit(value).alias(column) for column, value in named.items()), arrived_at=pl.lit(START)
        )
    cleaned = clean_events({"ratings": read["ratings"]}, mapping, Thresholds(), b"the key of a test")
    assert cleaned.events is not None
    assert set(cleaned.events.select("event_type", "item_id", "rating", "event_time").iter_rows()) == {
        ("view", "242", 3.0, datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC)),
        ("rating", "377", 5.0, datetime(1997, 11, 7, 7, 18, 36, tzinfo=UTC)),
    }
    assert mapping.relevance == "rating"
    movies = mapping.sources["movies"]
    assert movies.names["category"].separator == " "
    assert read["movies"]["class:token_seq"].to_list() == ["Animation Children's Comedy"]
    assert read["movies"]["movie_title:token_seq"].to_list() == ['Toy "Story"']


def test_both_windows_have_nine_weeks() -> None:
    times = load_mapping(str(MAPPING)).times
    assert times.valid_from is not None and times.test_from is not None
    last_rating = datetime(1998, 4, 22, 23, 10, 38, tzinfo=UTC)
    assert times.test_from - times.valid_from == timedelta(weeks=9)
    assert timedelta(0) <= times.test_from + timedelta(weeks=9) - last_rating < timedelta(days=1)


def test_the_peers_are_told_nothing_of_the_test_window() -> None:
    rows = [
        interaction("a", "x", days=-70),
        interaction("a", "y", days=-3, liked=False, split="valid"),
        interaction("a", "z", days=3, split="test"),
    ]
    known = known_ratings(pl.DataFrame(rows))
    assert known.select("user", "item", "liked", "is_valid").rows() == [
        ("a", "x", True, False),
        ("a", "y", False, True),
    ]


def test_lists_are_judged_by_what_was_liked_in_the_window_and_popularity_answers_for_who_has_none() -> None:
    rows = pl.DataFrame(
        [
            interaction("known", "x", days=-1),
            interaction("known", "y", days=1, split="test"),
            interaction("known", "z", days=1, liked=False, split="test"),
            interaction("unseen", "x", days=2, split="test"),
        ]
    )
    shown = pl.concat(
        [
            lists("popularity", "known", "x", "z"),
            lists("popularity", "unseen", "y", "x"),
            lists("peer", "known", "z", "y"),
        ]
    )
    found = judged(rows, shown, split="test", as_of=START)
    ndcg = {
        row["strategy"]: row["value"]
        for row in found.filter(metric="ndcg", question="new", segment="returning").iter_rows(named=True)
    }
    assert ndcg == {"peer": pytest.approx(1 / log2(3)), "popularity": 0.0}
    everybody = found.filter(metric="ndcg", question="new", segment="all", strategy="peer").row(0, named=True)
    assert everybody["value"] == pytest.approx(1 / log2(3))  # the unseen user's is popularity's, as good
    assert (everybody["num_users"], everybody["num_without_list"]) == (2, 0)
    minus = found.filter(metric="ndcg_minus_popularity", question="new", segment="all", strategy="peer")
    assert minus["value"].item() == pytest.approx(0.5 / log2(3))


def test_a_list_of_popularity_replaces_none_that_a_strategy_has() -> None:
    shown = pl.concat([lists("popularity", "a", "x"), lists("popularity", "b", "x"), lists("peer", "a", "y")])
    found = with_popularity(shown).filter(strategy="peer", question="all").sort("user_key")
    assert found.select("user_key", "rank", "item_id").rows() == [("a", 1, "y"), ("b", 1, "x")]


def test_a_list_hides_what_was_seen_and_ends_with_items_without_a_score() -> None:
    scores = np.array([[1.0, 3.0, np.nan, 2.0, 2.0]], np.float32)
    seen = np.array([[False, True, False, False, False]])
    assert top(scores, seen)[0, :3].tolist() == [3, 4, 0]


def test_the_validation_window_asks_known_users_for_what_they_liked() -> None:
    before = pl.DataFrame(
        [{"user": "a", "item": "x", "at": 2, "liked": True}, {"user": "b", "item": "y", "at": 1, "liked": False}]
    )
    valid = pl.DataFrame(
        [
            {"user": "a", "item": "y", "liked": True},  # first in the list, since x was seen
            {"user": "a", "item": "new", "liked": True},  # which no list can hold
            {"user": "b", "item": "x", "liked": False},
            {"user": "c", "item": "x", "liked": True},  # who was not known
        ]
    )
    known = Known.of(before)
    assert known.matrix("liked").toarray().tolist() == [[1, 0], [0, 0]]
    assert known.matrix("all").toarray().tolist() == [[1, 0], [0, 1]]
    assert known.rows["user"].to_list() == [1, 0]  # by time
    found = ndcg_on(valid, known, np.ones((2, 2), np.float32), known.seen())
    assert found == pytest.approx(1 / (1 + 1 / log2(3)))


def test_the_page_says_who_is_ahead_beyond_the_interval() -> None:
    users = [f"user {number}" for number in range(20)]
    rows = [interaction(user, "x", days=-80, split="train") for user in users]
    rows += [interaction(user, "y", days=-3, split="valid") for user in users]
    rows += [interaction(user, "z", days=3, split="test") for user in users]
    interactions = pl.DataFrame(rows)
    ours = [
        lists(name, user, *(("w", "y", "z") if name == "als" else ("w",)))
        for name in (RANKED, *SINGLES)
        for user in users
    ]
    shown = {"valid": pl.concat(ours), "test": pl.concat([*ours, *(lists("A peer", user, "z") for user in users)])}
    starts = {"valid": START - timedelta(days=63), "test": START}
    found = {split: judged(interactions, shown[split], split=split, as_of=starts[split]) for split in starts}
    told = {
        **{
            "peer": "A peer",
            "package": "one",
            "version": "1.2",
            "options": {"factors": 8},
            "grid": {"factors": [4, 8]},
            "epoch": 1,
            "last_epoch": 1,
        },
        **{"tried": 3, "valid_ndcg": 0.5, "search_seconds": 1.0, "fit_seconds": 0.25},
    }
    results = Results(interactions, found, [told], {"als": 2.0})
    assert results.best_single == "als"
    text = page(results)
    assert "| A peer | 1.000 (1.000 to 1.000) | 1.000 (1.000 to 1.000) | +1.000 (+1.000 to +1.000) | +0.500" in text
    assert (
        "- New items, known users: of 1 peers 1 have a higher mean than `ranked`; beyond the interval 1 (A peer) is"
        in text
    )
    assert "| A peer | factors 4, 8 | factors 8 | 1 | 0.2 |" in text
    assert "| test | 1998-02-19 | 20 | 20 | 20 | 20 | 0 |" in text
