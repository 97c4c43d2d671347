from datetime import UTC, datetime

import pytest

from lib.statistics.arms import Label, control_of, experiments_of, spelled_alike, strays


def at(day: int) -> datetime:
    return datetime(2026, 1, day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arms", "control"),
    [
        (("control", "treatment"), "control"),
        (("blue", "Control group"), "Control group"),
        (("checkoutNew", "checkoutControl"), "checkoutControl"),
        (("control v2", "control"), "control"),
        (("B", "a", "c"), "a"),
        (("variant_b", "variant_a"), "variant_a"),
        (("group 1", "group 0"), "group 0"),
        (("on", "off"), "off"),
        (("true", "false"), "false"),
        (("dark", "default", "light"), "default"),
        (("new_ui", "old_ui"), "old_ui"),
        (("after", "baseline"), "baseline"),
        (("Mens E-Mail", "No E-Mail", "Womens E-Mail"), "No E-Mail"),
        (("holdout-group", "exposed"), "holdout-group"),
        (("treatment", "blue"), "blue"),
        (("variant_2", "variant_1", "shop"), "shop"),
    ],
)
def test_the_control_is_the_arm_that_says_so(arms: tuple[str, ...], control: str) -> None:
    for order in (arms, arms[::-1]):
        assert control_of({arm: at(day) for day, arm in enumerate(order, 1)}) == (control, True)


@pytest.mark.parametrize(
    "arms",
    [
        ("blue", "red"),
        ("20 off", "free shipping"),
        ("10 % off", "20 % off"),
        ("buy a shoe", "red"),
        ("v1", "v2"),
        ("treatment", "treatment 2"),
    ],
)
def test_where_no_name_says_so_it_is_the_arm_seen_first_whatever_its_place_in_the_alphabet(
    arms: tuple[str, str],
) -> None:
    first, second = arms
    assert control_of({first: at(1), second: at(2)}) == (first, False)
    assert control_of({first: at(2), second: at(1)}) == (second, False)
    assert control_of({second: at(1), first: at(1)}) == (first, False)


def test_two_names_of_a_control_leave_it_to_the_first_seen_that_is_no_treatment() -> None:
    assert control_of({"treatment": at(1), "default": at(3), "baseline": at(2)}) == ("baseline", False)


def test_spellings_that_differ_by_case_or_blanks_have_the_most_frequent_name() -> None:
    spellings = {"control": 5, "Control ": 7, " CONTROL": 1, "con\u00a0trol": 9, "con  trol": 2, "controls": 1}
    names = spelled_alike(spellings)
    assert names["control"] == names["Control "] == names[" CONTROL"] == "Control"
    assert names["con\u00a0trol"] == names["con  trol"] == "con trol"
    assert names["controls"] == "controls"


def test_a_stray_has_few_units_beside_two_arms_that_have_enough() -> None:
    def found(
        *, min_units: int = 30, min_frac: float = 0.01, intended: tuple[str, ...] = (), **sizes: int
    ) -> list[str]:
        return strays(sizes, intended=intended, min_units=min_units, min_frac=min_frac)

    assert found(a=200, b=200, debug=2, qa=29) == ["debug", "qa"]
    assert found(a=200, b=200, c=30) == []
    assert found(a=10_000, b=9_000, debug=99) == ["debug"]
    assert found(a=10_000, b=9_000, ramp=99, intended=("ramp",)) == []
    assert found(a=200, b=2) == []  # nothing would be left to compare
    assert found(a=3, b=4, c=5) == []
    assert found() == []


def test_labels_become_experiments_and_what_is_odd_about_them_is_said() -> None:
    labels = [
        Label("Front", "control", 10, 10, at(3)),
        Label("front ", "Control ", 5, 4, at(2)),
        Label("Front", "new", 7, 7, at(4)),
        Label("Front", None, 2, 2, at(1)),
        Label("Front", " ", 1, 1, at(1)),
        Label("  ", "new", 1, 1, at(1)),
        Label("Empty", None, 3, 3, at(1)),
    ]
    empty, front = experiments_of(labels, has_users=True)
    assert (empty.name, empty.arms, empty.notes) == ("Empty", {}, ["3 of its events name no arm"])
    assert front.name == "Front"
    assert front.arms == {("Front", "control"): "control", ("front ", "Control "): "control", ("Front", "new"): "new"}
    assert front.first_seen == {"control": at(2), "new": at(4)}
    assert front.notes == [
        "control is written in 2 ways that differ by case or blanks alone: 'Control ', 'control'",
        "3 of its events name no arm",
        "1 of its events name no user",
    ]
    assert experiments_of(labels, has_users=False)[1].notes[-1] == "3 of its events name no arm"
