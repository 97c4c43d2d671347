"""The section about visits: what comes next, given the events so far."""

from collections.abc import Iterable, Mapping

from lib.report.charts import Interval, interval_chart
from lib.report.facts import LakeFacts, Row
from lib.report.parts import Grid, Section, count, decimal, interval, percent, signed
from lib.tables.gold import NEXT

BEST = "best"


def next_item(facts: LakeFacts) -> Section:
    """How often what came next in a visit is among the first items of each strategy, and how high."""
    title = "What comes next in a visit"
    rows = next_rows(facts)
    if not rows:
        return Section("next", title, missing=facts.why_missing("featurize", "sessions", "evaluate"))
    by_key = {(row["strategy"], row["segment"], row["metric"]): row for row in rows}
    strategies = _strategies(rows)
    k = by_key[strategies[0], "all", "hit_rate"]["k"]
    compared = [by_key[name, "all", "mrr_minus_popularity"] for name in strategies if name != "popularity"]
    chart = interval_chart(
        f"MRR@{k} minus popularity’s",
        [Interval(row["strategy"], row["value"] or 0.0, row["low"], row["high"]) for row in compared],
        reference=0.0,
    )
    all_events = by_key[strategies[0], "all", "mrr"]["num_users"]
    others = by_key[strategies[0], "other_item", "mrr"]["num_users"]

    def figure(name: str, segment: str, metric: str) -> str:
        row = by_key[name, segment, metric]
        return f"{decimal(row['value'])} {interval(row['low'], row['high'])}".strip()

    def shares(name: str) -> tuple[str, ...]:
        return tuple(
            decimal(by_key[name, segment, metric]["value"])
            for segment in ("other_item", "returning", "unseen")
            for metric in ("hit_rate", "mrr")
        )

    ndcg_k = by_key[strategies[0], "all", "ndcg"]["k"]
    table = Grid(
        f"Test window: {count(all_events)} events after the first of their visit. Other item: the {count(others)} of them "
        f"({percent(others, all_events)}) whose item is not in the visit so far",
        (
            *("strategy", f"HR@{k} [95 %]", f"MRR@{k} [95 %]", f"NDCG@{ndcg_k}"),
            *("other item: HR", "MRR", "returning users: HR", "MRR", "unseen: HR", "MRR", "no list"),
        ),
        [
            (
                name,
                figure(name, "all", "hit_rate"),
                figure(name, "all", "mrr"),
                decimal(by_key[name, "all", "ndcg"]["value"]),
                *shares(name),
                count(by_key[name, "all", "mrr"]["num_without_list"]),
            )
            for name in strategies
        ],
    )
    return Section("next", title, _text(rows, by_key, k), [chart], [table])


def next_line(facts: LakeFacts) -> str:
    """What answers best, and popularity, in a line; empty where nothing was asked."""
    rows = {(row["strategy"], row["metric"]): row for row in next_rows(facts) if row["segment"] == "all"}
    if not rows:
        return ""

    def figures(name: str) -> str:
        return " and ".join(
            f"{decimal(row['value'])} {interval(row['low'], row['high'])}"
            for row in (rows[name, "hit_rate"], rows[name, "mrr"])
        )

    return f"{chosen_of(rows.values()) or BEST} {figures(BEST)}\npopularity {figures('popularity')}"


def next_rows(facts: LakeFacts) -> list[Row]:
    """The rows about the test window."""
    if not facts.has("gold/ranking_metrics"):
        return []
    return facts.rows(
        "SELECT * FROM gold.ranking_metrics WHERE split = 'test' AND question = $question QUALIFY as_of = max(as_of) OVER ()",
        {"question": NEXT},
    )


def chosen_of(rows: Iterable[Row]) -> str | None:
    """The strategy that answers, chosen on the validation window; None where nothing was there to choose by."""
    choices = [row for row in rows if row["metric"] == "choice" and row["strategy"] != BEST]
    return max(choices, key=lambda row: row["value"])["strategy"] if choices else None


def _strategies(rows: list[Row]) -> list[str]:
    """All of them, the best of MRR first."""
    mrr = {row["strategy"]: row["value"] or 0.0 for row in rows if row["segment"] == "all" and row["metric"] == "mrr"}
    return sorted(mrr, key=lambda name: (-mrr[name], name))


def _text(rows: list[Row], by_key: Mapping[tuple[str, str, str], Row], k: int) -> str:
    best, popular = (by_key[name, "all", "hit_rate"]["value"] for name in (BEST, "popularity"))
    difference = by_key[BEST, "all", "hit_rate_minus_popularity"]["value"]
    chosen = chosen_of(rows)
    how = (
        f"best is {chosen}, chosen on the validation window" if chosen else "best is the blend: no visits to choose by"
    )
    return (
        f"Given the events so far, what came next is among {k} items in {percent(best, 1)} of all cases where popular items "
        f"hold it in {percent(popular, 1)} ({signed(difference)}); {how}. An item that was in the visit before counts as an "
        "answer; the figures without such cases stand under other item. Intervals are over visits."
    )
