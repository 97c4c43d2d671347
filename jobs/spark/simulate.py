"""simulate: nothing -> the raw log of a market, in `<lake>/raw/market`, and the truth about it, in `<lake>/raw/market-truth`.

Tasks write the events, each file for a range of users. The records depend on the seed, not on the number of files. The
manifest is written last: an interrupted simulation starts again from the beginning, a finished one with the same settings is
kept. Commits no table.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from lib.engines.spark import SparkRun, start_run
from lib.settings import JobSettings
from rl.market.effects import Effects, World
from rl.market.log_files import (
    LOG_FOLDER,
    TRUTH_FOLDER,
    make_folders,
    read_manifest,
    write_catalogue,
    write_events,
    write_manifest,
    write_pictures,
)
from rl.market.market import MANIFEST, NUM_ITEMS, Market
from rl.market.pictures import SIZE, draw_picture
from rl.market.products import Attributes, drawn_attributes, photographed_attributes
from rl.market.records import Dirt, DirtRates
from rl.market.visitors import Visitors

PHOTOGRAPH_SIDE = 224  # pixels
APP_FRAC = 0.1  # of the shoppers, in the full dirt: their devices stamp their events
USER_BYTES = 20_000  # of records, about


class SimulateSettings(JobSettings):
    """The market's size, and where its products come from."""

    num_users: int = Field(Market.num_users, ge=1, description="shoppers")
    num_items: int = Field(NUM_ITEMS, ge=30, description="products")
    days: int = Field(Market.days, ge=10, description="length of the log; it ends with 2026-06-30 (UTC)")
    sessions_per_user: float = Field(
        Market.sessions_per_user, gt=0, description="mean number of a shopper's visits in the log"
    )
    bots_per_user: float = Field(0.004, ge=0, le=1, description="bots per shopper")
    farmed_per_user: float = Field(
        0.003, ge=0, le=1, description="accounts of a bot farm per shopper; they lift one product"
    )
    world: World = Field(
        "plain",
        description="what moves the market as a whole: nothing (plain), or seasons, position bias, a blockbuster, prices "
        "that change and several currencies (full)",
    )
    late_sign_in_frac: float = Field(
        0.0,
        ge=0,
        le=1,
        description="part of the visits in which a shopper signs in late: a visitor's id first, then both ids. clean "
        "cleans such a log as a whole, whatever is new",
    )
    dirt: Dirt = Field(
        "full",
        description="what else is wrong with the log: nothing (none), values, duplicates and double clicks (plain), or also "
        "records sent again in other files or with other field order, broken text, reset clocks, types that nobody asks for, and devices whose clock is wrong",
    )
    seed: int = Field(Market.seed, ge=0, description="of all random numbers")
    num_files: int = Field(8, ge=1, description="files of events; the records are the same whatever their number")
    images: str | None = Field(
        None, description="folder with products.csv and images.parquet: real products in place of drawn ones"
    )


def ranges(num_users: int, num_files: int) -> pa.Table:
    """One row per file: its number, the users [first, last) whose records it holds, and about how large these are."""
    bounds = np.linspace(0, num_users, min(num_files, num_users) + 1).astype(int)
    rows = [
        {"file": number, "first": int(first), "last": int(last), "num_bytes": int(last - first) * USER_BYTES}
        for number, (first, last) in enumerate(pairwise(bounds))
    ]
    return pa.Table.from_pylist(rows)


def own_settings(settings: SimulateSettings) -> dict[str, object]:
    """The settings that are the job's own, as the manifest holds them."""
    return {name: getattr(settings, name) for name in settings.own_fields()}


def read_catalogue(settings: SimulateSettings) -> tuple[Attributes, list[bytes] | None]:
    """The products' attributes and, where the settings name a folder of photographs, each product's JPEG.

    Raises:
        ValueError: the folder lacks its files, or none of its products has a photograph.
    """
    if settings.images is None:
        return drawn_attributes(settings.seed, settings.num_items), None
    folder = Path(settings.images)
    products, pictures = folder / "products.csv", folder / "images.parquet"
    if not products.is_file() or not pictures.is_file():
        raise ValueError(f"simulate.images = {folder}: expected products.csv and images.parquet there")
    photographed = pq.read_table(pictures, columns=["id"])["id"].cast(pa.int64()).to_numpy()
    attributes = photographed_attributes(products, photographed, seed=settings.seed, num_items=settings.num_items)
    wanted = pa.array([int(item) for item in attributes.item_id])
    found = pq.read_table(pictures)
    return attributes, found.take(pc.index_in(wanted, found["id"].cast(pa.int64())))["jpg"].to_pylist()


def write_log(run: SparkRun, settings: SimulateSettings, raw: Path) -> None:
    """Write the whole log below `raw`, the manifest last."""
    attributes, photographs = read_catalogue(settings)
    market = Market(
        attributes,
        settings.seed,
        settings.num_users,
        settings.days,
        settings.sessions_per_user,
        effects=Effects.of(settings.world),
    )
    for folder in (LOG_FOLDER, TRUTH_FOLDER):
        run.lake.clear(f"raw/{folder}")  # what an earlier simulation left there
    make_folders(raw)
    write_catalogue(raw, attributes)
    if photographs is None:
        drawn = [draw_picture(attributes, item, settings.seed) for item in range(len(attributes.item_id))]
        write_pictures(raw, attributes.item_id, drawn, side=SIZE)
    else:
        write_pictures(raw, attributes.item_id, photographs, side=PHOTOGRAPH_SIDE)
    run.log("drew the catalogue", items=len(attributes.item_id))
    visitors = Visitors(
        settings.bots_per_user,
        settings.farmed_per_user,
        APP_FRAC if settings.dirt == "full" else 0.0,
        settings.late_sign_in_frac,
    )
    rates = DirtRates.of(settings.dirt)
    work = {"market": market, "rates": rates, "visitors": visitors, "raw": raw, "keep": run.lake.keep}
    files = ranges(settings.num_users, settings.num_files)
    tasks = run.engine.over(files, task_bytes=pc.max(files["num_bytes"]).as_py())
    written = [json.loads(content) for _, content in tasks.then(write_events, **work).collected()]
    records, dirty = (sum(file[name] for file in written) for name in ("num_records", "num_dirty"))
    run.log("wrote the log", files=len(written), records=records, dirty=dirty)
    run.lake.keep(raw)
    write_manifest(raw, {"simulate": own_settings(settings), "market": market.settings})
    run.lake.keep(raw)


def main(settings: SimulateSettings) -> None:
    with start_run("simulate", settings) as run:
        raw = run.lake.folder / "raw"
        run.lake.local(f"raw/{LOG_FOLDER}/{MANIFEST}")
        manifest = read_manifest(raw)
        if manifest is not None and manifest["simulate"] == own_settings(settings):
            run.log("the log is there already")
        else:
            write_log(run, settings, raw)


if __name__ == "__main__":
    main(SimulateSettings.from_command_line())
