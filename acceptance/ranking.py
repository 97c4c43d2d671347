"""On the market: strategies beat popularity, the encoder holds against logistic regression, the experiment finds the better arm."""

from acceptance import lakes
from acceptance.claims import Claim
from acceptance.lakes import row, rows
from lib.lake.lake import Lake
from lib.models.baselines import REFERENCE

STRATEGIES = ("ease", "als", "two_tower", "ranked")
RETRIEVERS = ("popularity", "rebuy", "rebuy_then_popularity", "ease", "als", "two_tower", "sequence", "content")
BETTER_ARM, OTHER_ARM = "personal", "popularity_softmax"  # as rl/market/market.py plants them


def check() -> list[Claim]:
    """All of it on the default market's lake."""
    lake = Lake(str(lakes.market()))
    return [
        *strategies_beat_popularity(lake),
        *ranked_is_first(lake),
        encoder_holds(lake),
        better_arm_is_found(lake),
    ]


def strategies_beat_popularity(lake: Lake) -> list[Claim]:
    """The paired interval of each strategy's difference in NDCG@10, over all items, on the test window."""
    told = {
        (found["strategy"], found["metric"]): found
        for found in rows(
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


def ranked_is_first(lake: Lake) -> list[Claim]:
    """NDCG@10 of `ranked` beside that of every retriever, for both questions."""
    claims = []
    for question in ("all", "new"):
        found = rows(
            lake,
            "FROM gold.ranking_metrics SELECT strategy, value, low, high WHERE split = 'test' AND segment = 'all' AND k = 10 "
            f"AND metric = 'ndcg' AND question = '{question}'",
        )
        told = {row["strategy"]: row for row in found}
        ranked, others = told["ranked"], {name: told[name]["value"] for name in RETRIEVERS}
        claims.append(
            Claim(
                f"on the market `ranked` is above every single retriever over {question} items",
                f"{ranked['value']:.4f} ({ranked['low']:.4f} to {ranked['high']:.4f}); "
                + ", ".join(f"{name} {value:.4f}" for name, value in sorted(others.items(), key=lambda one: -one[1])),
                ranked["value"] > max(others.values()),
            )
        )
    return claims


def encoder_holds(lake: Lake) -> Claim:
    """The encoder's AUC minus logistic regression's on the same users of the test window."""
    metric = f"auc_minus_{REFERENCE}"
    difference = row(
        lake, f"FROM gold.model_metrics SELECT * WHERE model = 'encoder' AND split = 'test' AND metric = '{metric}'"
    )
    auc = row(lake, "FROM gold.model_metrics SELECT * WHERE model = 'encoder' AND split = 'test' AND metric = 'auc'")
    return Claim(
        "the encoder's AUC is not below logistic regression's by more than its interval",
        f"AUC {auc['value']:.4f} ({auc['low']:.4f} to {auc['high']:.4f}), minus logistic regression's "
        f"{difference['value']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f}), {auc['n']:,} users",
        difference["high"] >= 0,
    )


def better_arm_is_found(lake: Lake) -> Claim:
    """The verdict on the arm that the simulator makes the better one."""
    compared = rows(lake, "FROM gold.experiments SELECT * ORDER BY metric")
    found = {told["metric"]: told for told in compared if {told["arm"], told["control"]} == {BETTER_ARM, OTHER_ARM}}
    wanted = {arm: "better" if arm == BETTER_ARM else "worse" for arm in (BETTER_ARM, OTHER_ARM)}
    verdicts = {metric: told["verdict"] for metric, told in found.items()}
    ctr = found["ctr"]
    return Claim(
        f"the experiment finds the planted better arm ({BETTER_ARM} over {OTHER_ARM})",
        f"{ctr['arm']} against {ctr['control']}: "
        + ", ".join(
            f"{metric} {told['effect']:+.4g} ({told['low']:+.4g} to {told['high']:+.4g}) {told['verdict']}"
            for metric, told in found.items()
        ),
        verdicts["ctr"] == wanted[ctr["arm"]] and set(verdicts.values()) <= {wanted[ctr["arm"]], "undecided"},
    )
