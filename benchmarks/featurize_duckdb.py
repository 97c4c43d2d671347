"""The tables of featurize by DuckDB alone: `python benchmarks/featurize_duckdb.py FILES.json OUT`, one Parquet file a table.

FILES.json names the files of silver/events and silver/items and the job's settings and dates. For a log in one currency
whose clock tells the hour. Prints the seconds of each step.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb

ACTIONS = "event_type IN ('view', 'cart', 'favourite', 'purchase', 'rating')"
DAY = 86_400e6  # microseconds
FEATURES = {
    "log_tenure_days": "ln(1 + tenure_days)",
    "log_recency_days": "ln(1 + recency_days)",
    "log_days_since_click": "ln(1 + coalesce(days_since_action, tenure_days))",
    "has_clicked": "(num_actions > 0)::DOUBLE",
    "log_days_since_purchase": "ln(1 + coalesce(days_since_purchase, tenure_days))",
    "has_purchased": "(num_purchases > 0)::DOUBLE",
    "log_num_events": "ln(1 + num_events)",
    "log_num_sessions": "ln(1 + num_sessions)",
    "log_num_active_days": "ln(1 + num_active_days)",
    "log_num_views": "ln(1 + num_views)",
    "log_num_carts": "ln(1 + num_wanted)",
    "log_num_purchases": "ln(1 + num_purchases)",
    "log_num_returns": "ln(1 + num_returns)",
    "log_num_items": "ln(1 + num_items)",
    "log_num_categories": "ln(1 + coalesce(num_categories, 0))",
    "top_category_share": "coalesce(top_category_share, 0)",
    "log_num_open_carts": "ln(1 + coalesce(num_open_carts, 0))",
    "log_spend": "ln(1 + spend::DOUBLE)",
    "log_mean_price": "ln(1 + coalesce(mean_price, 0))",
    "carts_per_click": "coalesce(num_wanted / nullif(num_actions, 0), 0)",
    "purchases_per_click": "coalesce(num_purchases / nullif(num_actions, 0), 0)",
    "click_rate": "coalesce(click_rate, 0)",
    "has_impressions": "(num_impressions > 0)::DOUBLE",
    "log_events_per_session": "ln(1 + num_events / greatest(num_sessions, 1))",
    "log_days_per_visit": "ln(1 + tenure_days / num_active_days)",
    "log_num_clicks_week": "ln(1 + num_actions_week)",
    "log_num_clicks_month": "ln(1 + num_actions_month)",
    "trend": "ln(1 + num_actions_week) - ln(1 + (num_actions - num_actions_week) / greatest(tenure_days / 7 - 1, 1.0))",
    "weekend_share": "coalesce(weekend_share, 0)",
    "mean_click_hour_sin": "coalesce(mean_hour_sin, 0)",
    "mean_click_hour_cos": "coalesce(mean_hour_cos, 0)",
    "last_click_hour_sin": "coalesce(last_hour_sin, 0)",
    "last_click_hour_cos": "coalesce(last_hour_cos, 0)",
}
COUNTS = f"""
    SELECT user_key,
        min(event_time) AS first_event_at,
        max(event_time) AS last_event_at,
        (epoch_us(TIMESTAMPTZ '{{as_of}}') - epoch_us(max(event_time))) / {DAY} AS recency_days,
        (epoch_us(TIMESTAMPTZ '{{as_of}}') - epoch_us(min(event_time))) / {DAY} AS tenure_days,
        count(*) FILTER (event_type <> 'impression') AS num_events,
        count(DISTINCT session_id) AS num_sessions,
        count(DISTINCT event_time::DATE) AS num_active_days,
        count(*) FILTER (event_type = 'impression') AS num_impressions,
        count(*) FILTER (event_type = 'view') AS num_views,
        count(*) FILTER (event_type = 'cart') AS num_carts,
        count(*) FILTER (event_type = 'purchase') AS num_purchases,
        count(*) FILTER (event_type = 'return') AS num_returns,
        count(DISTINCT item_id) FILTER (event_type <> 'impression') AS num_items,
        coalesce(sum(price * coalesce(quantity, 1)) FILTER (event_type = 'purchase'), 0) AS spend,
        coalesce(
            sum(price) FILTER (event_type = 'purchase')::DOUBLE / count(price) FILTER (event_type = 'purchase'),
            sum(price) FILTER ({ACTIONS})::DOUBLE / count(price) FILTER ({ACTIONS})
        ) AS mean_price,
        num_carts / nullif(num_views, 0) AS cart_rate,
        num_purchases / nullif(num_views, 0) AS purchase_rate,
        CASE WHEN num_impressions > 0
            THEN least(count(DISTINCT (request_id, event_time::DATE)) FILTER (event_type = 'view' AND request_id IS NOT NULL)
                / num_impressions, 1.0) END AS click_rate
    FROM events WHERE user_key IS NOT NULL AND event_time < TIMESTAMPTZ '{{as_of}}'
    GROUP BY user_key
"""
HABITS = f"""
    SELECT user_key,
        count(*) AS num_actions,
        count(*) FILTER (event_type IN ('cart', 'favourite')) AS num_wanted,
        count(*) FILTER (event_time::DATE >= (TIMESTAMPTZ '{{as_of}}')::DATE - 7) AS num_actions_week,
        count(*) FILTER (event_time::DATE >= (TIMESTAMPTZ '{{as_of}}')::DATE - 28) AS num_actions_month,
        (epoch_us(TIMESTAMPTZ '{{as_of}}') - epoch_us(max(event_time))) / {DAY} AS days_since_action,
        (epoch_us(TIMESTAMPTZ '{{as_of}}') - epoch_us(max(event_time) FILTER (event_type = 'purchase'))) / {DAY}
            AS days_since_purchase,
        avg((isodow(event_time) >= 6)::INT) AS weekend_share,
        avg(sin(angle)) AS mean_hour_sin,
        avg(cos(angle)) AS mean_hour_cos,
        sin(arg_max(angle, event_time)) AS last_hour_sin,
        cos(arg_max(angle, event_time)) AS last_hour_cos
    FROM (SELECT *, (hour(event_time) + minute(event_time) / 60) * 2 * pi() / 24 AS angle FROM events)
    WHERE user_key IS NOT NULL AND event_time < TIMESTAMPTZ '{{as_of}}' AND {ACTIONS}
    GROUP BY user_key
"""
SPREAD = f"""
    SELECT user_key, count(*) AS num_categories, max(num) / sum(num) AS top_category_share
    FROM (
        SELECT user_key, category[1] AS coarse, count(*) AS num FROM events JOIN items USING (item_id)
        WHERE user_key IS NOT NULL AND event_time < TIMESTAMPTZ '{{as_of}}' AND {ACTIONS} AND category[1] IS NOT NULL
        GROUP BY ALL
    )
    GROUP BY user_key
"""
OPEN_CARTS = """
    SELECT user_key, count(*) FILTER (bought_at IS NULL OR bought_at < carted_at) AS num_open_carts
    FROM (
        SELECT user_key, item_id, max(event_time) FILTER (event_type = 'cart') AS carted_at,
            max(event_time) FILTER (event_type = 'purchase') AS bought_at
        FROM events WHERE user_key IS NOT NULL AND event_time < TIMESTAMPTZ '{as_of}' AND event_type IN ('cart', 'purchase')
        GROUP BY ALL
    )
    WHERE carted_at IS NOT NULL GROUP BY user_key
"""
HOURS = f"""
    SELECT user_key, list_transform(range(24), lambda h: (coalesce(by_hour[h], 0) / num)::FLOAT) AS active_hours,
        list_position(active_hours, list_max(active_hours)) - 1 AS favourite_hour
    FROM (
        SELECT user_key, histogram(hour(event_time)) AS by_hour, count(*) AS num
        FROM events WHERE user_key IS NOT NULL AND event_time < TIMESTAMPTZ '{{as_of}}' AND {ACTIONS}
        GROUP BY user_key
    )
"""
TAGS = f"""
    WITH weighed AS (
        SELECT user_key, item_id,
            {{weight}} * pow(0.5, (epoch_us(TIMESTAMPTZ '{{as_of}}') - epoch_us(event_time)) / {DAY} / {{half_life_days}}) AS weight
        FROM events WHERE user_key IS NOT NULL AND event_time < TIMESTAMPTZ '{{as_of}}' AND {{weight}} > 0
    ), by_item AS (
        SELECT user_key, item_id, sum(weight) AS weight FROM weighed GROUP BY ALL
    ), tags AS (
        SELECT item_id, unnest(list_transform(
            range(1, len(category) + 1), lambda n: 'category=' || array_to_string(category[:n], '/'))) AS tag FROM items
        UNION ALL SELECT item_id, 'brand=' || brand FROM items WHERE brand IS NOT NULL
    ), summed AS (
        SELECT user_key, tag, round(sum(weight), 12) AS weight FROM by_item JOIN tags USING (item_id) GROUP BY ALL
    ), ranked AS (
        SELECT *, row_number() OVER (PARTITION BY user_key ORDER BY weight DESC, tag) AS place FROM summed
    )
    SELECT user_key,
        list({{{{'tag': tag, 'weight': weight}}}} ORDER BY place) FILTER (place <= {{max_tags}}) AS heaviest,
        list_transform(heaviest, lambda t: {{{{
            'tag': t.tag, 'weight': t.weight / list_sum(list_transform(heaviest, lambda o: o.weight))}}}}) AS interest_tags,
        arg_min(substr(tag, 10), place) FILTER (tag LIKE 'category=%') AS favourite_category
    FROM ranked GROUP BY user_key
"""
ITEMS = f"""
    WITH pairs AS (
        SELECT item_id, user_key,
            count(*) FILTER (event_type = 'impression') AS num_impressions,
            count(*) FILTER (event_type <> 'impression') AS num_touches,
            count(*) FILTER (event_type = 'view') AS num_views,
            count(*) FILTER (event_type = 'view' AND request_id IS NOT NULL) AS num_clicks,
            count(*) FILTER (event_type = 'cart') AS num_carts,
            count(*) FILTER (event_type = 'purchase') AS num_purchases,
            count(*) FILTER (event_type = 'return') AS num_returns,
            min(event_time) AS first_seen_at,
            max({{{{'at': event_time, 'price': price}}}}) FILTER (price IS NOT NULL) AS last_priced
        FROM events WHERE event_time < TIMESTAMPTZ '{{as_of}}' GROUP BY ALL
    ), counts AS (
        SELECT item_id, sum(num_impressions) AS num_impressions, sum(num_touches) AS num_touches, sum(num_views) AS num_views,
            sum(num_clicks) AS num_clicks, sum(num_carts) AS num_carts, sum(num_purchases) AS num_purchases,
            sum(num_returns) AS num_returns,
            count(*) FILTER (user_key IS NOT NULL AND num_purchases > 0) AS num_buyers,
            count(*) FILTER (user_key IS NOT NULL AND num_touches > 0) AS num_users,
            min(first_seen_at) AS first_seen_at, max(last_priced).price AS last_price
        FROM pairs GROUP BY item_id
    ), shop AS (
        SELECT sum(least(num_clicks, num_impressions)) / nullif(sum(num_impressions), 0) AS shop_click_rate,
            sum(num_purchases) / nullif(sum(num_views), 0) AS shop_purchase_rate,
            (SELECT count(DISTINCT user_key) FROM pairs WHERE num_touches > 0) AS num_shop_users
        FROM counts
    ), priced AS (
        SELECT counts.*, category, coalesce(last_price, items.price) AS price FROM counts LEFT JOIN items USING (item_id)
    )
    SELECT item_id, num_impressions, num_views, num_carts, num_purchases, num_returns, num_buyers, num_users,
        (least(num_clicks, num_impressions) + {{prior_impressions}} * shop_click_rate)
            / (num_impressions + {{prior_impressions}}) AS click_rate,
        (num_purchases + {{prior_views}} * shop_purchase_rate) / (num_views + {{prior_views}}) AS purchase_rate,
        price,
        CASE WHEN price IS NOT NULL THEN percent_rank() OVER (PARTITION BY category, price IS NULL ORDER BY price) END
            AS price_position,
        first_seen_at,
        (epoch_us(TIMESTAMPTZ '{{as_of}}') - epoch_us(first_seen_at)) / {DAY} AS age_days,
        -log2((num_users + 1) / (num_shop_users + 1)) AS novelty,
        row_number() OVER (
            ORDER BY num_buyers DESC, num_users DESC, num_touches + num_impressions DESC, item_id) AS popularity_rank
    FROM priced, shop
"""


def main(files: Path, out: Path) -> None:
    """Write every table."""
    given = json.loads(files.read_text())
    out.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
        connection.execute(f"SET threads = {given['threads']}")

        def step(name: str, sql: str) -> None:
            began = time.perf_counter()
            connection.execute(sql)
            print(f"{name} {time.perf_counter() - began:.1f} s", flush=True)

        step("read", f"CREATE TABLE events AS SELECT * FROM read_parquet({given['events']}) WHERE NOT is_bot")
        step(
            "read items",
            f"CREATE TABLE items AS SELECT item_id, category, brand, price FROM read_parquet({given['items']})",
        )
        for name, sql in tables(given).items():
            step(name, f"COPY ({sql}) TO '{out}/{name}.parquet' (COMPRESSION zstd)")


def tables(given: Mapping[str, Any]) -> dict[str, str]:
    """The SQL of each table; that of scaling reads raw examples, which it makes first."""
    weight = (
        "CASE event_type "
        + " ".join(f"WHEN '{kind}' THEN {unit}" for kind, unit in given["weights"].items())
        + " ELSE 0 END"
    )
    of = {name: given[name] for name in ("as_of", "half_life_days", "max_tags", "prior_views", "prior_impressions")}
    counted = ", ".join(f"count(*) FILTER (event_type = '{kind}') AS num_{kind}" for kind in given["weights"])
    weighed = " + ".join(["0.0", *(f"{unit} * num_{kind}" for kind, unit in given["weights"].items())])
    interactions = f"""
        SELECT user_key, item_id, event_time, CASE WHEN event_time < TIMESTAMPTZ '{given["valid_from"]}' THEN 'train'
            WHEN event_time < TIMESTAMPTZ '{given["test_from"]}' THEN 'valid' ELSE 'test' END AS split,
            {weighed} AS weight, count, num_relevant
        FROM (
            SELECT user_key, item_id, event_time, {counted}, count(*) AS count,
                count(*) FILTER (event_type = '{given["relevant"]}') AS num_relevant
            FROM events WHERE user_key IS NOT NULL AND event_type <> 'impression' GROUP BY ALL
        )"""
    profiles = f"""
        SELECT * EXCLUDE (heaviest, num_impressions)
        FROM ({COUNTS.format(**of)}) LEFT JOIN ({HOURS.format(**of)}) USING (user_key)
        LEFT JOIN ({TAGS.format(**of, weight=weight)}) USING (user_key)"""
    raw = " UNION ALL ".join(_examples(date, given["relevant"]) for date in given["dates"])
    bounds = ", ".join(f"min({name}) AS min_{name}, max({name}) AS max_{name}" for name in FEATURES)
    scaled = ", ".join(
        f"CASE WHEN max_{name} > min_{name} THEN least(greatest(({name} - min_{name}) / (max_{name} - min_{name}), 0), 1) "
        "ELSE 0 END::FLOAT"
        for name in FEATURES
    )
    return {
        "interactions": interactions,
        "user_profiles": profiles,
        "item_profiles": ITEMS.format(**of),
        "examples": f"""
            WITH raw AS MATERIALIZED ({raw}), bounds AS (SELECT {bounds} FROM raw WHERE split = 'train')
            SELECT user_key, as_of, split, label, [{scaled}] AS features FROM raw, bounds""",
    }


def _examples(date: Mapping[str, Any], relevant: str) -> str:
    """The raw examples of a date."""
    of = {"as_of": date["as_of"]}
    label = "NULL::INT"
    if date["label_until"] is not None:
        label = f"""(user_key IN (
            SELECT user_key FROM events WHERE event_type = '{relevant}' AND user_key IS NOT NULL
            AND event_time >= TIMESTAMPTZ '{date["as_of"]}' AND event_time < TIMESTAMPTZ '{date["label_until"]}'))::INT"""
    features = ", ".join(f"{sql} AS {name}_" for name, sql in FEATURES.items())
    named = ", ".join(f"{name}_::DOUBLE AS {name}" for name in FEATURES)
    return f"""
        SELECT user_key, TIMESTAMPTZ '{date["as_of"]}' AS as_of, '{date["split"]}' AS split, {label} AS label, {named}
        FROM (
            SELECT user_key, {features}
            FROM (
                SELECT * REPLACE (coalesce(num_actions, 0) AS num_actions, coalesce(num_wanted, 0) AS num_wanted,
                    coalesce(num_actions_week, 0) AS num_actions_week, coalesce(num_actions_month, 0) AS num_actions_month)
                FROM ({COUNTS.format(**of)}) LEFT JOIN ({HABITS.format(**of)}) USING (user_key)
                LEFT JOIN ({SPREAD.format(**of)}) USING (user_key) LEFT JOIN ({OPEN_CARTS.format(**of)}) USING (user_key)
            )
        )"""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
