"""The report says what the tables say, says why a section is missing, loads nothing, and escapes what comes from the log."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lib.lake.lake import Lake
from lib.report import summary_rows, write_report
from lib.runs import model_registry
from lib.tables import contract
from lib.tables.silver import CLOCKS
from tests.lakes import put

START = datetime(2026, 3, 1, tzinfo=UTC)
AS_OF = datetime(2026, 3, 20, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script> & "co"'

EVENT: dict[str, Any] = {
    "user_key": "a" * 32,
    "item_id": "i1",
    "event_time": START + timedelta(hours=9),
    "event_date": START.date(),
    "is_bot": False,
    "source_record": "events:a:1",
}
REJECT: dict[str, Any] = {
    "stage": "clean",
    "source": "events",
    "source_file": "a.csv",
    "batch_id": "b",
    "arrived_at": START,
    "day": "2026-01-01",
}
METRIC: dict[str, Any] = {
    "as_of": AS_OF, "split": "test", "question": "all", "k": 10, "segment": "all", "low": None, "high": None, "num_users": 40,
    "num_without_list": 3, "seed": 0,
}  # fmt: skip
RUN: dict[str, Any] = {
    "number": 1, "settings_hash": "s", "code_version": "c", "inputs": [], "input_files": [], "outputs": [], "rows": 7, "seconds": 4.25,
    "status": "done", "started_at": AS_OF, "finished_at": AS_OF + timedelta(minutes=5),
}  # fmt: skip
VALUE: dict[str, Any] = {
    "dataset": "test", "version": "v", "low": None, "high": None, "effective_sample_size": None, "num_episodes": 50,
    "num_rewarded": 20, "verdict": "reference", "reason": "it logged",
}  # fmt: skip


def fill(lake: Lake) -> None:
    """Every table that the report reads, with a few rows each."""
    source = contract("bronze/events").with_source_columns(("line",))
    put(
        lake,
        source,
        *(
            {
                "line": "x",
                "source_file": "a.csv",
                "source_file_sha256": "f",
                "record_number": n,
                "batch_id": "b",
                "arrived_at": START,
            }
            for n in range(1000)
        ),
    )
    rejects = [REJECT | {"reason": "duplicate"}] * 30 + [REJECT | {"reason": "bad_value:price"}] * 12
    put(lake, "bronze/rejects", *rejects, REJECT | {"stage": "ingest", "reason": "file:truncated gzip"})
    kinds = ["impression"] * 8 + ["view"] * 4 + ["purchase"]
    in_arm = EVENT | {"experiment": "e", "arm": "personal"}
    events = [in_arm | {"event_id": str(n), "event_type": kind} for n, kind in enumerate(kinds)]
    put(lake, "silver/events", *events, EVENT | {"event_id": "bot", "event_type": "view", "is_bot": True})
    put(lake, "silver/items", {"item_id": "i1", "title": HOSTILE})
    profile = {
        "user_key": "a" * 32,
        "as_of": AS_OF,
        "first_event_at": START,
        "last_event_at": START,
        "recency_days": 3.5,
    }
    profile |= {"tenure_days": 9.0, "spend": Decimal("12.50"), "active_hours": [0.0] * 9 + [1.0] + [0.0] * 14}
    profile |= {
        f"num_{name}": 2
        for name in ("events", "sessions", "active_days", "views", "carts", "purchases", "returns", "items")
    }
    tags = [{"tag": f"brand={HOSTILE}", "weight": 0.75}, {"tag": "category=Shoes", "weight": 0.25}]
    put(lake, "gold/user_profiles", profile | {"interest_tags": tags})
    item = {
        "item_id": "i1",
        "as_of": AS_OF,
        "first_seen_at": START,
        "age_days": 9.0,
        "novelty": 1.0,
        "popularity_rank": 1,
    }
    item |= {
        f"num_{name}": 321 for name in ("impressions", "views", "carts", "purchases", "returns", "buyers", "users")
    }
    put(lake, "gold/item_profiles", item | {"price": Decimal("19.99")})
    put(
        lake,
        "gold/ranking_metrics",
        METRIC | {"strategy": "popularity", "metric": "ndcg", "value": 0.1},
        METRIC | {"strategy": "als", "metric": "ndcg", "value": 0.25, "low": 0.2, "high": 0.3},
        METRIC | {"strategy": "als", "metric": "ndcg_minus_popularity", "value": 0.15, "low": 0.11, "high": 0.19},
        METRIC | {"strategy": "als", "metric": "ndcg", "value": 0.99, "split": "valid"},
        METRIC | {"strategy": "als", "metric": "precision", "value": 0.0625},
        METRIC | {"strategy": "als", "metric": "ndcg", "value": None, "segment": "heavy", "num_users": 0},
        METRIC
        | {"strategy": "als", "metric": "ndcg", "value": 0.75, "low": 0.625, "high": 0.875}
        | {"segment": "new_items", "num_users": 17},
        METRIC | {"strategy": "als", "metric": "item_recall_unbiased", "value": 0.875, "low": 0.8125, "high": 0.9375},
        *(
            METRIC
            | {"strategy": "impressions", "metric": "examination", "k": k, "num_users": 1000 - 100 * k}
            | {"value": value, "low": low, "high": high}
            for k, value, low, high in ((1, 1.0, 1.0, 1.0), (2, 0.4375, 0.375, 0.5))
        ),
    )
    metrics = {"version": "train_encoder-000001", "split": "test", "metric": "auc", "low": 0.7, "high": 0.8, "n": 50}
    put(
        lake,
        "gold/model_metrics",
        metrics | {"model": "encoder", "value": 0.765},
        metrics | {"model": "logistic_regression", "value": 0.754},
        metrics | {"model": "encoder", "version": "train_encoder-000002", "value": 0.333},
        metrics | {"model": "logistic_regression", "metric": "ece", "value": 0.0625},
        metrics | {"model": "logistic_regression", "metric": "ece_calibrated", "value": 0.03125},
        metrics
        | {"model": "encoder", "metric": "log_loss_minus_logistic_regression"}
        | {"value": 0.02, "low": 0.01, "high": 0.03},
        *(
            metrics | {"model": "encoder", "metric": f"{what}_bin_{number:02d}", "value": value}
            for number, values in ((1, (0.123, 0.25)), (10, (0.5, 0.75)))
            for what, value in zip(("predicted", "observed"), values, strict=True)
        ),
    )
    served = {"model": "logistic_regression", "version": "train_encoder-000001", "as_of": AS_OF, "decile": 1}
    put(lake, "gold/propensity_to_buy", served | {"user_key": "u", "probability": 0.5})
    put(
        lake,
        "gold/policy_values",
        VALUE | {"policy": "logging", "estimator": "mean_return", "value": 0.5},
        VALUE | {"policy": "logging", "dataset": "test/personal", "estimator": "mean_return", "value": 0.625},
        VALUE
        | {"policy": "dqn", "estimator": "dr", "value": 0.8, "verdict": "promote", "reason": "0.7 is above 0.5"}
        | {"incumbent": "personal"},
        VALUE | {"policy": "dqn", "estimator": "pdis", "value": 0.9, "verdict": "diagnostic"},
    )
    arms = {
        "experiment": "e",
        "arm": "personal",
        "control": "random",
        "metric": "ctr",
        "arm_value": 0.3,
        "control_value": 0.2,
    }
    arms |= {
        "effect": 0.1,
        "low": 0.05,
        "high": 0.15,
        "p": 0.0001,
        "num_arm": 11,
        "num_control": 12,
        "sample_ratio_p": 0.5,
    }
    put(lake, "gold/experiments", arms | {"verdict": "better", "reason": "r"})
    put_pictures(lake)
    put(
        lake,
        "ops/runs",
        RUN | {"run_id": "ingest-000001", "job": "ingest"},
        RUN
        | {
            "run_id": "ingest-000002",
            "job": "ingest",
            "number": 2,
            "seconds": 9.5,
            "started_at": AS_OF + timedelta(hours=1),
        },
    )


def put_pictures(lake: Lake) -> None:
    for folder, name in (("files/gan/train_gan-000001", "samples.png"), ("files/creatives/c", "advert.png")):
        (lake.folder / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8), "#336699").save(lake.folder / folder / name)
    model = {
        "model": "gan",
        "version": "train_gan-000001",
        "uri": "files/gan/train_gan-000001",
        "run_id": "train_gan-000001",
    }
    model_registry.register_model(
        lake, model | {"sha256": None, "inputs": [], "status": "promoted", "num_parameters": 1, "created_at": AS_OF}
    )
    encoder = {"model": "encoder", "uri": "u", "run_id": "r", "inputs": [], "created_at": AS_OF}
    for row in (
        encoder | {"version": "train_encoder-000001", "status": "promoted"},
        encoder
        | {"version": "train_encoder-000002", "status": "candidate", "reason": "0.3 is below 0.7"}
        | {"created_at": AS_OF + timedelta(hours=1)},
    ):
        model_registry.register_model(lake, row)
    advert = {
        "creative_id": "c",
        "item_id": "i1",
        "kind": "advert_300x250",
        "uri": "files/creatives/c/advert.png",
        "sha256": "f",
    }
    advert |= {
        "generator_version": "train_gan-000001",
        "seed": 1,
        "provenance": [("synthetic", "true")],
        "status": "accepted",
    }
    picture = advert | {"creative_id": "p", "kind": "image"}
    refused = [
        picture | {"creative_id": f"r{number}", "status": "refused", "reason": reason}
        for number, reason in enumerate(
            ("of another colour: 31", "of another colour: 44", "a copy of a training picture")
        )
    ]
    put(lake, "gold/creatives", advert, picture, *refused)


class Page(HTMLParser):
    """What a browser would find: text by section, attributes that load something, tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.section, self.text, self.loads, self.images, self.plots, self.tags = "", {}, [], [], [], []
        self.hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.hidden = tag in ("script", "style")
        if tag == "section":
            self.section = values.get("id") or "glance"
        self.loads += [values[name] for name in ("src", "href", "srcset", "data", "poster") if values.get(name)]
        if tag == "img":
            self.images.append(values)
        if values.get("class") == "plot":
            self.plots.append(values)

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.text[self.section] = f"{self.text.get(self.section, '')} {data.strip()}".strip()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(str(tmp_path_factory.mktemp("lakes") / "full"))
    fill(lake)
    return lake


@pytest.fixture(scope="module")
def html(full: Lake) -> str:
    return Path(write_report(full)).read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("data", "1,000 records were read and 42 refused (4.20 %)"),
        ("data", "bad value: price 12 1.20 %"),
        ("data", "1 file set aside whole"),
        ("funnel", "1 event of theirs flagged"),
        ("funnel", "This log holds no cart events"),
        ("funnel", "view 4 50.0 % 1"),
        ("activity", "impression 8"),
        ("ranking", "als 0.250 [0.200, 0.300] +0.150 [+0.110, +0.190]"),
        ("ranking", "[+0.110, +0.190] 0.062 –"),
        ("ranking", "test window: 40 users"),
        ("ranking", "in lists corrected [95 %]"),
        ("ranking", "als – 0.875 [0.812, 0.938]"),
        ("ranking", "looked at [95 %] impressions 1 1.000 [1.000, 1.000] 900 2 0.438 [0.375, 0.500] 800"),
        ("ranking", "strategy new items: 17 als 0.750 [0.625, 0.875] popularity –"),
        ("models", "encoder 0.765 [0.700, 0.800]"),
        ("models", "Logistic regression gives gold/propensity_to_buy"),
        ("models", "Its calibration error on test is 0.062, and 0.031 once corrected by valid."),
        ("models", "log loss on test minus its own is +0.020 [+0.010, +0.030]: the network is worse."),
        ("models", "encoder train_encoder-000002 stands as a candidate: 0.3 is below 0.7."),
        ("policy", "dqn: promote (incumbent: personal). 0.7 is above 0.5."),
        ("policy", "Importance sampling is a diagnostic and has no interval"),
        ("policy", "dqn test importance sampling (diagnostic) diagnostic 0.900 –"),
        ("policy", "logging test/personal mean return reference 0.625"),
        ("experiment", "personal against random: better on CTR. 11 against 12 users"),
        ("experiment", "< 0.001"),
        ("adverts", "1 advert accepted, 0 refused; 1 picture accepted, 3 refused"),
        ("adverts", "image refused of another colour 2"),
        ("adverts", "AI-generated"),
        ("shoppers", "1 user known before 20 Mar 2026 00:00; 100.0 % of them bought"),
        ("shoppers", "category=Shoes 25.0 % 1"),
        ("products", "321"),
        ("stages", "ingest done 7 9.5"),
        ("tables", "gold/ranking_metrics"),
    ],
)
def test_a_section_says_what_its_tables_say(page: Page, section: str, says: str) -> None:
    assert says in re.sub(r"\s+", " ", page.text[section])


def test_only_the_test_split_decides_between_strategies(page: Page) -> None:
    assert "0.99" not in page.text["ranking"]


def test_a_candidate_s_metrics_do_not_stand_for_the_current_version(page: Page) -> None:
    assert "0.333" not in page.text["models"]


def test_the_chart_of_reliability_shows_what_was_said_beside_what_came(page: Page) -> None:
    (said,) = (plot["aria-label"] for plot in page.plots if "probability said" in plot["aria-label"])
    assert said.endswith("encoder 12.3% 25.0%, 50.0% 75.0%")
    assert "bin 01" not in page.text["models"]


def test_the_chart_of_policies_shows_each_logging_policy_and_no_diagnostic(page: Page) -> None:
    (said,) = (plot["aria-label"] for plot in page.plots if "discounted return" in plot["aria-label"])
    assert "logging: personal" in said
    assert "importance sampling" not in said
    assert "0.9" not in said


def test_every_chart_and_picture_says_in_words_what_it_shows(page: Page) -> None:
    assert len(page.plots) >= 8
    assert all(plot["role"] == "img" and len(plot["aria-label"]) > 20 for plot in page.plots)
    assert len(page.images) == 2
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in page.images)


def test_nothing_is_loaded_from_anywhere(html: str, page: Page) -> None:
    assert all(value.startswith(("data:", "#")) for value in page.loads), page.loads
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert "url(" not in styles
    assert "@import" not in styles
    assert "default-src 'none'" in html


def test_what_comes_from_the_log_is_escaped(html: str, page: Page) -> None:
    assert "<script>alert" not in html
    assert page.text["products"].count(HOSTILE) == 1
    assert page.text["shoppers"].count(f"brand={HOSTILE}") == 1


def test_no_user_is_named(html: str) -> None:
    assert "a" * 32 not in html


def test_a_title_that_closes_the_chart_s_script_stays_inside_it(html: str) -> None:
    data = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert len(data) == html.count('<script type="application/json">')
    assert not any("<" in figure for figure in data)


def test_the_summary_tells_counts_ranks_verdict_and_adverts(full: Lake) -> None:
    rows = dict(summary_rows(full))
    assert rows["read"] == "1,000 records"
    assert rows["rejected"] == "42 (4.20 %): duplicate 30, bad value: price 12; 1 file set aside whole"
    assert rows["kept"] == "958 records, 14 events"
    assert rows["NDCG@10, all items"] == "popularity 0.100\nals +0.150 [+0.110, +0.190]"
    assert rows["candidates"] == "encoder train_encoder-000002 stands as a candidate: 0.3 is below 0.7."
    assert rows["policy"] == "dqn: promote (incumbent: personal). 0.7 is above 0.5."
    assert rows["experiment"].startswith("personal against random: better on CTR.")
    assert rows["adverts"] == "1 advert accepted, 0 refused; 1 picture accepted, 3 refused"
    assert rows["tables"] == str(full.folder)
    assert rows["report"] == str(full.folder / "files" / "report" / "index.html")


def test_a_coarse_clock_is_said_with_what_is_not_asked_of_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    fill(lake)
    lake.ensure(contract("silver/events"), {CLOCKS: '{"events": "day", "orders": "second"}'})
    # Money that could not be added is null for every user.
    profile = {**lake.dataset("gold/user_profiles").to_table().to_pylist()[0], "spend": None}
    put(lake, "gold/user_profiles", profile)
    said = Page(Path(write_report(lake)).read_text()).text
    assert "The clock of events is the day: there are no double clicks, bots or hours of day" in said["data"]
    assert "The clock of orders" not in said["data"]
    assert "spend – – –" in said["shoppers"]


def test_a_section_without_its_table_says_why_in_one_line(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "bare"))
    put(
        lake,
        "ops/runs",
        RUN
        | {
            "run_id": "train_gan-000001",
            "job": "train_gan",
            "status": "skipped",
            "message": "no pictures in this log",
        },
        RUN | {"run_id": "decisions-000001", "job": "decisions", "status": "failed", "message": "ValueError: lost"},
    )
    page = Page(Path(write_report(lake)).read_text())
    assert page.text["adverts"].endswith("train_gan was skipped: no pictures in this log.")
    assert page.text["policy"].endswith("decisions is failed: ValueError: lost.")
    assert page.text["experiment"].endswith("experiment has not run on this lake.")
    assert dict(summary_rows(lake))["adverts"] == "train_gan was skipped: no pictures in this log."


def test_a_day_without_an_event_is_a_day_with_none(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "gap"))
    days = [START, START + timedelta(days=4)]
    events = [EVENT | {"event_id": str(n), "event_type": "view", "event_time": day} for n, day in enumerate(days)]
    put(lake, "silver/events", *events)
    page = Page(Path(write_report(lake)).read_text())
    assert "view 2 0 05 Mar 2026 1" in re.sub(r"\s+", " ", page.text["activity"])  # 2 in 5 days: 0.4 a day


def test_a_log_of_rare_clicks_without_users_is_shown_to_the_digit_that_counts(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "rare"))
    shown = {"event_id": "1", "event_type": "impression", "experiment": "e", "arm": "random", "user_key": None}
    put(lake, "silver/events", EVENT | shown)
    arms = {"experiment": "e", "arm": "random", "control": "bts", "metric": "ctr", "arm_value": 0.0046}
    arms |= {"control_value": 0.0069, "effect": -0.0023, "low": -0.0044, "high": -0.0002, "p": 0.03, "num_arm": 10_000}
    arms |= {"num_control": 10_000, "sample_ratio_p": 1.0, "verdict": "worse", "reason": "r"}
    put(lake, "gold/experiments", arms)
    logging = {"policy": "logging", "estimator": "mean_return", "value": 0.0046, "low": 0.0033, "high": 0.006}
    put(lake, "gold/policy_values", VALUE | logging)
    page = Page(Path(write_report(lake)).read_text())
    assert "10,000 against 10,000 impressions" in page.text["experiment"]
    assert "0.00460 0.00690 −0.00230 [−0.00440, −0.00020]" in re.sub(r"\s+", " ", page.text["experiment"])
    assert "0.00460 [0.00330, 0.00600]" in re.sub(r"\s+", " ", page.text["policy"])


def test_experiments_say_which_metric_decides_and_what_to_know_of_each(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "two"))
    pair = {"arm": "new", "control": "old", "num_arm": 1, "num_control": 2, "verdict": "running", "reason": "r"}
    checkout = pair | {"experiment": "checkout", "effect": 0.1, "control_value": 0.5, "p": 0.01, "p_adjusted": 0.03}
    put(
        lake,
        "gold/experiments",
        checkout | {"metric": "conversion", "is_primary": False, "verdict": "better"},
        checkout | {"metric": "ctr", "is_primary": True, "notes": "debug (2 users) left out"},
        pair | {"experiment": "banner", "metric": "ctr", "is_primary": True},
    )
    text = re.sub(r"\s+", " ", Page(Path(write_report(lake)).read_text()).text["experiment"])
    assert "banner: new against old: running on CTR (decides). 1 against 2 users" in text
    assert "checkout: new against old: running on CTR (decides); better on conversion. 1 against 2 users" in text
    assert "checkout: debug (2 users) left out." in text
    assert "checkout conversion new old better" in text
    assert "0.010 0.030" in text
    line = dict(summary_rows(lake))["experiment"]
    assert line.split("\n")[-1] == "checkout: debug (2 users) left out."


def test_experiments_of_an_earlier_release_are_shown_without_what_they_lack(tmp_path: Path) -> None:
    lake, now = Lake(str(tmp_path / "old")), contract("gold/experiments")
    gained = {"is_primary", "p_adjusted", "notes"}
    arms = {"experiment": "e", "arm": "b", "control": "a", "metric": "ctr", "num_arm": 1, "num_control": 2}
    earlier = replace(now, columns=tuple(column for column in now.columns if column.name not in gained))
    put(lake, earlier, arms | {"verdict": "undecided", "reason": "r"})
    assert "b against a: undecided on CTR. 1 against 2" in Page(Path(write_report(lake)).read_text()).text["experiment"]


def test_a_log_with_one_class_of_labels_says_so(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "one_class"))
    example = {"as_of": AS_OF, "split": "train", "features": [0.0], "label": 1}
    put(lake, "gold/examples", *(example | {"user_key": str(user)} for user in range(3)))
    put(lake, "ops/runs", *(RUN | {"run_id": f"{j}-000001", "job": j} for j in ("featurize", "train_encoder")))
    page = Page(Path(write_report(lake)).read_text())
    assert page.text["models"].endswith("All 3 labels of the train split are 1: nothing to learn.")


def test_a_lake_without_any_table_still_gets_a_page(tmp_path: Path) -> None:
    page = Page(Path(write_report(Lake(str(tmp_path)))).read_text())
    assert "ingest has not run on this lake." in page.text["data"]
    assert page.plots == []


def test_the_page_goes_where_it_is_asked_to_and_leaves_no_half_file(full: Lake, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report.html"
    assert write_report(full, out, name="Corner shop") == str(out)
    assert list(out.parent.iterdir()) == [out]
    assert "<h1>Corner shop</h1>" in out.read_text()


def test_the_run_that_writes_the_page_is_not_on_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "reported"))
    report = {"run_id": "report-000001", "job": "report", "status": "running", "finished_at": None}
    put(lake, "ops/runs", RUN | {"run_id": "ingest-000001", "job": "ingest"}, RUN | report)
    page = Page(Path(write_report(lake)).read_text())
    assert "ingest" in page.text["stages"]
    assert "running" not in page.text["stages"]


def test_a_rule_that_refuses_more_than_a_tenth_is_a_warning_and_ignored_records_are_not_refused(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    source = contract("bronze/events").with_source_columns(("line",))
    row = {"line": "x", "source_file": "a.csv", "source_file_sha256": "f", "batch_id": "b", "arrived_at": START}
    put(lake, source, *(row | {"record_number": n} for n in range(100)))
    reasons = ["double_click"] * 52 + ["duplicate"] * 10 + ["ignored"] * 30
    put(lake, "bronze/rejects", *(REJECT | {"reason": reason} for reason in reasons))
    rows = dict(summary_rows(lake))
    assert rows["rejected"] == "62 (62.00 %): double click 52, duplicate 10"
    assert rows["WARNING"] == "52 of 100 records of events (52.0 %) are refused as double click"
    assert rows["ignored"] == "30 records, as the mapping says"
    assert rows["kept"] == "8 records, 0 events"
    page = Path(write_report(lake)).read_text()
    assert "52 of 100 records of events (52.0 %) are refused as double click." in page
