"""A shop that shows any product: what it is told, and that a better one is worth more."""

import numpy as np
import pytest

from rl.market.market import Market
from rl.market.served import Visit, served
from rl.market.shoppers import DAY_MS
from rl.observation import VIEW


@pytest.fixture(scope="module")
def market() -> Market:
    return Market.generate(3, num_items=60, num_users=512, days=20)


def test_shoppers_of_a_shop_that_knows_their_tastes_buy_more_than_those_of_one_that_shows_anything(
    market: Market,
) -> None:
    relevance = np.concatenate([market._shoppers(block).relevance for block in (0, 256)])
    order = np.argsort(-(relevance + market.world.hidden.quality), axis=1)

    def knows(visits: list[Visit]) -> list[int]:
        return [int(order[int(visit.user_id[1:]), len(visit.shown)]) for visit in visits]

    draw = np.random.default_rng(0)

    def draws(visits: list[Visit]) -> list[int]:
        return draw.integers(60, size=len(visits)).tolist()

    time = {"since_ms": market.end_ms - 5 * DAY_MS, "until_ms": market.end_ms, "num_sessions": 300}
    best, any_ = served(market, knows, **time), served(market, draws, **time)
    assert len(best.returns) == len(any_.returns) == 300
    assert best.returns.mean() > 1.5 * any_.returns.mean()
    assert best.num_purchases.mean() > any_.num_purchases.mean()


def test_a_shop_is_told_what_happened_in_the_visit_and_each_news_once(market: Market) -> None:
    asked: dict[str, int] = {}
    news: dict[str, list[tuple[int, int]]] = {}

    def answers(visits: list[Visit]) -> list[int]:
        for visit in visits:
            news.setdefault(visit.user_id, []).extend(visit.news())
            assert news[visit.user_id] == visit.events
            assert len(visit.shown) == asked.get(visit.user_id, 0)
            asked[visit.user_id] = len(visit.shown) + 1
        return [7] * len(visits)

    since = market.end_ms - 5 * DAY_MS
    served(market, answers, since_ms=since, until_ms=market.end_ms, num_sessions=200)
    assert max(asked.values()) == 5
    assert any((VIEW, 7) in events for events in news.values())
    assert any(events and events[0][1] != 7 for events in news.values()), (
        "what they looked at before the first decision"
    )
