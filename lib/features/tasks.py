"""The functions that featurize's tasks run.

A task reads files of silver/events and packs their events by day; the next makes the rows of these days, and writes them into
files. Of the days' files another packs what users did by user; the next describes the users of a shard, and writes what needs
no other shard into files. What is counted over all shards goes on in parts (lib/engines/arrow_tasks.py). Does not import Spark.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lib.engines.arrow_tasks import packed, rows_of, shards_by, table_rows, unpacked, write_rows
from lib.features.days import (
    Days,
    DayShards,
    coded,
    codes_of,
    days_of,
    first_day_of,
    item_days_together,
    open_sessions_of,
    since,
)
from lib.features.examples import ExampleDate, examples
from lib.features.interactions import interactions, split_of
from lib.features.item_counts import item_counts, item_users, num_touching_users, together
from lib.features.item_profiles import item_profiles
from lib.features.prices import currencies_in, in_shop_currency
from lib.features.profiles import user_profiles
from lib.features.scaling import bounds_of, num_clipped, scaled
from lib.lake.lake import Lake
from lib.tables import Table, contract
from lib.tables.gold import DAILY, INTERACTIONS, ITEM_DAYS, USER_DAYS
from lib.tables.silver import EVENTS, ITEMS

READ = (
    *("user_key", "item_id", "event_type", "event_time", "session_id", "quantity", "price", "currency", "request_id"),
    *("is_bot", "source_record"),
)
# Kinds of parts, beside those of written files: what is read, and what goes on.
EVENT, OPEN_SESSION, USER_ITEM, USER_DAY, ITEM_DAY = "event", "open_session", "user_item", "user_day", "item_day"
EXAMPLE, ITEM_COUNT, BOUNDS, USERS, CLIPPED = "example", "item_count", "bounds", "users", "clipped"
CURRENCY = "currency"
# The columns of those that the job gathers.
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    BOUNDS: {"feature": pl.String, "min": pl.Float64, "max": pl.Float64},
    USERS: {"num_users": pl.Int64},
    CLIPPED: {"feature": pl.String, "num_clipped": pl.Int64},
    CURRENCY: {"currency": pl.String},
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
    history_days: int | None  # before a moment, which count then; None: all
    max_tags: int
    prior_views: float
    prior_impressions: float

    @property
    def first_day(self) -> date | None:
        """The first that counts at `as_of`."""
        return first_day_of(self.as_of, self.history_days)


def find_currencies(files: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Read the prices in files of silver/events and silver/items, and say in which currencies they are."""
    schema = pa.schema([EVENTS.schema.field(name) for name in ("price", "currency")])
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema):
            yield from packed(currencies_in(rows), CURRENCY)


def spread_events(
    files: Iterable[pa.RecordBatch], *, work: FeaturizeWork, shards: DayShards
) -> Iterator[pa.RecordBatch]:
    """Read files of silver/events (rows of TABLE_FILES) and pack the events of these days, but those of bots, by their shards.

    Whole users are in one shard of a day; events of nobody are spread by their item. And the sessions of the days before, which are not
    counted again. Prices are in the currency of sums.
    """
    schema = pa.schema([EVENTS.schema.field(name) for name in READ])
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema):
            of_people = rows.filter(~pl.col("is_bot")).with_columns(event_date=pl.col("event_time").dt.date())
            is_wanted = pl.col("event_date").is_in(list(shards.first))
            opened = open_sessions_of(of_people).filter(is_wanted)
            yield from packed(opened, OPEN_SESSION, shards.of_rows(opened["event_date"], opened["user_key"]))
            wanted = of_people.filter(is_wanted)
            source = pl.col("source_record").str.split("/").list.first()
            events = in_shop_currency(wanted, work.rates).with_columns(has_hour=~source.is_in(work.sources_by_day))
            whole = events.select(pl.coalesce("user_key", "item_id")).to_series()
            of_day = shards.of_rows(events["event_date"], whole)
            yield from packed(events.drop("is_bot", "source_record", "currency", "event_date"), EVENT, of_day)


def write_days(parts: Iterable[pa.RecordBatch], *, work: FeaturizeWork, shards: DayShards) -> Iterator[pa.RecordBatch]:
    """Write the rows of a shard's days; those of items go on, for other shards may have some of the same day."""
    found = unpacked(parts)
    if EVENT not in found:
        return
    days = _days(found, work)
    yield from _written(days.user_items.sort("event_date", "user_key", "item_id"), DAILY, work)
    yield from _written(days.users.sort("event_date", "user_key"), USER_DAYS, work)
    pairs = interactions(
        found[EVENT],
        valid_from=work.valid_from,
        test_from=work.test_from,
        event_weights=work.event_weights,
        relevant=work.relevant,
    )
    yield from _written(pairs, INTERACTIONS, work)
    yield from packed(days.items, ITEM_DAY, shards.of_days(days.items["event_date"]))


def write_item_days(parts: Iterable[pa.RecordBatch], *, work: FeaturizeWork) -> Iterator[pa.RecordBatch]:
    """Bring the items of whole days together, and write them."""
    found = unpacked(parts)
    if ITEM_DAY in found:
        items = item_days_together(found[ITEM_DAY]).sort("event_date", "item_id")
        yield from _written(items, ITEM_DAYS, work)


def label_again(files: Iterable[pa.RecordBatch], *, work: FeaturizeWork) -> Iterator[pa.RecordBatch]:
    """Write the rows of files of gold/interactions with the splits of now."""
    for file in rows_of(files):
        for rows in table_rows(file["location"], INTERACTIONS.schema):
            split = split_of(valid_from=work.valid_from, test_from=work.test_from)
            yield from _written(rows.with_columns(split, event_date=pl.col("event_time").dt.date()), INTERACTIONS, work)


def divide_days(
    parts: Iterable[pa.RecordBatch], *, work: FeaturizeWork, moments: Sequence[datetime], num_shards: int
) -> Iterator[pa.RecordBatch]:
    """Make the rows of days that moments divide, and pack what users did by user; what happened to items is counted."""
    found = unpacked(parts)
    if EVENT in found:
        days = _days(found, work, moments)
        for rows, kind in ((days.user_items, USER_ITEM), (days.users, USER_DAY)):
            yield from packed(rows, kind, shards_by(rows["user_key"], num_shards))
        yield from packed(item_counts(since(days.items, work.first_day), as_of=work.as_of), ITEM_COUNT)


def spread_days(files: Iterable[pa.RecordBatch], *, work: FeaturizeWork, num_shards: int) -> Iterator[pa.RecordBatch]:
    """Read files of the tables of days, and pack what users did by user; what happened to items is counted."""
    for file in rows_of(files):
        kind = file["kind"]
        table, begin = {
            USER_ITEM: (DAILY, "first_at"),
            USER_DAY: (USER_DAYS, "first_event_at"),
            ITEM_DAY: (ITEM_DAYS, "first_seen_at"),
        }[kind]
        for stored in table_rows(file["location"], table.schema):
            rows = stored.with_columns(event_date=pl.col(begin).dt.date())  # a partition's value is not in its files
            if kind == ITEM_DAY:
                yield from packed(item_counts(since(rows, work.first_day), as_of=work.as_of), ITEM_COUNT)
            else:
                yield from packed(rows, kind, shards_by(rows["user_key"], num_shards))


def describe_users(parts: Iterable[pa.RecordBatch], *, work: FeaturizeWork) -> Iterator[pa.RecordBatch]:
    """Describe the users of a shard, and count them by the items that they touched.

    Writes user profiles; examples go on, for their bounds are not known yet.
    """
    found = unpacked(parts)
    if USER_DAY not in found:
        return
    none = pl.DataFrame(DAILY.schema.empty_table())
    touched, user_days = coded(found.pop(USER_ITEM, none), found.pop(USER_DAY))
    days = Days(with_tags(touched, work), user_days, pl.DataFrame())
    known = days.of_users_since(work.first_day)
    yield from packed(item_users(known.user_items, as_of=work.as_of), ITEM_COUNT)
    users = num_touching_users(known.user_items, as_of=work.as_of)
    yield from packed(pl.DataFrame({"num_users": [users]}), USERS)
    profiles = user_profiles(known, as_of=work.as_of, half_life_days=work.half_life_days, max_tags=work.max_tags)
    yield from _written(profiles, contract("gold/user_profiles"), work)
    raw = examples(days, dates=work.dates, relevant=work.relevant, history_days=work.history_days)
    yield from packed(bounds_of(raw), BOUNDS)
    yield from packed(raw, EXAMPLE)


def with_tags(user_items: pl.DataFrame, work: FeaturizeWork) -> pl.DataFrame:
    """The rows with the tags of their items: category_tags, coarse to fine, and brand_tag.

    Of the catalogue, which may be large, only the items of the shard are kept.
    """
    item_id = user_items["item_id"]
    described = _tagged(catalogue(work, item_id.unique().cast(pl.String))).with_columns(
        pl.col("item_id").cast(item_id.dtype)
    )
    return user_items.join(described, on="item_id", how="left", maintain_order="left")


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


def _days(found: Mapping[str, pl.DataFrame], work: FeaturizeWork, moments: Sequence[datetime] = ()) -> Days:
    """The rows of the days of a shard."""
    return days_of(
        found[EVENT],
        event_weights=work.event_weights,
        half_life_days=work.half_life_days,
        moments=moments,
        open_sessions=found.get(OPEN_SESSION),
    )


def _tagged(items: pl.DataFrame) -> pl.DataFrame:
    """The tags of items: each category as the path that leads to it."""
    paths = [
        None if parts is None else [f"category={'/'.join(parts[: place + 1])}" for place in range(len(parts))]
        for parts in items["category"].to_list()
    ]
    tagged = items.select(
        "item_id",
        pl.Series("category_tags", paths, dtype=pl.List(pl.String)),
        brand_tag=pl.lit("brand=") + pl.col("brand"),
    )
    tag = codes_of(tagged["category_tags"].explode(), tagged["brand_tag"])
    return tagged.with_columns(pl.col("category_tags").cast(pl.List(tag)), pl.col("brand_tag").cast(tag))


def _written(rows: pl.DataFrame, table: Table, work: FeaturizeWork) -> Iterator[pa.RecordBatch]:
    batches = rows.select(table.schema.names).to_arrow().cast(table.schema).to_batches()
    yield from write_rows(batches, lake=work.lake, table=table)
