"""The recommend job on a small shop whose lists are worked by hand."""

import json
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest

from lib.candidates.features import FEATURES
from lib.candidates.network_fit import epochs
from lib.candidates.ranker import ordinary, save
from lib.candidates.trees import Trees, fitted, text_of
from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from tests.jobs.spark.interactions import LATER, pair
from tests.lakes import START, TEST_FROM, VALID_FROM, SmallLake
from tests.lib.candidates.test_networks import LISTWISE
from tests.lib.candidates.test_ranker import OPTIONS, planted

VECTOR = {"version": "als-000001", "as_of": START}


def vector(model: str, kind: str, id: str, values: list[float], **overrides: Any) -> dict[str, Any]:
    return VECTOR | {"model": model, "kind": kind, "id": id, "values": values} | overrides


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["recommend"])


def shop(lake: SmallLake) -> None:
    """Ann has a and b (a twice), bob has b and c, eve has b; dan comes by only later, when item z is new too."""
    lake.put(
        "gold/interactions",
        pair("ann", "a", num_relevant=2, weight=2.0),
        pair("ann", "b"),
        pair("bob", "b"),
        pair("bob", "c"),
        pair("eve", "b"),
        pair("eve", "c", weight=0.0, num_relevant=0),  # a return of what was bought before the log began
        pair("dan", "z", **LATER),
    )
    lake.put("silver/items", {"item_id": "a", "title": "Apple"}, {"item_id": "c", "title": None})


def lists(lake: SmallLake, strategy: str, question: str) -> list[tuple[Any, ...]]:
    rows = [
        row for row in lake.read("gold/recommendations") if (row["strategy"], row["question"]) == (strategy, question)
    ]
    assert all(row["as_of"] == TEST_FROM for row in rows)
    return [(row["user_key"], row["rank"], row["item_id"], pytest.approx(row["score"]), row["reason"]) for row in rows]


def test_each_strategy_gives_the_lists_worked_by_hand_and_falls_back_to_no_other(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    shop(small_lake)
    job.main(job.RecommendSettings(**small_lake.shared_settings, list_length=2, ease_penalty=1, min_support=1))

    by_all = [(1, "b", 3.0, "bought by 3 customers"), (2, "a", 1.0, "bought by 1 customer")]
    assert lists(small_lake, "popularity", "all") == [(u, *row) for u in ("ann", "bob", "dan", "eve") for row in by_all]
    one = "bought by 1 customer"
    assert lists(small_lake, "popularity", "new") == [
        ("ann", 1, "c", 1.0, one),
        ("bob", 1, "a", 1.0, one),
        *(("dan", *row) for row in by_all),
        ("eve", 1, "a", 1.0, one),
        ("eve", 2, "c", 1.0, one),
    ]
    assert lists(small_lake, "rebuy", "all") == [
        ("ann", 1, "a", 2.0, "bought 2 times before"),
        ("ann", 2, "b", 1.0, "bought once before"),
        ("bob", 1, "b", 1.0, "bought once before"),
        ("bob", 2, "c", 1.0, "bought once before"),
        ("eve", 1, "b", 1.0, "bought once before"),
    ]
    assert lists(small_lake, "rebuy", "new") == []
    # The Gram matrix of a, b and c is [[1, 1, 0], [1, 3, 1], [0, 1, 1]]; with penalty 1 its inverse is [[7, -2, 1], [-2, 4, -2],
    # [1, -2, 7]] / 12, and B = -P / diag(P) by columns. Nobody has a and c together, so one says nothing of the other.
    to_b, from_b = 1 / 2, 2 / 7
    assert lists(small_lake, "ease", "all") == [
        ("ann", 1, "b", to_b, "often together with Apple"),
        ("ann", 2, "a", from_b, "often together with b"),
        ("bob", 1, "b", to_b, "often together with c"),
        ("bob", 2, "a", from_b, "often together with b"),
        ("eve", 1, "a", from_b, "often together with b"),
        ("eve", 2, "c", from_b, "often together with b"),
    ]
    assert lists(small_lake, "ease", "new") == [
        ("ann", 1, "c", from_b, "often together with b"),
        ("bob", 1, "a", from_b, "often together with b"),
        ("eve", 1, "a", from_b, "often together with b"),
        ("eve", 2, "c", from_b, "often together with b"),
    ]
    assert {row["strategy"] for row in small_lake.read("gold/recommendations")} == {"popularity", "rebuy", "ease"}
    said = capsys.readouterr().out
    assert "als left out" in said and "ranked left out" in said
    columns = ("user_key", "item_id", "source", "rank")
    candidates = [tuple(row[name] for name in columns) for row in small_lake.read("gold/candidates")]
    assert [row[1:] for row in candidates if row[0] == "ann"] == [
        ("a", "own", 1),
        ("b", "own", 2),
        *(("c", source, 1) for source in ("ease", "ease_recent", "popular")),
    ]
    of_dan = [row[1:] for row in candidates if row[0] == "dan"]
    assert of_dan == [("a", "popular", 2), ("b", "popular", 1), ("c", "popular", 3)]


@pytest.mark.slow
def test_ease_of_more_items_than_fit_is_exact_among_the_most_owned_alone(
    job: ModuleType, small_lake: SmallLake
) -> None:
    everything = [pair(user, item) for user in ("ann", "bob") for item in "abc"]
    small_lake.put("gold/interactions", *everything, pair("eve", "b"), pair("dan", "c"), pair("fay", "0"))
    given = {"list_length": 2, "ease_penalty": 1, "min_support": 2, "max_ease_items": 2, "ease_neighbours": 1}
    job.main(job.RecommendSettings(**small_lake.shared_settings, **given))
    # To b and c, its neighbour a speaks with 2 / (2 + 1). Of the two users that b and c have in common that leaves 2 - 2 * 2 / 3,
    # and the regression of one on the other a weight of (2 / 3) / (3 + 1). To a, of b and c the first, with 2 / (3 + 1).
    assert lists(small_lake, "ease", "new") == [
        ("dan", 1, "b", 1 / 6, "often together with c"),
        ("eve", 1, "a", 1 / 2, "often together with b"),
        ("eve", 2, "c", 1 / 6, "often together with b"),
    ]
    assert ("ann", 1, "b", 2 / 3 + 1 / 6, "often together with a") in lists(small_lake, "ease", "all")


@pytest.mark.slow
def test_what_fewer_than_three_users_have_together_is_told_to_nobody(job: ModuleType, small_lake: SmallLake) -> None:
    together = [pair(user, item) for user in ("ann", "bob", "cid") for item in "ab"]
    small_lake.put("gold/interactions", *together, pair("ann", "c"), pair("bob", "c"), pair("dan", "a"))
    job.main(job.RecommendSettings(**small_lake.shared_settings))
    assert [row[:3] for row in lists(small_lake, "ease", "new")] == [("dan", 1, "b")]
    reasons = {row["reason"] for row in small_lake.read("gold/recommendations") if row["strategy"] == "ease"}
    assert reasons == {"often together with a", "often together with b"}


@pytest.mark.slow
def test_content_proposes_what_nobody_touched_where_a_catalogue_had_described_it_by_then(
    job: ModuleType, small_lake: SmallLake
) -> None:
    shop(small_lake)
    of_content = {"version": "train_content-000001", "as_of": TEST_FROM}
    vectors = {"a": [1, 0], "b": [0, 1], "x": [0.6, 0.8], "z": [1, 1], "later": [1, 1]}  # none of c, nor of "plain"
    small_lake.put("gold/vectors", *(vector("content", "item", *one, **of_content) for one in vectors.items()))
    told = {"is_catalogue": True, "described_by": "items:1"}
    small_lake.put(
        "silver/descriptions",
        {"item_id": "x"} | told,
        {"item_id": "plain"} | told,
        {"item_id": "later", "event_time": TEST_FROM} | told,
        {"item_id": "z", "is_catalogue": False, "described_by": "e", "event_time": TEST_FROM + timedelta(days=1)},
    )
    job.main(job.RecommendSettings(**small_lake.shared_settings, min_support=1))
    found = lists(small_lake, "content", "new")
    assert [row[:3] for row in found] == [
        ("ann", 1, "x"),
        ("bob", 1, "x"),
        ("bob", 2, "a"),
        ("eve", 1, "x"),
        ("eve", 2, "a"),
    ]
    assert {row[4] for row in found} == {"much like what you chose"}
    listed = {(row["strategy"], row["item_id"]) for row in small_lake.read("gold/recommendations")}
    assert {strategy for strategy, item in listed if item == "x"} == {"content"}
    assert not {item for _, item in listed} & {"z", "later", "plain"}


@pytest.mark.slow
@pytest.mark.parametrize("ann_from_items", [20_000, 1])  # exactly, and by indexes that look at all of so few
def test_vectors_rank_the_items_of_the_log_and_carry_their_version(
    job: ModuleType, small_lake: SmallLake, ann_from_items: int
) -> None:
    shop(small_lake)
    small_lake.put(
        "gold/vectors",
        *(vector("als", "item", item, values) for item, values in (("a", [1, 0]), ("b", [0, 1]), ("z", [9, 9]))),
        vector("als", "user", "ann", [3, 2]),
        vector("als", "user", "stranger", [1, 1]),
        vector("two_tower", "item", "c", [2], version="train_encoder-000007"),
        vector("two_tower", "user", "dan", [0.5], version="train_encoder-000007"),
        vector("sequence", "item", "c", [3], version="train_sequence-000002"),
        vector("sequence", "user", "eve", [1], version="train_sequence-000002"),
        vector("two_tower", "user", "dan", [9.0], version="of-the-future", as_of=datetime(2026, 1, 25, tzinfo=UTC)),
        vector("two_tower", "item", "c", [9.0], version="of-the-future", as_of=datetime(2026, 1, 25, tzinfo=UTC)),
    )
    job.main(job.RecommendSettings(**small_lake.shared_settings, ann_from_items=ann_from_items))
    rows = [row for row in small_lake.read("gold/recommendations") if row["model"]]
    columns = ("strategy", "question", "user_key", "rank", "item_id", "score", "model", "version")
    als, towers = ("als", "als-000001"), ("two_tower", "train_encoder-000007")
    sequence = ("sequence", "train_sequence-000002")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        ("als", "all", "ann", 1, "a", 3.0, *als),
        ("als", "all", "ann", 2, "b", 2.0, *als),
        ("sequence", "all", "eve", 1, "c", 3.0, *sequence),
        ("sequence", "new", "eve", 1, "c", 3.0, *sequence),
        ("two_tower", "all", "dan", 1, "c", 1.0, *towers),
        ("two_tower", "new", "dan", 1, "c", 1.0, *towers),
    ]
    assert {row["reason"] for row in rows} == {
        "close to your taste (ALS)",
        "close to your taste (two towers)",
        "goes on from what you did last",
    }


@pytest.mark.slow
def test_a_version_that_stands_as_a_candidate_ranks_nothing(job: ModuleType, small_lake: SmallLake) -> None:
    shop(small_lake)
    fits = {f"als-00000{number}{end}": time for number in (1, 2) for end, time in (("", VALID_FROM), ("-valid", START))}
    small_lake.put(
        "gold/vectors",
        *(vector("als", "item", "b", [1], version=fit, as_of=time) for fit, time in fits.items()),
        *(vector("als", "user", "ann", [1], version=fit, as_of=time) for fit, time in fits.items()),
    )
    row = {"model": "als", "uri": "gold/vectors", "run_id": "r", "inputs": [], "created_at": START}
    small_lake.put(
        "ops/models",
        row | {"version": "als-000001", "status": "promoted"},
        row | {"version": "als-000002", "status": "candidate", "reason": "NDCG@10 is too low"},
    )
    for as_of, used in ((TEST_FROM, "als-000001"), (VALID_FROM - timedelta(hours=1), "als-000001-valid")):
        job.main(job.RecommendSettings(**small_lake.shared_settings, time={"as_of": as_of.isoformat()}))
        assert {row["version"] for row in small_lake.read("gold/recommendations") if row["model"]} == {used}


def ranker(lake: SmallLake, *, options: dict[str, Any], learned_until: dict[str, datetime]) -> None:
    """Register a ranker that learned from what was planted; the fit that it was judged by is of another kind."""
    folder = lake.lake.files("ranker", "train_ranker-000001")
    network = next(epochs(planted(0), LISTWISE))
    for name in learned_until:
        scorer = (
            network if name == "ranker-valid" else Trees(text_of(fitted(planted(0), num_trees=10, options=OPTIONS)))
        )
        save(scorer, folder, name)
    known = {"options": options, "features": FEATURES, "usual": ordinary(planted(0).features).tolist()}
    until = {name: moment.isoformat() for name, moment in learned_until.items()}
    (folder / "ranker.json").write_text(json.dumps({**known, "learned_until": until}))
    row = {"model": "ranker", "version": "train_ranker-000001", "run_id": "r", "inputs": [], "created_at": START}
    uri = folder.absolute().relative_to(lake.lake.folder).as_posix()
    lake.put("ops/models", row | {"uri": uri, "status": "promoted"})


@pytest.mark.slow
def test_the_ranker_orders_all_candidates_and_an_earlier_list_is_made_by_the_fit_that_learned_only_before(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    shop(small_lake)
    chosen = job.RecommendSettings(**small_lake.shared_settings)
    until = {"ranker": TEST_FROM, "ranker-valid": VALID_FROM}
    ranker(small_lake, options=chosen.retrieval_options(), learned_until=until)
    job.main(chosen)
    ranked = lists(small_lake, "ranked", "all")
    assert {row[0] for row in ranked} == {"ann", "bob", "dan", "eve"}  # dan, whom nobody knows, too
    assert {row[2] for row in ranked if row[0] == "ann"} == {"a", "b", "c"}
    rows = [row for row in small_lake.read("gold/recommendations") if row["strategy"] == "ranked"]
    assert {(row["model"], row["version"]) for row in rows} == {("ranker", "train_ranker-000001")}
    job.main(job.RecommendSettings(**small_lake.shared_settings, time={"as_of": VALID_FROM.isoformat()}))
    versions = {row["version"] for row in small_lake.read("gold/recommendations") if row["strategy"] == "ranked"}
    assert versions == {"train_ranker-000001-valid"}
    early = (VALID_FROM - timedelta(days=1)).isoformat()
    job.main(job.RecommendSettings(**small_lake.shared_settings, time={"as_of": early}))
    assert "ranked left out" in capsys.readouterr().out


def test_a_ranker_of_other_candidates_is_refused_before_anything_is_written(
    job: ModuleType, small_lake: SmallLake
) -> None:
    shop(small_lake)
    chosen = job.RecommendSettings(**small_lake.shared_settings)
    ranker(small_lake, options=chosen.retrieval_options() | {"num_proposed": 7}, learned_until={"ranker": TEST_FROM})
    with pytest.raises(ValueError, match=r"'num_proposed': 7.*run train_ranker again"):
        job.main(chosen)
    assert small_lake.read("gold/recommendations") == small_lake.read("gold/candidates") == []


def of_known(lake: SmallLake) -> list[dict[str, Any]]:
    """Candidates and lists of all but dan."""
    rows = [*lake.read("gold/candidates"), *lake.read("gold/recommendations")]
    return [row for row in rows if row["user_key"] != "dan"]


@pytest.mark.slow
def test_moving_the_future_changes_no_candidate_score_or_list_of_the_users_known_before(
    job: ModuleType, small_lake: SmallLake
) -> None:
    shop(small_lake)
    job.main(job.RecommendSettings(**small_lake.shared_settings))
    before = of_known(small_lake)
    past = [pair(*p) for p in (("ann", "b"), ("bob", "b"), ("bob", "c"), ("eve", "b"))]
    future = [pair("dan", "a", **LATER, weight=9.0), pair("ann", "c", **LATER), pair("bob", "z", **LATER)]
    small_lake.put("gold/interactions", pair("ann", "a", num_relevant=2, weight=2.0), *past, *future)
    job.main(job.RecommendSettings(**small_lake.shared_settings))
    assert before == of_known(small_lake)


@pytest.mark.bad_input("one user with one item")
@pytest.mark.bad_input("a list that is longer than the catalogue")
def test_one_user_with_one_item_gets_that_item_however_long_the_list_may_be(
    job: ModuleType, small_lake: SmallLake
) -> None:
    small_lake.put("gold/interactions", pair("ann", "a"))
    job.main(job.RecommendSettings(**small_lake.shared_settings, list_length=1000))
    assert lists(small_lake, "rebuy", "all") == [("ann", 1, "a", 1.0, "bought once before")]
    assert {row["item_id"] for row in small_lake.read("gold/recommendations")} == {"a"}
    assert {row["question"] for row in small_lake.read("gold/recommendations")} == {"all"}  # nothing is new to ann


@pytest.mark.bad_input("all users cold")
def test_without_interactions_before_as_of_the_run_is_skipped(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("gold/interactions", pair("dan", "z", **LATER))
    job.main(job.RecommendSettings(**small_lake.shared_settings))
    assert "skipped: no interaction before 2026-01-21 00:00" in capsys.readouterr().out
    assert small_lake.read("gold/recommendations") == []
