"""On Online Retail: every record accounted for, and rankings beside an independent yardstick on the same customers.

The yardstick shares no code with Cartwheel and is run here, in the same check, on the same files. It takes one customer
for enough to let one item speak for another, so the lists that are compared with it are made with a support of one.
"""

import re
import sys
from dataclasses import dataclass

from acceptance import lakes
from acceptance.claims import DATA, SHARED, Claim, run_command, run_pipeline
from acceptance.lakes import row, rows
from lib.lake.lake import Lake

RECORDS, DUPLICATES, KNOWN_PURCHASES, PURCHASES = 541_909, 5_268, 391_150, 522_504
CUSTOMERS = {"all": 1_666, "new": 1_565}
LEAST_ALS = {"all": 0.19, "new": 0.065}
LEAST_RANKED = {"all": 0.320, "new": 0.120}
TOLERANCE = 0.002
LEAST_MATCHED = (
    0.85  # of 8,506 cancellations 692 have no purchase of the item at all, and 420 none before or large enough
)
# The yardstick's name of a ranker -> ours that does the same.
SAME = {"popularity": "popularity", "rebuy": "rebuy_then_popularity", "ease": "ease"}
LINE = re.compile(
    r"^(?P<ranker>\S+) +(?P<question>all|new) +n= *(?P<users>\d+) ndcg@10=(?P<ndcg>[\d.]+)$", re.MULTILINE
)


@dataclass(frozen=True)
class Judged:
    """One ranker's NDCG@10 for one question, and over how many customers."""

    ndcg: float
    num_users: int


def check() -> list[Claim]:
    """Counts of the lake, and its rankings against the yardstick's."""
    lake = lakes.real_log("online_retail")
    like_yardstick = lakes.copy_of(lake, "online_retail_support_of_one")
    log = ("--logs", str(DATA / "online_retail"), "--format", "online_retail")
    support = [part for job in ("train-ranker", "recommend") for part in (f"--{job}.min-support", "1")]
    run_pipeline(like_yardstick, *log, "--from", "train_ranker", "--to", "evaluate", *support)
    return [
        *counts(Lake(str(lake))),
        *rankings(ours(Lake(str(like_yardstick))), yardstick()),
        *ranked(Lake(str(lake)), yardsticks_ranker()),
    ]


def counts(lake: Lake) -> list[Claim]:
    """What became of the records."""
    num_records = row(lake, "SELECT count(*) AS n FROM bronze.lines")["n"]
    refused = rows(lake, "SELECT reason, count(*) AS n FROM bronze.rejects GROUP BY reason ORDER BY reason")
    reasons = {found["reason"]: found["n"] for found in refused}
    num_events = row(lake, "SELECT count(*) AS n FROM silver.events")["n"]
    return [
        Claim(f"{RECORDS:,} records in bronze", f"{num_records:,}", num_records == RECORDS),
        Claim(
            "rejects by reason and events add up to the records",
            f"{' + '.join(f'{n:,} {reason}' for reason, n in reasons.items())} + {num_events:,} events = "
            f"{sum(reasons.values()) + num_events:,}",
            sum(reasons.values()) + num_events == num_records,
        ),
        duplicates(lake, reasons["duplicate"]),
        *purchases(lake),
        cancellations(lake),
    ]


def duplicates(lake: Lake, num_refused: int) -> Claim:
    """All repetitions of a record: those refused as such, and those whose bad value is the outcome that comes first."""
    fields = "InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country"
    beyond_first = "SELECT coalesce(sum(n - 1), 0)::BIGINT AS n FROM (SELECT count(*) AS n FROM {}) WHERE n > 1"
    num_repeats = row(lake, beyond_first.format(f"bronze.lines GROUP BY {fields}"))["n"]
    bad_values = "bronze.rejects WHERE reason LIKE 'bad_value:%' GROUP BY raw"
    num_bad = row(lake, beyond_first.format(bad_values))["n"]
    return Claim(
        f"{DUPLICATES:,} duplicates",
        f"{num_refused:,} refused as duplicates, {num_bad} repeat a record with a bad value, which is the outcome that comes "
        f"first: {num_refused + num_bad:,}; records that repeat one before, counted in bronze: {num_repeats:,}",
        num_refused + num_bad == num_repeats == DUPLICATES,
    )


def purchases(lake: Lake) -> list[Claim]:
    """Purchases of products, by known customers and by all."""
    counted = row(
        lake,
        "SELECT count(*) FILTER (user_key IS NOT NULL) AS known, count(*) AS every "
        "FROM silver.events WHERE event_type = 'purchase'",
    )
    num_known, num_all = counted["known"], counted["every"]
    return [
        Claim(
            f"{KNOWN_PURCHASES:,} purchases of products by known customers",
            f"{num_known:,}",
            num_known == KNOWN_PURCHASES,
        ),
        Claim(f"{PURCHASES:,} purchases of products with the unknown customers'", f"{num_all:,}", num_all == PURCHASES),
    ]


def cancellations(lake: Lake) -> Claim:
    """How many cancellations of known customers find the purchase that they undo, by customer, item and quantity."""
    found = row(
        lake,
        "SELECT count(*) AS every, count(purchase_id) AS matched, count(*) FILTER (quantity = purchase_quantity) AS whole, "
        "count(*) FILTER (purchase_id IS NOT NULL AND num_candidates = 1) AS only_one FROM silver.matched_returns",
    )
    return Claim(
        f"{LEAST_MATCHED:.0%} of the known customers' cancellations are matched to a purchase that they undo",
        f"{found['matched']:,} of {found['every']:,} ({found['matched'] / found['every']:.1%}); {found['whole']:,} undo a whole "
        f"line, {found['only_one']:,} have no other purchase that they might undo. The rest has none before it in the log with so "
        "many pieces left",
        found["matched"] >= LEAST_MATCHED * found["every"],
    )


def rankings(own: dict[tuple[str, str], Judged], reference: dict[tuple[str, str], Judged]) -> list[Claim]:
    """Each ranker against the yardstick's, and ALS against its floors."""
    claims = []
    for question, customers in CUSTOMERS.items():
        for ranker, strategy in SAME.items():
            given, found = reference[ranker, question], own[strategy, question]
            claims.append(
                Claim(
                    f"NDCG@10 of {strategy} over {question} items within {TOLERANCE} of the yardstick's {ranker}, same customers",
                    f"{found.ndcg:.4f}, yardstick {given.ndcg:.4f}; {found.num_users:,} and {given.num_users:,} customers",
                    abs(found.ndcg - given.ndcg) <= TOLERANCE and found.num_users == given.num_users == customers,
                )
            )
        found, given = own["als", question], reference["als", question]
        claims.append(
            Claim(
                f"NDCG@10 of als over {question} items at least {LEAST_ALS[question]}, same customers",
                f"{found.ndcg:.4f}, the yardstick's ALS {given.ndcg:.4f}; {found.num_users:,} customers",
                found.ndcg >= LEAST_ALS[question] and found.num_users == customers,
            )
        )
    return claims


def ranked(lake: Lake, reference: dict[str, float]) -> list[Claim]:
    """`ranked` against its floors, beside the yardstick's ranker in the same run, and paired with buying again and EASE."""
    told = rows(
        lake,
        "SELECT question, metric, value, low, high FROM gold.ranking_metrics WHERE split = 'test' AND segment = 'all' "
        "AND k = 10 AND strategy = 'ranked'",
    )
    found = {(one["question"], one["metric"]): one for one in told}
    claims = []
    for question, least in LEAST_RANKED.items():
        value = found[question, "ndcg"]
        differences = {name: found[question, f"ndcg_minus_{name}"] for name in ("rebuy_then_popularity", "ease")}
        claims.append(
            Claim(
                f"NDCG@10 of ranked over {question} items at least {least:.3f}, and the paired intervals to {' and '.join(differences)} "
                "exclude zero",
                f"{value['value']:.4f} ({value['low']:.4f} to {value['high']:.4f}), the yardstick's ranker {reference[question]:.4f}; "
                + ", ".join(
                    f"minus {name} {one['value']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
                    for name, one in differences.items()
                ),
                value["value"] >= least and all(one["low"] > 0 for one in differences.values()),
            )
        )
    return claims


def yardsticks_ranker() -> dict[str, float]:
    """NDCG@10 of the yardstick's one ranker for both questions."""
    program = SHARED / "yardsticks" / "online_retail_ranker.py"
    told = run_command([sys.executable, str(program), str(DATA / "online_retail")], cwd=program.parent)
    return {
        found[1]: float(found[2])
        for found in re.finditer(r"^one ranker ndcg@10 (all|new) ([\d.]+)", told, re.MULTILINE)
    }


def ours(lake: Lake) -> dict[tuple[str, str], Judged]:
    """NDCG@10 of every strategy and question on the test window."""
    told = rows(
        lake,
        "SELECT strategy, question, value, num_users FROM gold.ranking_metrics "
        "WHERE split = 'test' AND segment = 'all' AND metric = 'ndcg' AND k = 10",
    )
    return {(found["strategy"], found["question"]): Judged(found["value"], found["num_users"]) for found in told}


def yardstick() -> dict[tuple[str, str], Judged]:
    """The same of the yardstick."""
    program = SHARED / "yardsticks" / "online_retail.py"
    told = run_command([sys.executable, str(program), str(DATA / "online_retail")], cwd=program.parent)
    return {(m["ranker"], m["question"]): Judged(float(m["ndcg"]), int(m["users"])) for m in LINE.finditer(told)}
