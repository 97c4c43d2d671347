"""On Online Retail: every record accounted for, and rankings beside an independent yardstick on the same customers.

The yardstick shares no code with Cartwheel and is run here, in the same check, on the same files.
"""

import re
import sys
from dataclasses import dataclass
from typing import Any

from acceptance import lakes
from acceptance.claims import DATA, SHARED, Claim, run_command
from lib.lake import Lake
from lib.sql import query

RECORDS, DUPLICATES, KNOWN_PURCHASES, PURCHASES = 541_909, 5_268, 391_150, 522_504
CUSTOMERS = {"all": 1_666, "new": 1_565}
LEAST_ALS = {"all": 0.19, "new": 0.065}
TOLERANCE = 0.002
# The yardstick's name of a ranker -> ours that does the same.
SAME = {"popularity": "popularity", "rebuy": "rebuy_then_popularity", "cosine": "item_to_item"}
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
    lake = Lake(str(lakes.real_log("online_retail")))
    return [*counts(lake), *rankings(ours(lake), yardstick())]


def counts(lake: Lake) -> list[Claim]:
    """What became of the records."""
    (num_records,) = one(lake, "SELECT count(*) FROM bronze.lines")
    reasons = dict(all_rows(lake, "SELECT reason, count(*) FROM bronze.rejects GROUP BY reason ORDER BY reason"))
    (num_events,) = one(lake, "SELECT count(*) FROM silver.events")
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
    ]


def duplicates(lake: Lake, num_refused: int) -> Claim:
    """All repetitions of a record: those refused as such, and those whose bad value is the outcome that comes first."""
    fields = "InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country"
    (num_repeats,) = one(
        lake, f"SELECT sum(n - 1) FROM (SELECT count(*) AS n FROM bronze.lines GROUP BY {fields}) WHERE n > 1"
    )
    bad = "SELECT sum(n - 1) FROM (SELECT count(*) AS n FROM bronze.rejects WHERE reason LIKE 'bad_value:%' GROUP BY raw) WHERE n > 1"
    (num_bad,) = one(lake, bad)
    num_bad = int(num_bad or 0)
    return Claim(
        f"{DUPLICATES:,} duplicates",
        f"{num_refused:,} refused as duplicates, {num_bad} repeat a record with a bad value, which is the outcome that comes "
        f"first: {num_refused + num_bad:,}; records that repeat one before, counted in bronze: {int(num_repeats):,}",
        num_refused + num_bad == int(num_repeats) == DUPLICATES,
    )


def purchases(lake: Lake) -> list[Claim]:
    """Purchases of products, by known customers and by all."""
    (num_known, num_all) = one(
        lake, "SELECT count(*) FILTER (user_key IS NOT NULL), count(*) FROM silver.events WHERE event_type = 'purchase'"
    )
    return [
        Claim(
            f"{KNOWN_PURCHASES:,} purchases of products by known customers",
            f"{num_known:,}",
            num_known == KNOWN_PURCHASES,
        ),
        Claim(f"{PURCHASES:,} purchases of products with the unknown customers'", f"{num_all:,}", num_all == PURCHASES),
    ]


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


def ours(lake: Lake) -> dict[tuple[str, str], Judged]:
    """NDCG@10 of every strategy and question on the test window."""
    told = all_rows(
        lake,
        "SELECT strategy, question, value, num_users FROM gold.ranking_metrics "
        "WHERE split = 'test' AND segment = 'all' AND metric = 'ndcg' AND k = 10",
    )
    return {(strategy, question): Judged(value, num_users) for strategy, question, value, num_users in told}


def yardstick() -> dict[tuple[str, str], Judged]:
    """The same of the yardstick."""
    program = SHARED / "yardsticks" / "online_retail.py"
    told = run_command([sys.executable, str(program), str(DATA / "online_retail")], cwd=program.parent)
    return {(m["ranker"], m["question"]): Judged(float(m["ndcg"]), int(m["users"])) for m in LINE.finditer(told)}


def all_rows(lake: Lake, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    return query(lake, sql, limit=None)[1]


def one(lake: Lake, sql: str) -> tuple[Any, ...]:
    """The one row of a query."""
    (row,) = all_rows(lake, sql)
    return row
