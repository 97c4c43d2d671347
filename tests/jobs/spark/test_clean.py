"""The clean job on small logs, after ingest: silver by hand, what stops it, and that nobody's id gets out of bronze."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lib.lake import Lake
from lib.pseudonyms import load_key, pseudonyms
from lib.settings import PrivacySettings
from lib.tables import contract

ROOT = Path(__file__).parents[3]
MAPPING = """
name: own
currency: EUR
sources:
  lines:
    files: "lines/*.csv"
    names: {user_id: user, item_id: item, event_time: time, price: price, title: title}
    events: [{type: {column: what}}]
  carts:
    files: "carts/*.csv"
    names: {user_id: user.id, item_id: item, event_time: at}
    time_format: epoch_seconds
    events: [{type: cart}]
  products:
    kind: items
    files: "products/*.csv"
    names: {item_id: item, title: title, brand: brand}
  images:
    kind: images
    files: "images/*.parquet"
    reader: {type: parquet}
    names: {item_id: id, bytes: jpg}
"""
HEADER = "user,item,time,price,title,what"
LINES = [
    "ann@shop,i1,2024-01-01 12:00:00,2.50,Lamp,view",
    "ann@shop,i1,2024-01-01 12:00:01,2.50,Lamp,view",
    "ann@shop,i2,2024-01-01 12:10:00,3.00,Mug,purchase",
    "ann@shop,i2,2024-01-01 12:10:00,3.00,Mug,purchase",
    "bob@shop,i1,2024-01-02 09:00:00,2.75,Red lamp,view",
    ",i2,2024-01-02 10:00:00,,,view",
    ",i2,2024-01-02 10:00:01,,,view",
    "bob@shop,i3,soon,1,Hat,view",
    "bob@shop,i3,2024-01-02 10:00:00,1,Hat,hover",
    "bob@shop;i3",
]


class Shop:
    """A log folder, a mapping of it and a lake; `ingest` and `clean` run the jobs on them."""

    def __init__(self, folder: Path, load_job: Callable[[str], ModuleType]) -> None:
        self.folder, self.log, self.mapping = folder, folder / "log", folder / "own.yaml"
        self.jobs = {name: load_job(f"spark/{name}") for name in ("ingest", "clean")}
        self.lake = Lake(str(folder / "lake"))
        self.mapping.write_text(MAPPING)

    def put(self, name: str, *lines: str) -> None:
        path = self.log / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")

    def run(self, name: str, **settings: Any) -> None:
        job = self.jobs[name]
        places = {"lake": {"path": self.lake.path}, "log": {"path": str(self.log), "format": str(self.mapping)}}
        class_ = getattr(job, f"{name.title()}Settings")
        job.main(class_(**{**places, "cluster": {"driver_memory": "1g"}, **settings}))

    def ingest(self) -> None:
        self.run("ingest")

    def clean(self, **settings: Any) -> None:
        self.run("clean", **{"max_reject_frac": 0.5, **settings})

    def key_of(self, user: str) -> str:
        key = load_key(PrivacySettings(), self.lake.path)
        return str(pseudonyms(pa_series(user), key)[0])

    def read(self, table: str, *columns: str) -> list[dict[str, Any]]:
        """The table's content by key, or some columns of it."""
        names = columns or contract(table).content_columns
        rows = self.lake.dataset(table).to_table(columns=list(names)).to_pylist()
        return sorted(rows, key=lambda row: [str(row[name]) for name in (*contract(table).key, *names) if name in row])

    def versions(self) -> dict[str, int]:
        return {table: self.lake.open(table).version() for table in self.lake.tables() if not table.startswith("ops/")}


def pa_series(*texts: str):
    import polars as pl

    return pl.Series(texts)


@pytest.fixture
def shop(tmp_path: Path, load_job: Callable[[str], ModuleType]) -> Shop:
    return Shop(tmp_path, load_job)
