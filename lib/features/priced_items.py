"""The catalogue's items with what a policy sees of them."""

import polars as pl

from lib.features.prices import currencies_in, in_shop_currency
from lib.formats.money import has_several, rates_of
from lib.runs.run import Run
from lib.tables import contract


def priced_items(run: Run, table: str) -> pl.DataFrame:
    """item_id, category, brand and price, in one currency, of silver/items, which is the table; no rows where the log describes no item."""
    columns = ["item_id", "category", "brand", "price", "currency"]
    if not run.has(table):
        return pl.DataFrame(contract(table).schema.empty_table().select(columns)).drop("currency")
    items = pl.DataFrame(run.read_arrow(table, columns))
    found = {*currencies_in(items)["currency"]} if has_several(run.mapping) else {run.mapping.currency}
    return in_shop_currency(items, rates_of(run.mapping, found)).select(columns[:-1])
