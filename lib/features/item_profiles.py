"""gold/item_profiles: exposure, smoothed rates, price position, novelty and rank of each item."""

from datetime import datetime

import polars as pl

from lib.features.days import days_before
from lib.tables.silver import LEVELS


def item_profiles(
    counts: pl.DataFrame,
    catalogue: pl.DataFrame,
    *,
    num_shop_users: int,
    as_of: datetime,
    prior_views: float,
    prior_impressions: float,
) -> pl.DataFrame:
    """One row per item of `counts` (lib/features/item_counts.py), in the table's columns.

    `catalogue` has item_id, category and price, in the currency of sums. Rates are shrunk towards the shop's by imagined
    views (impressions) at its mean rate: the posterior mean under a beta prior of that weight, whose mean is estimated
    from all items (empirical Bayes). `num_shop_users` is the number of known users with an event other than an
    impression.
    """
    clicks = pl.min_horizontal("num_clicks", "num_impressions")  # an impression may be clicked twice
    of_shop = counts.select(clicks.sum().alias("clicks"), pl.col("num_impressions", "num_purchases", "num_views").sum())
    num_clicks, num_impressions, num_purchases, num_views = of_shop.row(0)
    shop_click_rate = num_clicks / num_impressions if num_impressions else None
    shop_purchase_rate = num_purchases / num_views if num_views else None
    listed = catalogue.select("item_id", listed_price="price", category=pl.col("category").list.join(LEVELS))
    priced = counts.join(listed, on="item_id", how="left").with_columns(
        price=pl.coalesce("last_price", "listed_price"), num_events=pl.col("num_touches") + pl.col("num_impressions")
    )
    by_popularity = ["num_buyers", "num_users", "num_events", "item_id"]
    ranked = priced.sort(by_popularity, descending=[True, True, True, False]).with_row_index("popularity_rank", 1)
    of_category = pl.struct("category", pl.col("price").is_null())
    num_alike = pl.col("price").len().over(of_category)
    cheaper = pl.col("price").rank("min").over(of_category).cast(pl.Float64) - 1
    return ranked.select(
        "item_id",
        pl.lit(as_of).alias("as_of"),
        *("num_impressions", "num_views", "num_carts", "num_purchases", "num_returns", "num_buyers", "num_users"),
        (
            (clicks + prior_impressions * pl.lit(shop_click_rate)) / (pl.col("num_impressions") + prior_impressions)
        ).alias("click_rate"),
        (
            (pl.col("num_purchases") + prior_views * pl.lit(shop_purchase_rate)) / (pl.col("num_views") + prior_views)
        ).alias("purchase_rate"),
        "price",
        pl.when(pl.col("price").is_not_null())
        .then(pl.when(num_alike > 1).then(cheaper / (num_alike - 1)).otherwise(0.0))
        .alias("price_position"),
        "first_seen_at",
        days_before(pl.lit(as_of), pl.col("first_seen_at")).alias("age_days"),
        (-((pl.col("num_users") + 1) / (num_shop_users + 1)).log(2)).alias("novelty"),
        pl.col("popularity_rank").cast(pl.Int64),
    )
