"""The features of gold/examples: numbers about each user before a given moment, as Polars over whole users.

`user_features` takes events as described in lib/features/profiles.py, which also defines an action. In the names of
features, `click` stands for an action, except in `click_rate`. A feature is never null: for something that never
happened it has the value given in FEATURES, and an indicator `has_...` says so. Counts, days and money are log(1 + x),
because they are heavy-tailed and min-max scaling would squeeze most users into a small range. Hours of day are given as
sine and cosine, because hour 23 is next to hour 0; both are 0 for a user without actions whose clock tells the hour.
"""

import math
from datetime import datetime, timedelta

import polars as pl

from lib.features.profiles import ACTIONS, NUM_HOURS, days_before, known_events, of_type, user_counts

RECENT_DAYS = 7
MONTH_DAYS = 28
# Name and meaning, in the order of gold/examples.features.
FEATURES: dict[str, str] = {
    "log_tenure_days": "days since the first event",
    "log_recency_days": "days since the last event, impressions included",
    "log_days_since_click": "days since the last action; without one, days since the first event",
    "has_clicked": "1 if there is an action, else 0",
    "log_days_since_purchase": "days since the last purchase; without one, days since the first event",
    "has_purchased": "1 if there is a purchase, else 0",
    "log_num_events": "events other than impressions",
    "log_num_sessions": "sessions",
    "log_num_active_days": "days with an event",
    "log_num_views": "views",
    "log_num_carts": "carts and favourites",
    "log_num_purchases": "purchases",
    "log_num_returns": "returns",
    "log_num_items": "distinct items",
    "log_num_categories": "distinct coarse categories among actions",
    "top_category_share": "share of the most frequent coarse category among actions with a category; 0 without any",
    "log_num_open_carts": "items put in the cart and not bought since",
    "log_spend": "money spent, in the shop's currency; 0 where a price has no rate to it",
    "log_mean_price": "mean price of purchases, else of all actions; 0 without any price, or with one without a rate",
    "carts_per_click": "share of carts and favourites among actions; 0 without actions",
    "purchases_per_click": "share of purchases among actions; 0 without actions",
    "click_rate": "clicked share of impressions; 0 without impressions",
    "has_impressions": "1 if there is an impression, else 0",
    "log_events_per_session": "events other than impressions per session",
    "log_days_per_visit": "days since the first event, divided by the number of days with an event",
    "log_num_clicks_week": f"actions in the last {RECENT_DAYS} days",
    "log_num_clicks_month": f"actions in the last {MONTH_DAYS} days",
    "trend": f"log of (1 + actions in the last {RECENT_DAYS} days) / (1 + mean actions per {RECENT_DAYS} days before)",
    "weekend_share": "share of actions on Saturday and Sunday (UTC); 0 without actions",
    "mean_click_hour_sin": "mean sine of the actions' hours of day; near 0, with the cosine, for irregular hours",
    "mean_click_hour_cos": "mean cosine of the actions' hours of day",
    "last_click_hour_sin": "sine of the last action's hour of day",
    "last_click_hour_cos": "cosine of the last action's hour of day",
}


def user_features(events: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with an event before `as_of`: user_key and the FEATURES, never null, not yet scaled."""
    counts = user_counts(events, as_of=as_of)
    joined = (
        counts.join(action_habits(events, as_of=as_of), on="user_key", how="left")
        .join(category_spread(events, as_of=as_of), on="user_key", how="left")
        .join(open_carts(events, as_of=as_of), on="user_key", how="left")
    )
    tenure_days = pl.col("tenure_days")
    num_actions = pl.col("num_actions").fill_null(0)
    weeks_before = (tenure_days / RECENT_DAYS - 1).clip(lower_bound=1.0)
    actions_week = pl.col("num_actions_week").fill_null(0)
    features = {
        "log_tenure_days": tenure_days.log1p(),
        "log_recency_days": pl.col("recency_days").log1p(),
        "log_days_since_click": pl.coalesce("days_since_action", tenure_days).log1p(),
        "has_clicked": num_actions > 0,
        "log_days_since_purchase": pl.coalesce("days_since_purchase", tenure_days).log1p(),
        "has_purchased": pl.col("num_purchases") > 0,
        "log_num_events": pl.col("num_events").log1p(),
        "log_num_sessions": pl.col("num_sessions").log1p(),
        "log_num_active_days": pl.col("num_active_days").log1p(),
        "log_num_views": pl.col("num_views").log1p(),
        "log_num_carts": pl.col("num_wanted").fill_null(0).log1p(),
        "log_num_purchases": pl.col("num_purchases").log1p(),
        "log_num_returns": pl.col("num_returns").log1p(),
        "log_num_items": pl.col("num_items").log1p(),
        "log_num_categories": pl.col("num_categories").fill_null(0).log1p(),
        "top_category_share": pl.col("top_category_share").fill_null(0.0),
        "log_num_open_carts": pl.col("num_open_carts").fill_null(0).log1p(),
        "log_spend": pl.col("spend").cast(pl.Float64).fill_null(0.0).log1p(),
        "log_mean_price": pl.col("mean_price").fill_null(0.0).log1p(),
        "carts_per_click": (pl.col("num_wanted") / pl.col("num_actions")).fill_null(0.0),
        "purchases_per_click": (pl.col("num_purchases") / pl.col("num_actions")).fill_null(0.0),
        "click_rate": pl.col("click_rate").fill_null(0.0),
        "has_impressions": pl.col("num_impressions") > 0,
        "log_events_per_session": (pl.col("num_events") / pl.col("num_sessions").clip(lower_bound=1)).log1p(),
        "log_days_per_visit": (tenure_days / pl.col("num_active_days")).log1p(),
        "log_num_clicks_week": actions_week.log1p(),
        "log_num_clicks_month": pl.col("num_actions_month").fill_null(0).log1p(),
        "trend": actions_week.log1p() - ((num_actions - actions_week) / weeks_before).log1p(),
        "weekend_share": pl.col("weekend_share").fill_null(0.0),
        "mean_click_hour_sin": pl.col("mean_hour_sin").fill_null(0.0),
        "mean_click_hour_cos": pl.col("mean_hour_cos").fill_null(0.0),
        "last_click_hour_sin": pl.col("last_hour_sin").fill_null(0.0),
        "last_click_hour_cos": pl.col("last_hour_cos").fill_null(0.0),
    }
    assert list(features) == list(FEATURES), "FEATURES lists every feature, in the same order"
    return joined.select("user_key", *(value.cast(pl.Float64).alias(name) for name, value in features.items())).sort(
        "user_key"
    )


def action_habits(events: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with actions: how many, how long ago, and at which hours and days of the week."""
    hour = pl.col("event_time").dt.hour() + pl.col("event_time").dt.minute() / 60
    angle = hour * (2 * math.pi / NUM_HOURS)
    actions = (
        known_events(events, as_of)
        .filter(of_type(*ACTIONS))
        .with_columns(
            hour_sin=pl.when("has_hour").then(angle.sin()),
            hour_cos=pl.when("has_hour").then(angle.cos()),
            days_ago=days_before(as_of, pl.col("event_time")),
            purchase_days_ago=pl.when(of_type("purchase")).then(days_before(as_of, pl.col("event_time"))),
            in_week=pl.col("event_time") >= pl.lit(as_of - timedelta(days=RECENT_DAYS)),
            in_month=pl.col("event_time") >= pl.lit(as_of - timedelta(days=MONTH_DAYS)),
            is_wanted=of_type("cart", "favourite"),
            is_weekend=pl.col("event_time").dt.weekday() >= 6,
        )
        .sort("user_key", "event_time", "event_type", "item_id")
    )
    return actions.group_by("user_key", maintain_order=True).agg(
        num_actions=pl.len(),
        num_wanted=pl.col("is_wanted").sum(),
        num_actions_week=pl.col("in_week").sum(),
        num_actions_month=pl.col("in_month").sum(),
        days_since_action=pl.col("days_ago").min(),
        days_since_purchase=pl.col("purchase_days_ago").min(),
        weekend_share=pl.col("is_weekend").mean(),
        mean_hour_sin=pl.col("hour_sin").mean(),
        mean_hour_cos=pl.col("hour_cos").mean(),
        last_hour_sin=pl.col("hour_sin").drop_nulls().last(),
        last_hour_cos=pl.col("hour_cos").drop_nulls().last(),
    )


def category_spread(events: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with actions in a known category: distinct coarse categories, and the largest one's share."""
    coarse = pl.col("category_tags").list.first()
    actions = known_events(events, as_of).filter(of_type(*ACTIONS)).select("user_key", category=coarse).drop_nulls()
    return (
        actions.group_by("user_key", "category")
        .len("num_actions")
        .group_by("user_key")
        .agg(
            num_categories=pl.len(),
            top_category_share=pl.col("num_actions").max() / pl.col("num_actions").sum(),
        )
    )


def open_carts(events: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with carts: `num_open_carts`, the items whose last cart was not followed by their purchase."""
    known = known_events(events, as_of)
    carts = known.filter(of_type("cart")).group_by("user_key", "item_id").agg(carted_at=pl.col("event_time").max())
    purchases = (
        known.filter(of_type("purchase")).group_by("user_key", "item_id").agg(bought_at=pl.col("event_time").max())
    )
    is_open = (pl.col("bought_at") < pl.col("carted_at")).fill_null(True)
    return (
        carts.join(purchases, on=["user_key", "item_id"], how="left")
        .group_by("user_key")
        .agg(num_open_carts=is_open.sum())
    )
