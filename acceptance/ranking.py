"""On the market: strategies beat popularity, the encoder holds against logistic regression, the experiment finds the better arm."""

from collections.abc import Sequence
from typing import Any

from acceptance import lakes
from acceptance.claims import Claim
from lib.lake import Lake
from lib.models.judging import REFERENCE
from lib.sql import query

STRATEGIES = ("item_to_item", "als", "two_tower")
BETTER_ARM, OTHER_ARM = "personal", "popularity_softmax"  # as rl/market.py plants them
Row = dict[str, Any]


def check() -> list[Claim]:
    """All of it on the default market's lake."""
    lake = Lake(str(lakes.market()))
    return [*strategies_beat_popularity(lake), encoder_holds(lake), better_arm_is_found(lake)]


def strategies_beat_popularity(lake: Lake) -> list[Claim]:
    """The paired interval of each strategy's difference in NDCG@10, over all items, on the test window."""
    told = {
        (row["strategy"], row["metric"]): row
        for row in rows(
            lake,
            "FROM gold.ranking_metrics SELECT * WHERE split = 'test' AND question = 'all' AND segment = 'all' AND k = 10",
        )
    }
    claims = []
    for strategy in STRATEGIES:
        value, difference = told[strategy, "ndcg"], told[strategy, "ndcg_minus_popularity"]
        claims.append(
            Claim(
                f"on the market the paired interval of {strategy}'s NDCG@10 minus popularity's excludes zero",
                f"+{difference['value']:.4f} ({difference['low']:.4f} to {difference['high']:.4f}): "
                f"{value['value']:.4f} against {told['popularity', 'ndcg']['value']:.4f}, {value['num_users']:,} users",
                difference["low"] > 0,
            )
        )
    return claims


def encoder_holds(lake: Lake) -> Claim:
    """The encoder's AUC minus logistic regression's on the same users of the test window."""
    metric = f"auc_minus_{REFERENCE}"
    difference = one(
        lake, f"FROM gold.model_metrics SELECT * WHERE model = 'encoder' AND split = 'test' AND metric = '{metric}'"
    )
    auc = one(lake, "FROM gold.model_metrics SELECT * WHERE model = 'encoder' AND split = 'test' AND metric = 'auc'")
    return Claim(
        "the encoder's AUC is not below logistic regression's by more than its interval",
        f"AUC {auc['value']:.4f} ({auc['low']:.4f} to {auc['high']:.4f}), minus logistic regression's "
        f"{difference['value']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f}), {auc['n']:,} users",
        difference["high"] >= 0,
    )


def better_arm_is_found(lake: Lake) -> Claim:
    """The verdict on the arm that the simulator makes the better one."""
    told = rows(lake, "FROM gold.experiments SELECT * ORDER BY metric")
    found = {row["metric"]: row for row in told if {row["arm"], row["control"]} == {BETTER_ARM, OTHER_ARM}}
    wanted = {arm: "better" if arm == BETTER_ARM else "worse" for arm in (BETTER_ARM, OTHER_ARM)}
    verdicts = {metric: row["verdict"] for metric, row in found.items()}
    ctr = found["ctr"]
    return Claim(
        f"the experiment finds the planted better arm ({BETTER_ARM} over {OTHER_ARM})",
        f"{ctr['arm']} against {ctr['control']}: "
        + ", ".join(
            f"{m} {row['effect']:+.4g} ({row['low']:+.4g} to {row['high']:+.4g}) {row['verdict']}"
            for m, row in found.items()
        ),
        verdicts["ctr"] == wanted[ctr["arm"]] and set(verdicts.values()) <= {wanted[ctr["arm"]], "undecided"},
    )


def rows(lake: Lake, sql: str) -> Sequence[Row]:
    """The rows of a query, by column."""
    names, found = query(lake, sql, limit=None)
    return [dict(zip(names, row, strict=True)) for row in found]


def one(lake: Lake, sql: str) -> Row:
    """The one row of a query."""
    (row,) = rows(lake, sql)
    return row
