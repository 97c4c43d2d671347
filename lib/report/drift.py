"""The section about drift: how far what is answered, asked and earned has moved since the release that serves."""

from lib.report.charts import Interval, interval_chart
from lib.report.facts import LakeFacts, Row
from lib.report.parts import (
    Grid,
    Section,
    count,
    decimal,
    enumerate_words,
    interval,
    moment,
    plural,
    probability,
    signed,
    words,
)

MOST_SHOWN = 12  # measures in the chart and the table, those that have drifted first


def drift(facts: LakeFacts) -> Section:
    """What has moved most, and what comes of impressions; of lakes with a table of it."""
    rows = facts.rows("SELECT * FROM gold.drift ORDER BY is_drifted DESC, psi - psi_by_chance DESC NULLS LAST, name")
    measures = [row for row in rows if row["kind"] != "reward"]
    rewards = [row for row in rows if row["kind"] == "reward"]
    charts, tables = [], []
    if measures:
        shown = measures[:MOST_SHOWN]
        series = (("then to now", "psi"), ("by chance", "psi_by_chance"))
        points = [Interval(_name(row), row[column] or 0.0, series=name) for row in shown for name, column in series]
        charts.append(interval_chart("Population stability index", points))
        tables.append(_of_measures(shown, len(measures)))
    policies = [row for row in rewards if row["effect"] is not None and row["reference"]]
    if policies:
        charts.append(
            interval_chart(
                "Rewards of impressions since, in % of before",
                [Interval(words(row["name"]), *_share(row)) for row in policies],
                reference=0.0,
                digits=1,
                unit=" %",
            )
        )
    if rewards:
        tables.append(_of_rewards(rewards))
    return Section("drift", "Drift since the release", "\n".join(_lines(rows)), charts, tables)


def _lines(rows: list[Row]) -> list[str]:
    first, drifted = rows[0], [row for row in rows if row["is_drifted"]]
    said = (
        f"Release {first['release']}, as of {moment(first['released_as_of'])}, against {moment(first['as_of'])}: "
        + (f"{count(len(drifted))} of " if drifted else "none of ")
        + f"{plural(len(rows), 'measure')} {'have' if len(drifted) != 1 else 'has'} drifted"
    )
    names = enumerate_words([words(row["name"]) for row in drifted])
    return [
        f"{said}: {names}." if drifted else f"{said}.",
        "A measure has drifted where it moved further than chance, told by whole users, and far enough to matter.",
    ]


def _of_measures(rows: list[Row], num_all: int) -> Grid:
    return Grid(
        f"{'The measures' if len(rows) == num_all else f'{count(len(rows))} of {count(num_all)} measures'} that moved most",
        (
            "measure",
            "verdict",
            "then",
            "now",
            "unknown then",
            "now",
            "distance",
            "PSI",
            "p corrected",
            "users then",
            "now",
        ),
        [
            (
                words(row["name"]),
                _verdict(row),
                decimal(row["reference"]),
                decimal(row["now"]),
                decimal(row["missing_reference_frac"], 2),
                decimal(row["missing_now_frac"], 2),
                decimal(row["statistic"]),
                decimal(row["psi"]),
                probability(row["p_adjusted"]),
                count(row["num_reference"]),
                count(row["num_now"]),
            )
            for row in rows
        ],
        num_text_columns=2,
    )


def _of_rewards(rows: list[Row]) -> Grid:
    return Grid(
        "Rewards of impressions: of all policies by ADWIN, of each by its users",
        ("reward", "verdict", "before", "since", "effect", "95 %", "p corrected"),
        [
            (
                words(row["name"]),
                _verdict(row),
                decimal(row["reference"], 4),
                decimal(row["now"], 4),
                signed(row["effect"], 4),
                interval(row["low"], row["high"], 4, with_sign=True),
                probability(row["p_adjusted"]),
            )
            for row in rows
        ],
        num_text_columns=2,
    )


def _share(row: Row) -> tuple[float, float | None, float | None]:
    """The effect and its interval in % of the rate before."""
    value, low, high = (
        None if row[column] is None else 100 * row[column] / row["reference"] for column in ("effect", "low", "high")
    )
    return value or 0.0, low, high


def _verdict(row: Row) -> str:
    """The reason without its numbers, which stand beside it."""
    reason: str = row["reason"].partition(": ")[0]
    return f"drifted: {reason}" if row["is_drifted"] else reason


def _name(row: Row) -> str:
    return words(row["name"]) + (", drifted" if row["is_drifted"] else "")
