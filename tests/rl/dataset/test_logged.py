import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.dataset.logged import Events, ItemDays, LoggedDecisions, answered, prior_sum, read_decisions
from rl.observation import CANDIDATE_FEATURES, CART, DAY_US, IMPRESSION, PURCHASE, STATE_FEATURES, VIEW, Catalogue

MINUTE = 60_000_000
NO_DAYS = ItemDays(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 5)))


def events(rows: list[tuple[int, int, int, int, int, int]]) -> Events:
    return Events(*np.array(rows, dtype=np.int64).reshape(-1, 6).T)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(-3, 3)), max_size=30), st.integers(0, 9))
def test_a_prior_sum_is_the_sum_over_rows_of_the_same_key_and_a_smaller_order(
    rows: list[tuple[int, int, int]], seed: int
) -> None:
    key, order, weight = (np.array([row[i] for row in rows], dtype=np.int64) for i in range(3))
    rng = np.random.default_rng(seed)
    query_key, query_order = rng.integers(0, 6, (7, 2)), rng.integers(0, 8, (7, 2))
    expected = [
        [weight[(key == k) & (order < o)].sum() for k, o in zip(ks, os, strict=True)]
        for ks, os in zip(query_key, query_order, strict=True)
    ]
    np.testing.assert_array_equal(prior_sum(key, order, weight.astype(float), query_key, query_order), expected)


def test_the_catalogue_places_an_item_by_the_share_of_its_category_that_costs_less() -> None:
    catalogue = Catalogue.of(
        [["shoes", "boots"], ["shoes", "boots"], ["shoes", "boots"], ["shoes", "heels"], None],
        ["b", "a", None, "b", "a"],
        [30.0, 10.0, 30.0, 5.0, None],
    )
    np.testing.assert_allclose(catalogue.price_position, [1 / 3, 0, 1 / 3, 0, 0.5])
    assert catalogue.category[0] == catalogue.category[2] != catalogue.category[3]
    assert catalogue.group[0] == catalogue.group[3] != catalogue.group[4]
    assert catalogue.brand[0] == catalogue.brand[3] != catalogue.brand[2]


# Items 0 and 1 share a category, 2 stands alone. User 7 viewed 0 and bought it, then comes to two decisions: 1 is shown,
# clicked and carted; then 0 is shown, and long after, 1 is bought.
CATALOGUE = Catalogue(np.array([0, 0, 1]), np.array([0, 0, 0]), np.array([0, 1, 1]), np.array([0.0, 0.5, 0.0]))
STORY = events(
    [
        (3, 0, 5 * MINUTE, VIEW, 1, -1),
        (7, 1, 10 * MINUTE, VIEW, 0, -1),
        (7, 1, 12 * MINUTE, PURCHASE, 0, -1),
        (7, 2, 190 * MINUTE, VIEW, 2, -1),
        (7, 2, 192 * MINUTE, IMPRESSION, 1, 0),
        (7, 2, 193 * MINUTE, VIEW, 1, 0),
        (7, 2, 194 * MINUTE, CART, 1, 0),
        (7, 2, 195 * MINUTE, IMPRESSION, 0, 1),
        (7, 2, 196 * MINUTE, PURCHASE, 1, 0),
    ]
)
CANDIDATES = np.array([[1, 2], [0, 2]])


def read(story: Events, item_days: ItemDays = NO_DAYS) -> LoggedDecisions:
    return read_decisions(story, CANDIDATES, np.array([0.5, 0.25]), catalogue=CATALOGUE, item_days=item_days)


def test_decisions_know_the_past_of_the_user_and_the_session_so_far_and_no_more() -> None:
    decisions = read(STORY)
    state = [dict(zip(STATE_FEATURES, row, strict=True)) for row in decisions.states]
    assert [round(float(np.expm1(5 * s["past_views"]))) for s in state] == [2, 2]
    assert [round(float(np.expm1(5 * s["past_purchases"]))) for s in state] == [1, 1]
    assert [round(float(s["session_clicks"]) * 5) for s in state] == [0, 1]
    assert [round(float(s["session_purchases"]) * 5) for s in state] == [0, 0]
    assert [s["last_clicked"] for s in state] == [0, 1]
    np.testing.assert_allclose(state[0]["recency"], np.log1p(180 / 60) / 7, rtol=1e-6)

    def feature(name: str) -> np.ndarray:
        return decisions.candidate_features[:, :, CANDIDATE_FEATURES.index(name)]

    # the past weighs 1 (view of 0) + 4 (purchase of 0) + 1 (view of 2); shares are smoothed by 5
    np.testing.assert_allclose(feature("category_share"), np.array([[5, 1], [5, 1]]) / 11, rtol=1e-6)
    np.testing.assert_allclose(feature("brand_share"), np.array([[1, 1], [5, 1]]) / 11, rtol=1e-6)
    np.testing.assert_allclose(np.expm1(feature("item_bought")), [[0, 0], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(feature("shown_category") * 5, [[0, 0], [1, 0]])
    np.testing.assert_allclose(feature("shown_item"), [[0, 0], [0, 0]])
    np.testing.assert_allclose(feature("clicked_category") * 5, [[0, 0], [1, 0]])
    np.testing.assert_allclose(feature("last_category"), [[0, 0], [1, 0]])


def test_a_decision_is_worth_all_that_came_of_it() -> None:
    decisions = read(STORY)
    np.testing.assert_array_equal(decisions.rewards, [1 + 1 + 3, 0])
    np.testing.assert_array_equal(decisions.actions, [0, 0])
    np.testing.assert_array_equal(decisions.step, [0, 1])
    np.testing.assert_array_equal(decisions.is_last, [False, True])


def test_items_are_known_by_the_days_before() -> None:
    days = ItemDays(np.array([1, 1]), np.array([0, 1]), np.array([[10.0, 5, 5, 2, 1], [90, 90, 90, 90, 90]]))
    late = STORY._replace(time_us=STORY.time_us + DAY_US)
    rate = read(late, days).candidate_features[0, :, CANDIDATE_FEATURES.index("item_click_rate")]
    shop = (5 / 3 + 0.1) / (10 / 3 + 1)
    np.testing.assert_allclose(rate / 2, [(5 + 20 * shop) / 30, shop], rtol=1e-6)


def test_what_happens_later_changes_no_earlier_observation() -> None:
    later = events([*zip(*STORY, strict=True), (7, 2, 197 * MINUTE, PURCHASE, 2, -1), (8, 3, 0, VIEW, 0, -1)])
    np.testing.assert_array_equal(read(later).states, read(STORY).states)
    np.testing.assert_array_equal(read(later).candidate_features, read(STORY).candidate_features)


def test_a_shard_without_impressions_has_no_decisions() -> None:
    decisions = read_decisions(events([]), np.zeros((0, 2), int), np.zeros(0), catalogue=CATALOGUE, item_days=NO_DAYS)
    assert decisions.states.shape == (0, len(STATE_FEATURES))
    assert decisions.candidate_features.shape == (0, 2, len(CANDIDATE_FEATURES))


def test_an_impression_of_something_that_was_no_candidate_is_refused() -> None:
    with pytest.raises(ValueError, match="shows item 0, which is not among its candidates"):
        read_decisions(STORY, np.array([[1, 2], [1, 2]]), np.array([0.5, 0.25]), catalogue=CATALOGUE, item_days=NO_DAYS)


def test_a_reaction_answers_the_showing_of_its_item_under_its_request() -> None:
    page = events(
        [
            (0, 0, 0, IMPRESSION, 0, 4),
            (0, 0, 0, IMPRESSION, 1, 4),
            (0, 0, 1, VIEW, 1, 4),  # of the second item
            (0, 0, 2, VIEW, 2, 4),  # of an item that the page did not show
            (0, 0, 3, VIEW, 0, 5),  # of another request
            (0, 0, 4, VIEW, 0, -1),  # of no request
            (0, 0, 5, IMPRESSION, 1, 4),  # the page shows the second item again
            (0, 0, 6, CART, 1, 4),
            (0, 0, 7, VIEW, 2, 6),  # told before its impression
            (0, 0, 8, IMPRESSION, 2, 6),
        ]
    )
    assert answered(page).tolist() == [-1, -1, 1, -1, -1, -1, -1, 6, 9, -1]


def test_a_page_earns_what_its_own_items_earn_and_each_kind_of_reaction_once() -> None:
    story = events(
        [
            (0, 0, 0, IMPRESSION, 1, 0),
            (0, 0, 0, IMPRESSION, 2, 0),
            (0, 0, 1, VIEW, 2, 0),
            (0, 0, 2, VIEW, 2, 0),
            (0, 0, 3, PURCHASE, 2, 0),
        ]
    )
    assert read(story).rewards.tolist() == [0.0, 4.0]


def test_only_a_click_on_the_item_shown_last_is_the_last_click() -> None:
    def last_clicked(item: int) -> list[float]:
        story = events(
            [
                (0, 0, 0, IMPRESSION, 1, 0),
                (0, 0, 1, VIEW, item, 0),
                (0, 0, 2, IMPRESSION, 0, 0),
                (0, 0, 3, VIEW, 1, 0),
            ]
        )
        return read(story).states[:, STATE_FEATURES.index("last_clicked")].tolist()

    assert last_clicked(1) == [0, 1]
    assert last_clicked(2) == [0, 0]


def test_before_as_of_only_what_came_before_it_is_rewarded() -> None:
    def rewards(as_of: int) -> list[float]:
        at = read_decisions(
            STORY, CANDIDATES, np.ones(2), catalogue=CATALOGUE, item_days=NO_DAYS, as_of_us=as_of * MINUTE
        )
        return at.rewards.tolist()

    assert read(STORY).rewards.tolist() == [5.0, 0.0]
    assert rewards(196) == [2.0, 0.0]  # the purchase came then
    assert rewards(192) == [5.0, 0.0]  # decisions from as_of on earn all that came
