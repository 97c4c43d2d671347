"""Labelled examples on tiny histories, their dates and labels worked by hand."""

from datetime import timedelta

from lib.features.examples import ExampleDate, example_dates, examples
from tests.lib.features.events import AS_OF, days, events_of
from tests.lib.features.test_user_features import HISTORY, day


def test_a_label_is_one_for_a_relevant_event_in_the_window_and_the_window_is_half_open() -> None:
    until = AS_OF + timedelta(days=5)
    seen_before = [
        {"user_key": user, "event_time": AS_OF - timedelta(days=9)}
        for user in ("start", "end", "early", "views", "twice")
    ]
    events = events_of(
        *seen_before,
        {"user_key": "start", "event_type": "purchase", "event_time": AS_OF},
        {"user_key": "end", "event_type": "purchase", "event_time": until},
        {"user_key": "early", "event_type": "purchase", "event_time": AS_OF - timedelta(seconds=1)},
        {"user_key": "views", "event_type": "view", "event_time": AS_OF},
        {"user_key": "twice", "event_type": "purchase", "event_time": AS_OF + timedelta(days=1)},
        {"user_key": "twice", "event_type": "purchase", "event_time": AS_OF + timedelta(days=2)},
        {"user_key": "not known before", "event_type": "purchase", "event_time": AS_OF + timedelta(days=2)},
    )
    rows = examples(days(events), dates=[ExampleDate("train", AS_OF, until)], relevant="purchase")
    assert dict(zip(rows["user_key"], rows["label"], strict=True)) == {
        "start": 1,
        "end": 0,
        "early": 0,
        "views": 0,
        "twice": 1,
    }
    assert set(rows["split"]) == {"train"}


def test_a_label_that_is_not_known_yet_is_null() -> None:
    rows = examples(days(HISTORY), dates=[ExampleDate("test", AS_OF, None)], relevant="purchase")
    assert rows["label"].to_list() == [None]


def test_by_default_the_dates_are_a_window_before_valid_from_valid_from_and_test_from() -> None:
    dates = example_dates(valid_from=day(80), test_from=day(90), end=day(100), as_of=day(90))
    assert dates == [
        ExampleDate("train", day(70), day(80)),
        ExampleDate("valid", day(80), day(90)),
        ExampleDate("test", day(90), day(100)),
    ]


def test_a_production_run_moves_the_dates_to_the_end_where_labels_are_unknown() -> None:
    dates = example_dates(valid_from=day(80), test_from=day(90), end=day(100), as_of=day(100))
    assert dates == [
        ExampleDate("train", day(80), day(90)),
        ExampleDate("valid", day(90), day(100)),
        ExampleDate("test", day(100), None),
    ]


def test_no_label_of_valid_looks_into_the_test_window() -> None:
    dates = example_dates(valid_from=day(70), test_from=day(80), end=day(100), as_of=day(80))
    assert [date.label_until for date in dates] == [day(70), day(80), day(100)]
