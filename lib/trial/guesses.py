"""Guesses what the columns of an unknown file mean: by their names, and by what they hold."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from lib.formats.rules import EventType
from lib.formats.times import UNITS, parse_time

# Our column -> the names, in lower case and without signs, under which logs have it; the likeliest first.
NAMES: dict[str, tuple[str, ...]] = {
    "event_time": (
        *("eventtime", "eventtimestamp", "timestamp", "datetime", "time", "ts", "createdat", "occurredat"),
        *("invoicedate", "orderdate", "purchasedate", "orderedat", "servertime", "date", "eventdate", "at"),
    ),
    "event_type": (
        *("eventtype", "eventname", "event", "behaviortype", "behaviourtype", "behavior", "behaviour", "action"),
        *("actiontype", "type"),
    ),
    "user_id": (
        *("userid", "customerid", "visitorid", "userpseudoid", "clientid", "memberid", "buyerid", "accountid"),
        *("user", "customer", "visitor", "uid", "cid", "anonymousid", "sessionid", "usersession", "session"),
    ),
    "item_id": (
        *("itemid", "productid", "articleid", "skuid", "sku", "stockcode", "goodsid", "movieid", "variantid", "asin"),
        *("item", "product", "article", "aid", "goods", "id"),
    ),
    "order_id": ("orderid", "transactionid", "invoiceno", "invoiceid", "receiptid", "basketid", "order", "invoice"),
    "quantity": ("quantity", "qty", "units", "amountofitems"),
    "price": ("price", "unitprice", "itemprice", "saleprice", "productprice"),
    "currency": ("currency", "currencycode"),
    "rating": ("rating", "stars", "score"),
    "title": ("title", "itemname", "productname", "productdisplayname", "producttitle", "name", "description"),
    "brand": ("brand", "itembrand", "manufacturer", "vendor"),
    "category": ("categorycode", "category", "itemcategory", "genres", "mastercategory", "department", "categoryid"),
    "image_uri": ("imageurl", "imageuri", "image", "pictureurl"),
}
# Names of types of events, in lower case and without signs -> ours.
TYPES: dict[EventType, tuple[str, ...]] = {
    "impression": ("impression", "impressions", "show", "shown", "exposure", "viewitemlist"),
    "view": (
        *("view", "views", "click", "clicks", "pv", "pageview", "detail", "viewitem", "selectitem", "productview"),
        *("visit", "productdetail"),
    ),
    "cart": ("cart", "carts", "addtocart", "addtobasket", "basket", "atc", "add"),
    "favourite": ("fav", "favourite", "favorite", "wishlist", "like", "addtowishlist", "save", "collect"),
    "purchase": (
        "purchase",
        "purchased",
        "buy",
        "bought",
        "order",
        "orders",
        "ordered",
        "transaction",
        "sale",
        "checkout",
    ),
    "return": ("return", "returned", "refund", "refunded"),
    "rating": ("rating", "rate", "rated", "review"),
}
NOBODY = ("\\N", "NULL", "null", "None", "NaN", "nan", "n/a", "N/A", "-", "undefined", "(not set)")
# Patterns of times, those with the day first before those with the month first.
PATTERNS = tuple(
    f"{day}{time}"
    for day in (
        "%d.%m.%Y",
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%d-%m-%Y",
        "%Y/%m/%d",
        "%Y%m%d",
        "%d %b %Y",
        "%d/%b/%Y",
        "%b %d, %Y",
    )
    for time in (" %H:%M:%S", " %H:%M", ":%H:%M:%S", ":%H:%M:%S %z", "")
)
ENOUGH = 0.98  # of a column's values that must be what it is taken for
MOST_TYPES = 60
LEAST_EPOCH, MOST_EPOCH = 631_152_000, 4_102_444_800  # seconds: from 1990 to 2100
NUMBER, WHOLE = r"^[-+]?[\d.,'\s]*\d[\d.,'\s]*$", r"^[-+]?\d+$"


class Column(NamedTuple):
    """A column as received: its name, and its values that are not blank, in their order."""

    name: str
    values: pl.Series
    num_rows: int

    @property
    def is_whole(self) -> bool:
        return _share(self.values, WHOLE) >= ENOUGH

    @property
    def is_number(self) -> bool:
        return _share(self.values, NUMBER) >= ENOUGH


def fields_of(columns: Sequence[Column]) -> dict[str, Column]:
    """Our columns (and event_type) -> the columns that seem to hold them, each used once."""
    left, found = list(columns), dict[str, Column]()
    for field in NAMES:
        column = _by_name(field, left) or _by_content(field, left, found)
        if column is not None:
            found[field] = column
            left.remove(column)
    return found


def time_format_of(values: pl.Series) -> str | None:
    """The time format by which the values are times; None if they are none."""
    texts = values.head(2000)
    if texts.is_empty():
        return None
    if _share(texts, r"^\d{9,20}(\.\d+)?$") == 1:
        numbers = texts.cast(pl.Float64)
        for word, per_second in UNITS.items():
            if ((numbers / per_second).is_between(LEAST_EPOCH, MOST_EPOCH)).all():
                return word
    return next((pattern for pattern in ("iso", *PATTERNS) if _parse(texts, pattern)), None)


def may_be_month_first(values: pl.Series, time_format: str) -> bool:
    """Whether times that are read with the day first could be read with the month first as well."""
    swapped = time_format.replace("%d", "%D").replace("%m", "%d").replace("%D", "%m")
    return time_format.startswith(("%d/", "%d-", "%d.")) and _parse(values.head(2000), swapped)


def types_of(values: pl.Series) -> dict[str, EventType | None]:
    """What each text of a column of types means, by how often it occurs; None for one that is not known."""
    counted = values.value_counts(sort=True)[values.name]
    return {text: known_type(text) for text in counted}


def known_type(text: str) -> EventType | None:
    """The type of event that a text names; None if it is not known."""
    return next((kind for kind, names in TYPES.items() if plain(text) in names), None)


def nobody_in(columns: Iterable[Column]) -> list[str]:
    """The texts in some of the columns that stand for an unknown value."""
    held = {text for column in columns for text in column.values.filter(column.values.is_in(NOBODY)).unique()}
    return [text for text in NOBODY if text in held]


def plain(name: str) -> str:
    """A name in lower case and without signs."""
    return re.sub(r"[\W_]", "", name).lower()


def flattened(columns: Sequence[Column]) -> tuple[list[Column], str | None]:
    """The columns, with the keys of JSON objects in them as columns of their own; and the array of objects to explode."""
    found, array = list[Column](), None
    for column in columns:
        texts = column.values
        if _share(texts, r"^\{") == 1 and len(texts):
            found += _keys(column.name, [json.loads(text) for text in texts], column.num_rows)
        elif array is None and _share(texts, r"^\[\s*(\{|\]$)") == 1 and _share(texts, r"^\[\s*\{") > 0:
            array = column.name
            found += _keys(column.name, [element for text in texts for element in json.loads(text)], column.num_rows)
        else:
            found.append(column)
    return found, array


def _keys(name: str, objects: Sequence[Mapping[str, object]], num_rows: int) -> list[Column]:
    keys = dict.fromkeys(key for value in objects for key in value)
    return [
        Column(f"{name}.{key}", _texts(f"{name}.{key}", (value.get(key) for value in objects)), num_rows)
        for key in keys
    ]


def _texts(name: str, values: Iterable[object]) -> pl.Series:
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values if value not in (None, "")]
    return pl.Series(name, texts, dtype=pl.String)


def _by_name(field: str, columns: Sequence[Column]) -> Column | None:
    """The column whose name, or its last part, is the likeliest of those that are known, and that can hold the field."""
    fits = FITS.get(field)
    for name in NAMES[field]:
        whole = [column for column in columns if plain(column.name) == name]
        last = [column for column in columns if plain(column.name.rpartition(".")[2]) == name]
        for column in (*whole, *last):
            if len(column.values) and (fits is None or fits(column)):
                return column
    return None


def _by_content(field: str, columns: Sequence[Column], found: Mapping[str, Column]) -> Column | None:
    """A column that holds what only this field holds; users and then items by their places, as nothing tells them."""
    if field == "event_time":
        return next((column for column in columns if _is_time(column)), None)
    if field == "event_type":
        return next((column for column in columns if _is_type(column) and any(types_of(column.values).values())), None)
    are_unnamed = all(re.fullmatch(r"column_\d+", column.name) for column in columns)
    if field in ("user_id", "item_id") and are_unnamed:
        return next((column for column in columns if column.values.n_unique() > 1), None)
    return None


def _is_time(column: Column) -> bool:
    return time_format_of(column.values) is not None


def _is_type(column: Column) -> bool:
    return column.values.n_unique() <= MOST_TYPES and not column.is_number


FITS: dict[str, Callable[[Column], bool]] = {
    "event_time": _is_time,
    "event_type": _is_type,
    "quantity": lambda column: column.is_whole,
    "price": lambda column: column.is_number,
    "rating": lambda column: column.is_number,
}


def _parse(texts: pl.Series, time_format: str) -> bool:
    try:
        times = texts.to_frame("text").select(parse_time(pl.col("text"), time_format, "UTC")).to_series()
    except pl.exceptions.PolarsError:
        return False
    return len(times) - times.null_count() >= ENOUGH * len(times)


def _share(texts: pl.Series, regex: str) -> float:
    return float(texts.str.contains(regex).mean() or 0.0)  # type: ignore[arg-type]
