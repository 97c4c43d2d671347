"""The sections about results: strategies, models, policies and experiments, each estimate with its interval."""

from collections.abc import Mapping, Sequence

from lib.report.charts import Chart, Interval, interval_chart, reliability_chart
from lib.report.facts import HEADLINE_K, HEADLINE_METRIC, LakeFacts, Row
from lib.report.parts import (
    Grid,
    Section,
    count,
    decimal,
    digits_of,
    enumerate_words,
    estimator_words,
    interval,
    metric_words,
    probability,
    sentence,
    signed,
    with_interval,
    words,
)  # fmt: skip
from lib.runs import model_registry
from lib.tables.gold import QUESTIONS, SPLITS, YOUNG_DAYS

OTHER_METRICS = {
    "precision": "precision",
    "recall": "recall",
    "map": "MAP",
    "mrr": "MRR",
    "hit_rate": "hit rate",
}  # besides the headline
# What lists show, right or wrong (lib/ranking/shown.py).
SHOWN = {
    "coverage": "coverage",
    "novelty": "novelty, bits",
    "head_exposure": "head’s share",
    "diversity": "diversity",
    "miscalibration": "off the history, bits",
}
# Over all that users wanted, as it is and corrected for the positions at which they found it (lib/ranking/position_bias.py).
OF_WANTED = {
    "item_recall": "in lists",
    "item_recall_unbiased": "corrected [95 %]",
    "item_dcg": "by rank",
    "item_dcg_unbiased": "by rank, corrected [95 %]",
}
BIN = "_bin_"  # in the metrics of reliability, before the bin's number
SEGMENT_TITLES = {
    "unseen": "unseen users",
    "light": "light users",
    "heavy": "heavy users",
    "new_items": "new items",
}
QUESTION_TITLES = {"all": "all items", "new": "items new to the user"}


def ranking(facts: LakeFacts) -> Section:
    """Strategies against popularity, for both questions."""
    title = "Recommendation strategies against popularity"
    if not any(row.question in QUESTIONS for row in facts.rankings):
        return Section("ranking", title, missing=facts.why_missing("featurize", "recommend", "evaluate"))
    charts, tables, says = [], [], []
    for question in QUESTIONS:
        rows = [row for row in facts.rankings if row.question == question]
        compared = [row for row in rows if row.difference is not None and row.strategy != "popularity"]
        if not rows:
            continue
        best = rows[0]
        says.append(
            f"Over {QUESTION_TITLES[question]}, {best.strategy} ranks best (NDCG@{HEADLINE_K} {decimal(best.value)})."
        )
        if compared:
            charts.append(
                interval_chart(
                    f"NDCG@{HEADLINE_K} minus popularity’s, {QUESTION_TITLES[question]}",
                    [Interval(r.strategy, r.difference or 0.0, r.difference_low, r.difference_high) for r in compared],
                    reference=0.0,
                )
            )
        tables += _ranking_tables(facts, question)
    tables += _examination(facts)
    text = " ".join(says) + (
        " Dots right of the line beat popularity; an interval that crosses it is inconclusive."
        " Users without a list score 0 and are counted. Novel is what few knew; the head is the tenth of the items that most users"
        " knew. Light users had known fewer than 10 items; of new items those alone are sought that came in the last"
        f" {YOUNG_DAYS} days, or were not known yet."
    )
    return Section("ranking", title, text, charts, tables)


def _ranking_tables(facts: LakeFacts, question: str) -> list[Grid]:
    """What each strategy finds, and what its lists show."""
    rows = [row for row in facts.rankings if row.question == question]
    others = facts.rows(
        """
        SELECT strategy, metric, value FROM gold.ranking_metrics
        WHERE split = 'test' AND segment = 'all' AND k = $k AND question = $question
          AND list_contains($metrics, metric)
        QUALIFY as_of = max(as_of) OVER ()
        """,
        {"k": HEADLINE_K, "question": question, "metrics": [*OTHER_METRICS, *SHOWN]},
    )
    value = {(row["strategy"], row["metric"]): row["value"] for row in others}
    found = Grid(
        f"At {HEADLINE_K}, {QUESTION_TITLES[question]}, test window: {count(rows[0].num_users)} users",
        ("strategy", "NDCG [95 %]", "minus popularity [95 %]", *OTHER_METRICS.values(), "no list"),
        [
            (
                row.strategy,
                f"{decimal(row.value)} {interval(row.low, row.high)}",
                f"{signed(row.difference)} {interval(row.difference_low, row.difference_high, with_sign=True)}",
                *(decimal(value.get((row.strategy, metric))) for metric in OTHER_METRICS),
                count(row.num_without_list),
            )
            for row in rows
        ],
    )
    shown = Grid(
        f"What the lists show, {QUESTION_TITLES[question]}",
        ("strategy", *SHOWN.values()),
        [(row.strategy, *(decimal(value.get((row.strategy, metric))) for metric in SHOWN)) for row in rows],
    )
    strategies = [row.strategy for row in rows]
    return [found, shown, *_of_segments(facts, question, strategies), *_unbiased(facts, question, strategies)]


def _unbiased(facts: LakeFacts, question: str, strategies: Sequence[str]) -> list[Grid]:
    """What lists hold of all that users wanted, as it is and corrected for positions; nothing where none are known."""
    found = facts.rows(
        """
        SELECT strategy, metric, value, low, high FROM gold.ranking_metrics
        WHERE split = 'test' AND k = $k AND question = $question AND segment = 'all'
          AND list_contains($metrics, metric)
        QUALIFY as_of = max(as_of) OVER ()
        """,
        {"k": HEADLINE_K, "question": question, "metrics": [*OF_WANTED]},
    )
    by_key = {(row["strategy"], row["metric"]): row for row in found}
    if not by_key:
        return []
    return [
        Grid(
            f"Share of all that was wanted, whole and by 1 / log2(rank + 1), corrected for positions, {QUESTION_TITLES[question]}",
            ("strategy", *OF_WANTED.values()),
            [(name, *(with_interval(by_key.get((name, metric))) for metric in OF_WANTED)) for name in strategies],
        )
    ]


def _examination(facts: LakeFacts) -> list[Grid]:
    """How often each position is looked at; nothing where the log does not tell."""
    rows = facts.rows(
        """
        SELECT k, value, low, high, num_users FROM gold.ranking_metrics WHERE split = 'test' AND metric = 'examination'
        QUALIFY as_of = max(as_of) OVER () ORDER BY k
        """
    )
    if not rows:
        return []
    return [
        Grid(
            "How often what is shown at a position is looked at, by its clicks, the first being 1",
            ("position", "looked at [95 %]", "impressions"),
            [(count(row["k"]), with_interval(row), count(row["num_users"])) for row in rows],
        )
    ]


def _of_segments(facts: LakeFacts, question: str, strategies: Sequence[str]) -> list[Grid]:
    """The headline metric of each strategy for parts of the users, and for new items alone; nothing where no part has a user."""
    found = facts.rows(
        """
        SELECT strategy, segment, value, low, high, num_users FROM gold.ranking_metrics
        WHERE split = 'test' AND k = $k AND question = $question AND metric = $metric
          AND list_contains($segments, segment)
        QUALIFY as_of = max(as_of) OVER ()
        """,
        {"k": HEADLINE_K, "question": question, "metric": HEADLINE_METRIC, "segments": [*SEGMENT_TITLES]},
    )
    num_users = {row["segment"]: row["num_users"] for row in found}
    segments = [segment for segment in SEGMENT_TITLES if num_users.get(segment)]
    by_key = {(row["strategy"], row["segment"]): row for row in found}
    if not segments:
        return []
    return [
        Grid(
            f"NDCG@{HEADLINE_K} [95 %] by segment, {QUESTION_TITLES[question]}",
            ("strategy", *(f"{SEGMENT_TITLES[segment]}: {count(num_users[segment])}" for segment in segments)),
            [
                (strategy, *(with_interval(by_key.get((strategy, segment))) for segment in segments))
                for strategy in strategies
            ],
        )
    ]


def models(facts: LakeFacts) -> Section:
    """Metrics of the purchase model beside its baseline."""
    title = "Purchase model"
    rows = []
    if facts.has("gold/model_metrics"):
        rows = facts.rows(
            "SELECT * FROM gold.model_metrics WHERE model NOT IN ('gan', 'ranker') ORDER BY metric, model"
        )
        current = model_registry.current_model(facts.lake, "encoder")
        if current is not None:  # a candidate's rows stand beside it
            rows = [row for row in rows if row["version"] == current["version"]]
    if not rows:
        return Section("models", title, missing="\n".join([_why_no_purchase_model(facts), *facts.candidates]))
    splits = [split for split in SPLITS if any(row["split"] == split for row in rows)]
    by_key = {(row["metric"], row["model"], row["split"]): row for row in rows}
    shown = [
        row
        for row in rows
        if row["split"] == "test" and row["metric"] in ("auc", "pr_auc") and row["value"] is not None
    ]
    charts = []
    if shown:
        charts.append(
            interval_chart(
                "Area under the curve, test split",
                [
                    Interval(metric_words(r["metric"]), r["value"], r["low"], r["high"], words(r["model"]))
                    for r in shown
                ],
            )
        )
    table = Grid(
        "Value and 95 % interval by split",
        ("metric", "model", *splits),
        [
            (
                metric_words(metric),
                words(model),
                *(with_interval(by_key.get((metric, model, split))) for split in splits),
            )
            for metric, model in dict.fromkeys((row["metric"], row["model"]) for row in rows)
            if BIN not in metric
        ],
        num_text_columns=2,
    )
    charts += _reliability(rows)
    examples = enumerate_words([f"{count(max(r['n'] for r in rows if r['split'] == s))} {s}" for s in splits])
    text = (
        f"Will this user buy in the window after? Tested on {examples} examples from later times than the training’s."
    )
    served = _serving(facts, {(row["split"], row["metric"], row["model"]): row for row in rows})
    return Section("models", title, "\n".join([text, *served, *facts.candidates]), charts, [table])


def _reliability(rows: list[Row]) -> list[Chart]:
    """Of each model on test, the mean probability of tenths of the examples and the share of them that bought."""
    of_test = {(row["model"], *row["metric"].split(BIN)): row["value"] for row in rows if row["split"] == "test"}
    points = {
        words(model): [
            (value, of_test[model, "observed", *number])
            for (of_model, what, *number), value in sorted(of_test.items())
            if (of_model, what) == (model, "predicted")
        ]
        for model in dict.fromkeys(model for model, what, *_ in of_test if what == "predicted")
    }
    return (
        [reliability_chart("Share that bought by probability said, tenths of the test split", points)] if points else []
    )


def _serving(facts: LakeFacts, by_key: Mapping[tuple[str, str, str], Row]) -> list[str]:
    """Which model gold/propensity_to_buy is of, how well calibrated it is, and whether the network is worse."""
    if not facts.has("gold/propensity_to_buy"):
        return []
    told = facts.rows("SELECT any_value(model) AS model, any_value(version) AS version FROM gold.propensity_to_buy")
    model = told[0]["model"]
    if model is None:
        return []
    says = [
        f"{sentence(words(model))[:-1]} gives gold/propensity_to_buy, with the lowest log loss on valid of those that may."
    ]
    before, after = (by_key.get(("test", metric, model)) for metric in ("ece", "ece_calibrated"))
    # Rows of another version say nothing of it.
    if before is None or before["version"] != told[0]["version"]:
        return says
    if after is not None:
        says.append(
            f"Its calibration error on test is {decimal(before['value'])}, and {decimal(after['value'])} once corrected by valid."
        )
    difference = by_key.get(("test", f"log_loss_minus_{model}", "encoder"))
    if difference is not None and difference["low"] is not None:
        is_worse = difference["low"] > 0
        says.append(
            f"The network’s log loss on test minus its own is {signed(difference['value'])} "
            f"{interval(difference['low'], difference['high'], with_sign=True)}: "
            + ("the network is worse." if is_worse else "the network is not worse beyond its interval.")
        )
    return [" ".join(says)]


def _why_no_purchase_model(facts: LakeFacts) -> str:
    labels = []
    if facts.has("gold/examples"):
        labels = facts.rows(
            "SELECT label, count(*) AS n FROM gold.examples WHERE split = 'train' AND label IS NOT NULL GROUP BY label"
        )
    if len(labels) == 1:
        return f"All {count(labels[0]['n'])} labels of the train split are {labels[0]['label']}: nothing to learn."
    return facts.why_missing("featurize", "train_encoder")


def policy(facts: LakeFacts) -> Section:
    """Off-policy values, the verdict, and the incumbent that it compares with."""
    title = "Decision policy"
    if not facts.has("gold/policy_values"):
        return Section("policy", title, missing=facts.why_missing("decisions", "train_policy"))
    rows = facts.rows("SELECT * FROM gold.policy_values ORDER BY dataset, policy, estimator")
    judged_on = next((row["dataset"] for row in facts.policy_verdicts), "test")
    shown = [
        row for row in rows if row["dataset"].split("/")[0] == judged_on and row["verdict"] != "diagnostic"
    ]  # a diagnostic has no interval to show

    def label(row: Row) -> str:
        _, _, alone = row["dataset"].partition("/")
        return f"{row['policy']}: {alone}" if alone else row["policy"]

    digits = digits_of(*(row["value"] for row in rows))
    charts = []
    if shown:
        charts.append(
            interval_chart(
                f"Mean discounted return of an episode, {judged_on} decisions",
                [Interval(label(r), r["value"], r["low"], r["high"], estimator_words(r["estimator"])) for r in shown],
                digits=digits,
            )
        )
    table = Grid(
        "Every estimate",
        ("policy", "decisions", "estimator", "verdict", "value", "95 %", "ESS", "episodes", "rewarded"),
        [
            (
                row["policy"],
                row["dataset"],
                estimator_words(row["estimator"]),
                words(row["verdict"]),
                decimal(row["value"], digits),
                interval(row["low"], row["high"], digits),
                count(row["effective_sample_size"]),
                count(row["num_episodes"]),
                count(row["num_rewarded"]),
            )
            for row in rows
        ],
        num_text_columns=4,
    )
    said = policy_lines(facts) or ["No learned policy was judged."]
    if any(row["verdict"] == "diagnostic" for row in rows):
        said.append(
            "Importance sampling is a diagnostic and has no interval: for a learned policy its bootstrap misses the true "
            "value too often."
        )
    return Section("policy", title, "\n".join(said), charts, [table])


def policy_lines(facts: LakeFacts) -> list[str]:
    """One line per learned policy that was judged: the verdict, the incumbent and the numbers."""
    return [
        f"{row['policy']}: {words(row['verdict'])}"
        + (f" (incumbent: {row['incumbent']})" if row.get("incumbent") else "")
        + f". {sentence(row['reason'])}"
        for row in facts.policy_verdicts
    ]


def experiment(facts: LakeFacts) -> Section:
    """Arms of the log's experiments, compared."""
    title = "Experiment"
    rows = facts.experiments
    if not rows:
        return Section("experiment", title, missing=facts.why_missing("experiment"))
    relative = [row for row in rows if row["effect"] is not None and row["control_value"]]
    experiments = {row["experiment"] for row in rows}
    pairs = {(row["experiment"], row["arm"], row["control"]) for row in rows}

    def label(row: Row) -> str:
        pair = f"{row['arm']} against {row['control']}" if len(pairs) > 1 else ""
        name = row["experiment"] if len(experiments) > 1 else ""
        return ", ".join(part for part in (metric_words(row["metric"]), pair, name) if part)

    def share(row: Row, column: str) -> float | None:
        return None if row[column] is None else float(100 * row[column] / abs(row["control_value"]))

    charts = []
    if relative:
        charts.append(
            interval_chart(
                "Effect, in % of the control’s value",
                [Interval(label(r), share(r, "effect") or 0.0, share(r, "low"), share(r, "high")) for r in relative],
                reference=0.0,
                digits=1,
                unit=" %",
            )
        )
    names = ("experiment",) if len(experiments) > 1 else ()
    table = Grid(
        "Arm against control; the verdict goes by the corrected p",
        (
            *(*names, "metric", "arm", "control", "verdict", "in the arm", "in the control"),
            *("effect", "95 %", "p", "p corrected"),
        ),
        [
            (
                *(row[name] for name in names),
                metric_words(row["metric"]) + (" (decides)" if row["is_primary"] else ""),
                row["arm"],
                row["control"],
                words(row["verdict"]),
                decimal(row["arm_value"], digits_of(row["arm_value"], row["control_value"])),
                decimal(row["control_value"], digits_of(row["arm_value"], row["control_value"])),
                signed(row["effect"], max(4, digits_of(row["effect"]))),
                interval(row["low"], row["high"], max(4, digits_of(row["effect"])), with_sign=True),
                probability(row["p"]),
                probability(row["p_adjusted"]),
            )
            for row in rows
        ],
        num_text_columns=4 + len(names),
    )
    return Section("experiment", title, "\n".join(experiment_lines(facts)), charts, [table])


def experiment_lines(facts: LakeFacts) -> list[str]:
    """For each pair of arms the verdict of each metric and whether the units were split as planned; then what to know."""
    pairs: dict[tuple[str, str, str], list[Row]] = {}
    for row in facts.experiments:
        pairs.setdefault((row["experiment"], row["arm"], row["control"]), []).append(row)
    are_several = len({name for name, _, _ in pairs}) > 1
    lines = []
    for (name, arm, control), rows in pairs.items():
        verdicts = dict.fromkeys(row["verdict"] for row in rows)
        said = "; ".join(
            f"{verdict} on " + enumerate_words([_metric_in_line(r) for r in rows if r["verdict"] == verdict])
            for verdict in verdicts
        )
        sizes = f"{count(rows[0]['num_arm'])} against {count(rows[0]['num_control'])} {facts.experiment_unit}s"
        lines.append(
            (f"{name}: " if are_several else "")
            + f"{arm} against {control}: {said}. {sizes}, sample ratio p {probability(rows[0]['sample_ratio_p'])}."
        )
    notes = {row["experiment"]: row["notes"] for row in facts.experiments if row["notes"]}
    return [*lines, *(f"{name}: {told}." for name, told in notes.items())]


def _metric_in_line(row: Row) -> str:
    return metric_words(row["metric"]) + (" (decides)" if row["is_primary"] else "")
