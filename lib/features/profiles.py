"""What is known about each user before a given moment: counts, rates, active hours and interest tags, with Polars.

Each function takes `days`, what happened on all days of some users (lib/features/days.py; the words are defined there), and
`as_of`, and returns one row per user with at least one event before `as_of`. What begins at `as_of` or later never counts.
Rows of `days.user_items` also have the tags of their item:

    category_tags: list of text, the item's categories as paths, coarse to fine ("category=Shoes", "category=Shoes/Boots")
    brand_tag: text ("brand=Acme"), or null
"""

from datetime import datetime

import numpy as np
import polars as pl

from lib.features.days import COUNTS, MONEY, NUM_HOURS, Days, before, days_before, in_steps


def user_profiles(days: Days, *, as_of: datetime, half_life_days: float, max_tags: int) -> pl.DataFrame:
    """The rows of gold/user_profiles for the users of `days`, in the table's column order."""
    return (
        user_counts(days, as_of=as_of)
        .join(active_hours(days, as_of=as_of), on="user_key", how="left")
        .join(
            interest_tags(days, as_of=as_of, half_life_days=half_life_days, max_tags=max_tags),
            on="user_key",
            how="left",
        )
        .with_columns(as_of=pl.lit(as_of))
        .sort("user_key")
        .select(
            pl.col("user_key").cast(pl.String),
            "as_of",
            "first_event_at",
            "last_event_at",
            "recency_days",
            "tenure_days",
            "num_events",
            "num_sessions",
            "num_active_days",
            "num_views",
            "num_carts",
            "num_purchases",
            "num_returns",
            "num_items",
            "spend",
            "mean_price",
            "cart_rate",
            "purchase_rate",
            "click_rate",
            "favourite_hour",
            "active_hours",
            "favourite_category",
            "interest_tags",
        )
    )


def user_counts(days: Days, *, as_of: datetime) -> pl.DataFrame:
    """One row per user: first and last event, counts, spend, mean price and rates.

    A purchase without a quantity counts as one piece; one without a price adds nothing to `spend`. `mean_price` is the
    mean of the purchases, or of all actions if nothing was bought. Both are null where they would take in a price that
    is not converted. A rate with a denominator of zero is null.
    """
    users = (
        before(days.users, "first_event_at", as_of)
        .group_by("user_key")
        .agg(
            pl.col("first_event_at").min(),
            pl.col("last_event_at").max(),
            pl.col("num_impressions", "num_sessions", "num_clicked_requests").sum(),
            num_active_days=pl.col("event_date").n_unique().cast(pl.Int64),
            mean_price=pl.coalesce(
                pl.when(~pl.col("has_unconverted_purchase").any()).then(_mean("bought_prices")),
                pl.when(~pl.col("has_unconverted").any()).then(_mean("prices")),
            ),
        )
    )
    touched = (
        before(days.user_items, "first_at", as_of)
        .group_by("user_key")
        .agg(
            pl.col(*COUNTS).sum(),
            num_items=pl.col("item_id").n_unique().cast(pl.Int64),
            spend=pl.when(pl.col("amount").is_not_null().all()).then(pl.col("amount").sum().cast(MONEY)),
        )
    )
    is_untouched, num_views, num_impressions = (
        pl.col("num_items").is_null(),
        pl.col("num_views"),
        pl.col("num_impressions"),
    )
    return (
        users.join(touched, on="user_key", how="left")
        .with_columns(
            pl.col(*COUNTS).fill_null(0),
            num_items=pl.col("num_items").fill_null(0),
            spend=pl.when(is_untouched).then(pl.lit(0, MONEY)).otherwise("spend"),
        )
        .with_columns(
            num_events=pl.sum_horizontal(*COUNTS),
            recency_days=days_before(pl.lit(as_of), pl.col("last_event_at")),
            tenure_days=days_before(pl.lit(as_of), pl.col("first_event_at")),
            cart_rate=pl.when(num_views > 0).then(pl.col("num_carts") / num_views),
            purchase_rate=pl.when(num_views > 0).then(pl.col("num_purchases") / num_views),
            click_rate=pl.when(num_impressions > 0).then(
                (pl.col("num_clicked_requests") / num_impressions).clip(upper_bound=1.0)
            ),
        )
    )


def _mean(prices: str) -> pl.Expr:
    """Mean of the prices in a column of sums, null without any.

    The sum is exact, so the order of rows does not affect the last digit.
    """
    number = pl.col(f"num_{prices}").sum()
    return pl.when(number > 0).then(pl.col(prices).sum().cast(pl.Float64) / number)


def active_hours(days: Days, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with actions: `active_hours` (share in each UTC hour), `favourite_hour` (ties: the earlier).

    Actions whose clock tells no hour are left out.
    """
    known = before(days.users, "first_event_at", as_of).select("user_key", "hours").explode("hours").drop_nulls()
    users = known.select("user_key").unique().with_row_index("place")
    placed = known.join(users, on="user_key", how="inner").select(
        pl.col("place").cast(pl.Int64) * NUM_HOURS + pl.col("hours")
    )
    counts = np.bincount(placed.to_series().to_numpy(), minlength=users.height * NUM_HOURS).reshape(-1, NUM_HOURS)
    shares = (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)
    return users.select(
        "user_key",
        active_hours=pl.Series(shares, dtype=pl.Array(pl.Float32, NUM_HOURS)).cast(pl.List(pl.Float32)),
        favourite_hour=pl.Series(shares.argmax(axis=1), dtype=pl.Int32),
    )


def interest_tags(days: Days, *, as_of: datetime, half_life_days: float, max_tags: int) -> pl.DataFrame:
    """One row per user with tags: `interest_tags` (the `max_tags` heaviest; weights sum to 1) and `favourite_category`.

    An event gives each tag of its item the weight of its type, halved for every `half_life_days` that it is older than the
    user's last day: which day that is changes no share. Ties are broken by the tag's text, so that a category comes before
    its subcategories; weights are in STEPs, so that row order cannot break a tie.
    """
    known = before(days.user_items, "first_at", as_of).filter(pl.col("weight") > 0)
    day = pl.col("event_date")
    age = (day.max().over("user_key") - day).dt.total_days()
    weighed = known.with_columns(weight=in_steps(pl.col("weight") * 0.5 ** (age / half_life_days)))
    categories = weighed.select("user_key", "weight", is_category=True, tag="category_tags").explode("tag")
    brands = weighed.select("user_key", "weight", is_category=False, tag="brand_tag")
    tags = (
        pl.concat([categories, brands])
        .drop_nulls("tag")
        .group_by("user_key", "tag")
        .agg(pl.col("weight").sum(), pl.col("is_category").first())
        .filter(pl.col("weight") > 0)
        .sort(["user_key", "weight", "tag"], descending=[False, True, False])
    )
    return tags.group_by("user_key", maintain_order=True).agg(
        interest_tags=pl.struct(
            pl.col("tag").head(max_tags).cast(pl.String),
            pl.col("weight").head(max_tags) / pl.col("weight").head(max_tags).sum(),
        ),
        favourite_category=pl.col("tag").filter("is_category").first().cast(pl.String).str.strip_prefix("category="),
    )
