"""The functions that featurize's tasks run, on files of silver/events and on shards of whole users.

A task reads files and packs their events by user; the next describes the users of a shard, and writes what needs no
other shard into files. What is counted over all shards goes on in parts (lib/engines/arrow_tasks.py). Does not import
Spark.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lib.engines.arrow_tasks import packed, rows_of, shards_by, table_rows, unpacked, write_rows
from lib.features.examples import ExampleDate, examples
from lib.features.interactions import interactions
from lib.features.item_counts import item_counts, num_touching_users, together
from lib.features.item_profiles import item_profiles
from lib.features.prices import in_shop_currency
from lib.features.profiles import user_profiles
from lib.features.scaling import bounds_of, num_clipped, scaled
from lib.lake.lake import Lake
from lib.tables import Table, contract
from lib.tables.silver import EVENTS, ITEMS

READ = (
    *("user_key", "item_id", "event_type", "event_time", "session_id", "quantity", "price", "currency", "request_id"),
    *("is_bot", "source_record"),
)
# Kinds of parts, beside those of written files.
EVENT, EXAMPLE, ITEM_COUNT, BOUNDS, USERS, CLIPPED = "event", "example", "item_count", "bounds", "users", "clipped"
# The columns of those that the job gathers.
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    BOUNDS: {"feature": pl.String, "min": pl.Float64, "max": pl.Float64},
    USERS: {"num_users": pl.Int64},
    CLIPPED: {"feature": pl.String, "num_clipped": pl.Int64},
}


@dataclass(frozen=True)
class FeaturizeWork:
    """What the tasks of one run need to know."""

    lake: Lake
    items_version: int | None  # of silver/items; None where the log describes no item
    rates: Mapping[str | None, Decimal]
    sources_by_day: tuple[str, ...]  # whose clock tells no hour
    as_of: datetime
    valid_from: datetime
    test_from: datetime
    dates: tuple[ExampleDate, ...]
    relevant: str
    event_weights: Mapping[str, float]
    half_life_days: float
    max_tags: int
    prior_views: float
    prior_impressions: float
    num_shards: int


def spread_events(files: Iterable[pa.RecordBatch], *, work: FeaturizeWork) -> Iterator[pa.RecordBatch]:
    """Read files of silver/events (rows of TABLE_FILES) and pack the events, but those of bots, by shard of whole users.

    Events of nobody are spread by their item. Prices are in the currency of sums.
    """
    schema = pa.schema([EVENTS.schema.field(name) for name in READ])
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema):
            source = pl.col("source_record").str.split("/").list.first()
            events = in_shop_currency(rows.filter(~pl.col("is_bot")), work.rates).with_columns(
                has_hour=~source.is_in(work.sources_by_day)
            )
            whole = events.select(pl.coalesce("user_key", "item_id")).to_series()
            shards = shards_by(whole, work.num_shards)
            yield from packed(events.drop("is_bot", "source_record", "currency"), EVENT, shards)


def describe_users(parts: Iterable[pa.RecordBatch], *, work: FeaturizeWork) -> Iterator[pa.RecordBatch]:
    """Describe the users of a shard, and count what happened to its items.

    Writes interactions and user profiles; examples go on, for their bounds are not known yet.
    """
    found = unpacked(parts)
    if EVENT not in found:
        return
    events = found[EVENT]
    counts = item_counts(events, as_of=work.as_of)
    yield from packed(counts, ITEM_COUNT)
    users = num_touching_users(events, as_of=work.as_of)
    yield from packed(pl.DataFrame({"num_users": [users]}), USERS)
    known = with_tags(events.filter(pl.col("user_key").is_not_null()), work)
    pairs = interactions(
        known,
        valid_from=work.valid_from,
        test_from=work.test_from,
        event_weights=work.event_weights,
        relevant=work.relevant,
    )
    yield from _written(pairs, contract("gold/interactions"), work)
    profiles = user_profiles(
        known,
        as_of=work.as_of,
        event_weights=work.event_weights,
        half_life_days=work.half_life_days,
        max_tags=work.max_tags,
    )
    yield from _written(profiles, contract("gold/user_profiles"), work)
    raw = examples(known, dates=work.dates, relevant=work.relevant)
    yield from packed(bounds_of(raw), BOUNDS)
    yield from packed(raw, EXAMPLE)


def with_tags(events: pl.DataFrame, work: FeaturizeWork) -> pl.DataFrame:
    """The events with the tags of their items: category_tags, coarse to fine, and brand_tag.

    Of the catalogue, which may be large, only the items of the shard are kept.
    """
    described = catalogue(work, events["item_id"].unique())
    return events.join(_tagged(described), on="item_id", how="left", maintain_order="left")


def describe_items(
    parts: Iterable[pa.RecordBatch], *, work: FeaturizeWork, num_shop_users: int
) -> Iterator[pa.RecordBatch]:
    """Bring the counts of every item together, and write the items' profiles."""
    found = unpacked(parts)
    if ITEM_COUNT in found:
        profiles = item_profiles(
            together(found[ITEM_COUNT]),
            in_shop_currency(catalogue(work, None), work.rates),
            num_shop_users=num_shop_users,
            as_of=work.as_of,
            prior_views=work.prior_views,
            prior_impressions=work.prior_impressions,
        )
        yield from _written(profiles, contract("gold/item_profiles"), work)


def catalogue(work: FeaturizeWork, wanted: pl.Series | None) -> pl.DataFrame:
    """What silver/items says of the items `wanted`, or of all: item_id, category, brand, price, currency."""
    schema = pa.schema([ITEMS.schema.field(name) for name in ("item_id", "category", "brand", "price", "currency")])
    if work.items_version is None:
        return pl.DataFrame(schema.empty_table())
    dataset = work.lake.dataset("silver/items", work.items_version)
    chosen = None if wanted is None else pc.field("item_id").isin(wanted.to_arrow().cast(pa.string()))
    return pl.DataFrame(dataset.to_table(columns=schema.names, filter=chosen, use_threads=False))


def scale_examples(
    parts: Iterable[pa.RecordBatch], *, work: FeaturizeWork, bounds: Mapping[str, tuple[float, float]]
) -> Iterator[pa.RecordBatch]:
    """Scale the examples of shards by the bounds of train, and write them."""
    found = unpacked(parts)
    if EXAMPLE in found:
        raw = found[EXAMPLE]
        yield from packed(num_clipped(raw, bounds), CLIPPED)
        yield from _written(scaled(raw, bounds), contract("gold/examples"), work)


def _tagged(items: pl.DataFrame) -> pl.DataFrame:
    """The tags of items: each category as the path that leads to it."""
    paths = [
        None if parts is None else [f"category={'/'.join(parts[: place + 1])}" for place in range(len(parts))]
        for parts in items["category"].to_list()
    ]
    return items.select(
        "item_id",
        pl.Series("category_tags", paths, dtype=pl.List(pl.String)),
        brand_tag=pl.lit("brand=") + pl.col("brand"),
    )


def _written(rows: pl.DataFrame, table: Table, work: FeaturizeWork) -> Iterator[pa.RecordBatch]:
    batches = rows.select(table.schema.names).to_arrow().cast(table.schema).to_batches()
    yield from write_rows(batches, lake=work.lake, table=table)
