"""What is known about each user before a given moment: counts, rates, active hours and interest tags, with Polars.

Each function takes `events`, all events of some users in any order, and `as_of`, and returns one row per user with at
least one event before `as_of`. Events at or after `as_of` never count. Columns of `events`:

    user_key, item_id, event_type, event_time (UTC), session_id, quantity, request_id: as in silver/events
    price: in the currency of sums; is_unconverted: whether there is one only in a currency without a rate to it
    has_hour: whether the clock of the event's source tells the hour of day
    category_tags: list of text, the item's categories as paths, coarse to fine ("category=Shoes",
    "category=Shoes/Boots") brand_tag: text ("brand=Acme"), or null

An *action* is what a shopper does with an item: a view, a cart, a favourite, a purchase or a rating. An impression is
the shop's doing, and a return takes back an earlier purchase; both are events of the user, but not actions. A *click*
is a view with a request_id, which answers an impression.
"""

from collections.abc import Mapping
from datetime import datetime

import polars as pl

ACTIONS = ("view", "cart", "favourite", "purchase", "rating")
DAY_SECONDS = 86_400.0
NUM_HOURS = 24


def days_before(as_of: datetime, time: pl.Expr) -> pl.Expr:
    """Days from `time` to `as_of`, fractions included."""
    return (pl.lit(as_of) - time).dt.total_microseconds() / (DAY_SECONDS * 1e6)


def of_type(*event_types: str) -> pl.Expr:
    """Whether the event is of one of `event_types`."""
    return pl.col("event_type").is_in(event_types)


def exact_mean(column: str) -> pl.Expr:
    """Mean of a decimal column, null without values.

    Its sum is exact, so the order of rows does not affect the last digit.
    """
    value = pl.col(column)
    return pl.when(value.count() > 0).then(value.sum().cast(pl.Float64) / value.count())


def known_events(events: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """The events before `as_of`."""
    return events.filter(pl.col("event_time") < pl.lit(as_of))


def user_profiles(
    events: pl.DataFrame,
    *,
    as_of: datetime,
    event_weights: Mapping[str, float],
    half_life_days: float,
    max_tags: int,
) -> pl.DataFrame:
    """The rows of gold/user_profiles for the users of `events`, in the table's column order."""
    profiles = user_counts(events, as_of=as_of)
    hours = active_hours(events, as_of=as_of)
    tags = interest_tags(
        events, as_of=as_of, event_weights=event_weights, half_life_days=half_life_days, max_tags=max_tags
    )
    return (
        profiles.join(hours, on="user_key", how="left")
        .join(tags, on="user_key", how="left")
        .with_columns(as_of=pl.lit(as_of))
        .select(
            "user_key",
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
        .sort("user_key")
    )


def user_counts(events: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per user: first and last event, counts, spend, mean price and rates.

    A purchase without a quantity counts as one piece; one without a price adds nothing to `spend`. `mean_price` is the
    mean of the purchases, or of all actions if nothing was bought. Both are null where they would take in a price that
    is not converted. A rate with a denominator of zero is null.
    """
    is_purchase = of_type("purchase")
    not_impression = pl.col("event_type") != "impression"
    is_summed, is_averaged = (~(pl.col("is_unconverted") & of_type(*types)).any() for types in (("purchase",), ACTIONS))
    marked = known_events(events, as_of).with_columns(
        event_date=pl.col("event_time").dt.date(),
        touched_item=pl.when(not_impression).then("item_id"),
        clicked_request=pl.when(of_type("view")).then("request_id"),
        amount=pl.when(is_purchase).then(pl.col("price") * pl.col("quantity").fill_null(1)),
        price_bought=pl.when(is_purchase).then("price"),
        price_of_action=pl.when(of_type(*ACTIONS)).then("price"),
    )
    num_views, num_impressions = pl.col("num_views"), pl.col("num_impressions")
    return (
        marked.group_by("user_key")
        .agg(
            first_event_at=pl.col("event_time").min(),
            last_event_at=pl.col("event_time").max(),
            num_events=not_impression.sum().cast(pl.Int64),
            num_sessions=pl.col("session_id").drop_nulls().n_unique().cast(pl.Int64),
            num_active_days=pl.col("event_date").n_unique().cast(pl.Int64),
            num_impressions=of_type("impression").sum().cast(pl.Int64),
            num_views=of_type("view").sum().cast(pl.Int64),
            num_carts=of_type("cart").sum().cast(pl.Int64),
            num_purchases=is_purchase.sum().cast(pl.Int64),
            num_returns=of_type("return").sum().cast(pl.Int64),
            num_items=pl.col("touched_item").drop_nulls().n_unique().cast(pl.Int64),
            num_clicked_requests=pl.col("clicked_request").drop_nulls().n_unique(),
            spend=pl.when(is_summed).then(pl.col("amount").sum().cast(pl.Decimal(18, 4))),
            mean_price=pl.coalesce(
                pl.when(is_summed).then(exact_mean("price_bought")),
                pl.when(is_averaged).then(exact_mean("price_of_action")),
            ),
        )
        .with_columns(
            recency_days=days_before(as_of, pl.col("last_event_at")),
            tenure_days=days_before(as_of, pl.col("first_event_at")),
            cart_rate=pl.when(num_views > 0).then(pl.col("num_carts") / num_views),
            purchase_rate=pl.when(num_views > 0).then(pl.col("num_purchases") / num_views),
            click_rate=pl.when(num_impressions > 0).then(
                (pl.col("num_clicked_requests") / num_impressions).clip(upper_bound=1.0)
            ),
        )
    )


def active_hours(events: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
    """One row per user with actions: `active_hours` (share in each UTC hour), `favourite_hour` (ties: the earlier).

    Actions whose clock tells no hour are left out.
    """
    timed = known_events(events, as_of).filter(of_type(*ACTIONS) & pl.col("has_hour"))
    actions = timed.with_columns(hour=pl.col("event_time").dt.hour())
    in_hour = [(pl.col("hour") == hour).mean().cast(pl.Float32).alias(f"hour_{hour}") for hour in range(NUM_HOURS)]
    shares = actions.group_by("user_key").agg(in_hour)
    return shares.select(
        "user_key", active_hours=pl.concat_list([f"hour_{hour}" for hour in range(NUM_HOURS)])
    ).with_columns(favourite_hour=pl.col("active_hours").list.arg_max().cast(pl.Int32))


def interest_tags(
    events: pl.DataFrame,
    *,
    as_of: datetime,
    event_weights: Mapping[str, float],
    half_life_days: float,
    max_tags: int,
) -> pl.DataFrame:
    """One row per user with tags: `interest_tags` (the `max_tags` heaviest; weights sum to 1) and `favourite_category`.

    An event gives each tag of its item the weight of its type, halved for every `half_life_days` of age. Ties are
    broken by the tag's text, so that a category comes before its subcategories; sums are rounded, so that row order
    cannot break a tie.
    """
    weight = pl.col("event_type").replace_strict(event_weights, default=0.0, return_dtype=pl.Float64)
    decay = 0.5 ** (days_before(as_of, pl.col("event_time")) / half_life_days)
    weighed = known_events(events, as_of).with_columns(weight=weight * decay).filter(pl.col("weight") > 0)
    categories = weighed.select("user_key", "weight", tag="category_tags").explode("tag")
    brands = weighed.select("user_key", "weight", tag="brand_tag")
    tags = (
        pl.concat([categories, brands])
        .drop_nulls("tag")
        .group_by("user_key", "tag")
        .agg(pl.col("weight").sum().round(12))
        .sort(["user_key", "weight", "tag"], descending=[False, True, False])
    )
    is_category = pl.col("tag").str.starts_with("category=")
    return (
        tags.group_by("user_key", maintain_order=True)
        .agg(
            tag=pl.col("tag").head(max_tags),
            weight=pl.col("weight").head(max_tags) / pl.col("weight").head(max_tags).sum(),
            favourite_category=pl.col("tag").filter(is_category).first(),
        )
        .explode("tag", "weight")
        .group_by("user_key", maintain_order=True)
        .agg(
            interest_tags=pl.struct("tag", "weight"),
            favourite_category=pl.col("favourite_category").first().str.strip_prefix("category="),
        )
    )
