"""The features of gold/examples: numbers about each user before a given moment, as Polars over whole users.

`user_features` takes days as lib/features/profiles.py does. In the names of features, `click` stands for an action, except in
`click_rate`. A feature is never null: for something that never
happened it has the value given in FEATURES, and an indicator `has_...` says so. Counts, days and money are log(1 + x),
because they are heavy-tailed and min-max scaling would squeeze most users into a small range. Hours of day are given as
sine and cosine, because hour 23 is next to hour 0; both are 0 for a user without actions whose clock tells the hour.
"""

from datetime import UTC, datetime, timedelta

import polars as pl

from lib.features.days import Days, before, days_before, hour_angle, num_actions
from lib.features.profiles import user_counts

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
    "log_num_clicks_week": f"actions since the midnight (UTC) that is {RECENT_DAYS} days before that of the day",
    "log_num_clicks_month": f"actions since the midnight (UTC) that is {MONTH_DAYS} days before that of the day",
    "trend": f"log of (1 + actions of log_num_clicks_week) / (1 + mean actions per {RECENT_DAYS} days before)",
    "weekend_share": "share of actions on Saturday and Sunday (UTC); 0 without actions",
    "mean_click_hour_sin": "mean sine of the actions' hours of day; near 0, with the cosine, for irregular hours",
    "mean_click_hour_cos": "mean cosine of the actions' hours of day",
    "last_click_hour_sin": "sine of the last action's hour of day",
    "last_click_hour_cos": "cosine of the last action's hour of day",
}


def user_features(days: Days, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with an event before `as_of`: user_key and the FEATURES, never null, not yet scaled."""
    joined = user_counts(days, as_of=as_of)
    for more in (action_habits, times_of_day, category_spread, open_carts):
        joined = joined.join(more(days, as_of=as_of), on="user_key", how="left")
    tenure_days = pl.col("tenure_days")
    num_all = pl.col("num_actions").fill_null(0)
    weeks_before = (tenure_days / RECENT_DAYS - 1).clip(lower_bound=1.0)
    actions_week = pl.col("num_actions_week").fill_null(0)
    features = {
        "log_tenure_days": tenure_days.log1p(),
        "log_recency_days": pl.col("recency_days").log1p(),
        "log_days_since_click": pl.coalesce("days_since_action", tenure_days).log1p(),
        "has_clicked": num_all > 0,
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
        "trend": actions_week.log1p() - ((num_all - actions_week) / weeks_before).log1p(),
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


def action_habits(days: Days, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with actions: how many, in which weeks and on which days of the week, and the last purchase."""
    day = as_of.astimezone(UTC).date()
    actions = before(days.user_items, "first_at", as_of).with_columns(num_actions=num_actions())
    of_each = pl.col("num_actions")
    return (
        actions.filter(of_each > 0)
        .group_by("user_key")
        .agg(
            of_each.sum(),
            num_wanted=(pl.col("num_carts") + pl.col("num_favourites")).sum(),
            num_actions_week=of_each.filter(pl.col("event_date") >= day - timedelta(days=RECENT_DAYS)).sum(),
            num_actions_month=of_each.filter(pl.col("event_date") >= day - timedelta(days=MONTH_DAYS)).sum(),
            days_since_purchase=days_before(pl.lit(as_of), pl.col("last_purchase_at").max()),
            weekend_share=of_each.filter(pl.col("event_date").dt.weekday() >= 6).sum() / of_each.sum(),
        )
    )


def times_of_day(days: Days, *, as_of: datetime) -> pl.DataFrame:
    """One row per user: how long ago the last action was, and at which hours they are."""
    angle, num_timed = hour_angle(pl.col("last_timed_at").max()), pl.col("hours").list.len().sum()
    return (
        before(days.users, "first_event_at", as_of)
        .group_by("user_key")
        .agg(
            days_since_action=days_before(pl.lit(as_of), pl.col("last_action_at").max()),
            mean_hour_sin=pl.when(num_timed > 0).then(pl.col("hour_sin").sum() / num_timed),
            mean_hour_cos=pl.when(num_timed > 0).then(pl.col("hour_cos").sum() / num_timed),
            last_hour_sin=angle.sin(),
            last_hour_cos=angle.cos(),
        )
    )


def category_spread(days: Days, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with actions in a known category: distinct coarse categories, and the largest one's share."""
    coarse = pl.col("category_tags").list.first()
    known = before(days.user_items, "first_at", as_of)
    actions = known.select("user_key", num_actions().alias("num_actions"), category=coarse).drop_nulls()
    return (
        actions.filter(pl.col("num_actions") > 0)
        .group_by("user_key", "category")
        .agg(pl.col("num_actions").sum())
        .group_by("user_key")
        .agg(
            num_categories=pl.len(),
            top_category_share=pl.col("num_actions").max() / pl.col("num_actions").sum(),
        )
    )


def open_carts(days: Days, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with carts: `num_open_carts`, the items whose last cart was not followed by their purchase."""
    is_wanted = pl.col("last_cart_at").is_not_null() | pl.col("last_purchase_at").is_not_null()  # most rows are views
    pairs = (
        before(days.user_items, "first_at", as_of)
        .filter(is_wanted)
        .group_by("user_key", "item_id")
        .agg(pl.col("last_cart_at", "last_purchase_at").max())
        .filter(pl.col("last_cart_at").is_not_null())
    )
    is_open = (pl.col("last_purchase_at") < pl.col("last_cart_at")).fill_null(True)
    return pairs.group_by("user_key").agg(num_open_carts=is_open.sum())
