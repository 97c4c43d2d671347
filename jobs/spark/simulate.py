"""simulate: nothing -> the raw log of a market with known truth, in `<lake>/raw/market`, and its truth beside it.

Made by the executors, a file of events a range of users; the same multiset of records for a seed whatever the number of
files. The manifest is written last: an interrupted simulation is made again whole, a finished one with the same settings is
kept. Commits no table.
"""

import json
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field
from pyspark.sql import DataFrame, SparkSession

from lib.engines.spark import SparkRun, start_run
from lib.settings import JobSettings
from rl.market.log_files import LOG_FOLDER, TRUTH_FOLDER, WRITTEN, write_events
from rl.market.market import CATALOGUE_FILE, MANIFEST, Market
from rl.market.pictures import SIZE, draw_picture
from rl.market.products import COLUMNS, Attributes, drawn_attributes, photographed_attributes


class SimulateSettings(JobSettings):
    """The market's size, and where its products come from."""

    num_users: int = Field(8000, ge=1, description="shoppers")
    num_items: int = Field(800, ge=30, description="products")
    days: int = Field(45, ge=10, description="length of the log; it ends with 2026-06-30 (UTC)")
    sessions_per_user: float = Field(11.0, gt=0, description="mean number of visits of a shopper in the log")
    bots_per_user: float = Field(0.004, ge=0, le=1, description="machines among the users, as a share")
    seed: int = Field(0, ge=0, description="of everything that is drawn")
    num_files: int = Field(8, ge=1, description="files of events; the records are the same whatever their number")
    images: str | None = Field(
        None, description="folder with products.csv and images.parquet, the catalogue in place of a drawn one"
    )


def catalogue(settings: SimulateSettings) -> tuple[Attributes, pa.Table | None]:
    """The products' attributes, and their photographs where the settings name a folder of such.

    Raises:
        ValueError: the folder lacks its files, or holds fewer photographed products than asked for.
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
    return attributes, found.take(pc.index_in(wanted, found["id"].cast(pa.int64())))


def ranges(spark: SparkSession, num_users: int, num_files: int) -> DataFrame:
    """One row a file: number and the users [first, last) whose records it holds; a partition each."""
    bounds = np.linspace(0, num_users, min(num_files, num_users) + 1).astype(int)
    rows = [(i, int(first), int(last)) for i, (first, last) in enumerate(pairwise(bounds))]
    return spark.createDataFrame(rows, "file int, first int, last int").repartitionByRange(len(rows), "file")


def write_catalogue(raw: Path, attributes: Attributes, photographs: pa.Table | None, seed: int) -> None:
    """The products as CSV, their pictures as Parquet."""
    lines = [",".join(COLUMNS), *(",".join(_quoted(cell) for cell in row) for row in attributes.rows())]
    (raw / LOG_FOLDER / CATALOGUE_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    num_items = len(attributes.item_id)
    if photographs is None:
        pictures, size = [draw_picture(attributes, item, seed) for item in range(num_items)], SIZE
    else:
        pictures, size = photographs["jpg"].to_pylist(), 224
    sides = pa.array([size] * num_items, pa.int32())
    table = pa.table(
        {"item_id": list(attributes.item_id), "bytes": pa.array(pictures, pa.binary()), "width": sides, "height": sides}
    )
    pq.write_table(table, raw / LOG_FOLDER / "images" / "images.parquet")


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',"\n') else cell


def simulate(run: SparkRun, settings: SimulateSettings, raw: Path) -> None:
    """Write the whole log, the manifest last."""
    attributes, photographs = catalogue(settings)
    market = Market(attributes, settings.seed, settings.num_users, settings.days, settings.sessions_per_user)
    for folder in (LOG_FOLDER, TRUTH_FOLDER):
        shutil.rmtree(raw / folder, ignore_errors=True)
    for folder in ("market/events", "market/items", "market/images", TRUTH_FOLDER):
        (raw / folder).mkdir(parents=True)
    write_catalogue(raw, attributes, photographs, settings.seed)
    run.log("drew the catalogue", items=len(attributes.item_id))
    write = partial(write_events, market=market, bots_per_user=settings.bots_per_user, raw=raw)
    users = ranges(run.spark, settings.num_users, settings.num_files)
    written = users.mapInArrow(write, WRITTEN).toArrow()
    run.log(
        "wrote the log",
        files=written.num_rows,
        records=sum(written["num_records"].to_pylist()),
        dirty=sum(written["num_dirty"].to_pylist()),
    )
    manifest = {"simulate": _own(settings), "market": market.settings}
    part = raw / LOG_FOLDER / f"{MANIFEST}.part"
    part.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    part.replace(raw / LOG_FOLDER / MANIFEST)


def main(settings: SimulateSettings) -> None:
    with start_run("simulate", settings) as run:
        raw = run.lake.folder / "raw"
        manifest = raw / LOG_FOLDER / MANIFEST
        if manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8"))["simulate"] == _own(settings):
            run.log("the log is there already")
        else:
            simulate(run, settings, raw)


def _own(settings: SimulateSettings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.own_fields()}


if __name__ == "__main__":
    main(SimulateSettings.from_command_line())
