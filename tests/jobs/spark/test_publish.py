"""The publish job: what is answered from its release is what recommend lists, and a release that is not whole answers nothing."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lib.cli.jobs import load_job
from lib.online.open_state import open_state
from lib.pipeline import JOBS
from lib.runs.model_registry import current_model
from lib.serving import release as releases
from lib.serving.answering import answer
from lib.serving.request import Request
from lib.tables import contract
from rl import serving
from rl.learning import qnet
from rl.observation import CANDIDATE_FEATURES, STATE_FEATURES
from rl.serving import LivePolicy
from tests.jobs.spark.interactions import pair
from tests.jobs.spark.test_recommend import ranker
from tests.lakes import END, PROPERTIES, START, TEST_FROM, SmallLake

HOUR = timedelta(hours=1)
WEIGHTS = {"view": 0.2, "cart": 0.6, "favourite": 0.6, "purchase": 1.0, "rating": 0.2}


def key(number: int) -> str:
    return f"{number * 7919:032x}"


@pytest.fixture(autouse=True)
def weights_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROPERTIES, "gold/interactions", {"cartwheel.eventWeights": json.dumps(WEIGHTS)})


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["publish"])


def shop(lake: SmallLake) -> None:
    """Forty people who look at and buy some of thirty items at different times, some after the moment of the release."""
    draw = np.random.default_rng(0)
    rows = {}
    for _ in range(500):
        user, item = key(int(draw.integers(1, 41))), f"i{int(draw.zipf(1.4)) % 30:02}"
        at = START + timedelta(seconds=int(draw.integers(0, int((END - START).total_seconds()))))
        bought = int(draw.random() < 0.3)
        split = "test" if at >= TEST_FROM else "train"
        rows[user, item, at] = pair(
            user, item, event_time=at, split=split, weight=0.2 + 0.8 * bought, num_relevant=bought
        )
    lake.put("gold/interactions", *rows.values())
    items = [
        {"item_id": f"i{n:02}", "title": f"Thing {n}", "category": ["c", f"c{n % 4}"], "price": n + 1}
        for n in range(30)
    ]
    lake.put("silver/items", *items)
    visits = [
        {
            "session_id": f"s{n}",
            "user_key": key(1 + n % 40),
            "split": "train",
            "started_at": START + n * HOUR,
            "ended_at": START + n * HOUR,
            "num_events": 3,
            "items": [f"i{(n + step) % 30:02}" for step in range(3)],
            "event_types": ["view"] * 3,
            "event_times": [START + n * HOUR] * 3,
            "event_date": (START + n * HOUR).date(),
        }
        for n in range(60)
    ]
    lake.put("gold/sessions", *visits)


def published(lake: SmallLake, job: ModuleType, *further: Callable[[SmallLake], None]) -> releases.Release:
    shop(lake)
    chosen: Any = job.PublishSettings(**lake.shared_settings)
    ranker(lake, options=chosen.retrieval_options(), learned_until={"ranker": TEST_FROM})
    for one in further:
        one(lake)
    job.main(chosen)
    row = current_model(lake.lake, "release")
    assert row is not None
    return releases.load(lake.lake.local(row["uri"]), serving.read)


def test_what_a_release_answers_is_what_recommend_lists_item_for_item_and_reason_for_reason(
    job: ModuleType, small_lake: SmallLake
) -> None:
    release = published(small_lake, job)
    recommend = load_job(JOBS["recommend"])
    recommend.main(recommend.RecommendSettings(**small_lake.shared_settings))
    lists: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in sorted(small_lake.read("gold/recommendations"), key=lambda row: row["rank"]):
        if row["strategy"] == "ranked":
            lists.setdefault((row["question"], row["user_key"]), []).append((row["item_id"], row["reason"]))
    known = {(question, user): rows for (question, user), rows in lists.items() if release.users.place(user) >= 0}
    assert len(known) > 70 and len({tuple(rows) for rows in known.values()}) > 30
    for (question, user), rows in known.items():
        request = Request(now=TEST_FROM, user_key=user, k=10, new_only=question == "new")
        ranked = [one for one in answer(release, request).shown if one.rung == "ranked"]
        assert [(one.item_id, one.reason) for one in ranked] == rows


def policy(lake: SmallLake, *, as_of: datetime = TEST_FROM, state_dim: int = len(STATE_FEATURES)) -> None:
    """Register a promoted policy; what it says was not learned."""
    folder = lake.lake.files("policy", "train_policy-000001")
    network = qnet.CandidateQNet(state_dim, len(CANDIDATE_FEATURES), (4,))
    qnet.save(network, folder / "qnet.safetensors", tables={}, temperature=1.0, epsilon=0.1)
    row = {"model": "policy", "version": "train_policy-000001", "run_id": "p", "inputs": [], "created_at": START}
    uri = folder.absolute().relative_to(lake.lake.folder).as_posix()
    others = lake.read("ops/models") if lake.lake.exists("ops/models") else []
    lake.put("ops/models", *others, row | {"uri": uri, "status": "promoted", "as_of": as_of})


def seen_and_shown(lake: SmallLake) -> None:
    """One looks at two items before the release's moment and is shown one, and looks at one more after it; counts of a day before it."""
    day = TEST_FROM - timedelta(days=1)
    what = [("i01", "view", 1), ("i02", "view", 2), ("i02", "impression", 3), ("i03", "view", 25)]
    lake.put_events(
        *(
            {"user_key": key(1), "item_id": item, "event_type": kind, "event_time": day + hours * HOUR}
            for item, kind, hours in what
        ),
        {"event_time": START},
        {"event_time": END - timedelta(seconds=1)},
    )
    counts = {name: 3 for name in contract("gold/item_days").schema.names if name.startswith("num_")}
    lake.put("gold/item_days", {"item_id": "i01", "event_date": day.date(), **counts, "first_seen_at": day})


def test_a_promoted_policy_is_in_the_release_with_what_it_knows_of_each_user_before_its_moment(
    job: ModuleType, small_lake: SmallLake
) -> None:
    seen_and_shown(small_lake)
    release = published(small_lake, job, policy)
    assert (
        release.policy is not None
        and release.policy.version == release.facts.versions["policy"] == "train_policy-000001"
    )
    found = answer(release, Request(now=TEST_FROM, user_key=key(1)))
    assert (found.policy, found.degraded, len(found.shown)) == ("dqn", (), 10)
    assert isinstance(release.policy, LivePolicy)
    place = release.catalogue.place_of
    state, features = release.policy.observed(
        Request(now=TEST_FROM, user_key=key(1)), np.array([place["i01"], place["i03"]])
    )
    past = dict(zip(STATE_FEATURES, np.expm1(5 * state[0]).round(4), strict=True))
    assert (past["past_views"], past["past_impressions"], past["past_clicks"]) == (2, 1, 0)
    assert features[0, :, CANDIDATE_FEATURES.index("item_viewed")].tolist() == pytest.approx([np.log(2), 0])
    assert (
        features[0, 0, CANDIDATE_FEATURES.index("item_click_rate")]
        > features[0, 1, CANDIDATE_FEATURES.index("item_click_rate")]
    )


@pytest.mark.parametrize(
    ("given", "why"),
    [({"as_of": TEST_FROM + HOUR}, ""), ({"state_dim": len(STATE_FEATURES) + 3}, "policy left out")],
    ids=["learned from later", "observes what no server sees"],
)
def test_a_policy_that_learned_from_later_or_from_what_no_server_sees_is_left_out(
    job: ModuleType, small_lake: SmallLake, given: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seen_and_shown(small_lake)
    release = published(small_lake, job, partial(policy, **given))
    assert release.policy is None and why in capsys.readouterr().out
    assert answer(release, Request(now=TEST_FROM, user_key=key(1))).policy == "ranked"


@pytest.mark.bad_input("a release that is not whole")
def test_servers_are_pointed_to_a_release_that_was_written_whole_and_one_that_was_changed_is_refused(
    job: ModuleType, small_lake: SmallLake
) -> None:
    release = published(small_lake, job)
    state = open_state(job.PublishSettings(**small_lake.shared_settings).live, small_lake.lake.path)
    told = state.release()
    assert told is not None and told[0] == release.version == "publish-000001"
    folder = small_lake.lake.local(told[1])
    assert release.next_item is not None and release.facts.as_of == TEST_FROM
    assert release.facts.event_weights == WEIGHTS
    vectors = folder / "users" / "weight.npy"
    content = vectors.read_bytes()
    vectors.write_bytes(content[:-1] + b"\1")
    with pytest.raises(ValueError, match=r"users/weight.npy is not as it was written"):
        releases.load(folder)
    vectors.unlink()
    with pytest.raises(ValueError, match=r"lacks its file users/weight.npy"):
        releases.load(folder)
    manifest = folder / "release.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match=r"has format 2; this server reads 1: publish again"):
        releases.load(folder)
    manifest.unlink()
    with pytest.raises(ValueError, match=r"no release.json that can be read"):
        releases.load(folder)


def test_old_releases_go_from_the_disk_and_the_latest_stay(job: ModuleType, small_lake: SmallLake) -> None:
    shop(small_lake)
    for seed in range(3):  # other settings, so that each is a run of its own
        job.main(job.PublishSettings(**small_lake.shared_settings, keep_releases=2, seed=seed, next_visits=20))
    folder = small_lake.lake.folder / "files" / "releases"
    assert sorted(one.name for one in folder.iterdir()) == ["publish-000002", "publish-000003"]
    assert releases.load(folder / "publish-000003").ranker is None
