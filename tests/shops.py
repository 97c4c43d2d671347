"""A small shop for tests: a log folder, a mapping and a lake, on which jobs run as `cartwheel run` runs them."""

import io
import shutil
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from lib.cli.jobs import load_job, names_between, plan
from lib.cli.walk import JobError, walk
from lib.lake.lake import Lake
from lib.pipeline import JOBS


class Told(NamedTuple):
    """How a walk ended: its exit code (1 if a job ended with an error), and every line that a person saw."""

    code: int
    text: str


class Shop:
    """A log folder, a mapping of it and a lake below one folder."""

    def __init__(self, folder: Path, mapping: str = "", log: str = "log") -> None:
        self.folder, self.log, self.mapping = folder, folder / log, folder / "map.yaml"
        self.lake = Lake(str(folder / "lake"))
        self.log.mkdir(parents=True, exist_ok=True)
        if mapping:
            self.mapping.write_text(mapping)

    @classmethod
    def with_key(cls, folder: Path, mapping: str) -> "Shop":
        """A shop in a new folder, with the same pseudonyms as any other that is made so."""
        folder.mkdir()
        (folder / "lake.key").write_text("0123456789abcdef")
        return cls(folder, mapping)

    @classmethod
    def of_case(cls, case: Path, folder: Path, mapping: str | None = None) -> "Shop":
        """A case of ../shared/faults, copied, with its own mapping or the text of another."""
        shutil.copytree(case, folder / "case")
        shop = cls(folder / "case")
        if mapping is not None:
            shop.mapping.write_text(mapping)
        return shop

    def put(self, name: str, content: bytes | str) -> None:
        """Write a file of the log."""
        path = self.log / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def run(
        self,
        *flags: str,
        first: str = "ingest",
        last: str = "clean",
        log: Path | None = None,
        format: str | None = None,
    ) -> Told:
        """Run the jobs from `first` to `last`; `flags` are settings such as `--clean.max-reject-frac=1`."""
        places = ["--lake.path", self.lake.path, "--log.path", str(log or self.log)]
        places += ["--log.format", format or str(self.mapping), "--cluster.driver-memory=1g"]
        said = io.StringIO()
        with redirect_stdout(said):
            try:
                code = walk(plan(names_between(first, last), [*places, *flags]), self.lake, print)
            except (JobError, ValueError) as error:
                print(error)
                code = 1
        return Told(code, said.getvalue())

    def run_job(self, name: str, **settings: Any) -> int:
        """Run one job by its `main`; returns its exit code. An error of the job is the caller's."""
        job = load_job(JOBS[name])
        places = {"lake": {"path": self.lake.path}, "log": {"path": str(self.log), "format": str(self.mapping)}}
        given = {**places, "cluster": {"driver_memory": "1g"}, **settings}
        try:
            job.main(getattr(job, f"{name.title()}Settings")(**given))
        except SystemExit as end:
            assert isinstance(end.code, int)
            return end.code
        return 0

    def read(self, table: str, *columns: str) -> list[dict[str, Any]]:
        """The table's rows; none where there is no table."""
        return self.table(table, *columns).to_pylist() if self.lake.exists(table) else []

    def table(self, table: str, *columns: str) -> pa.Table:
        """The table's content as Arrow."""
        return self.lake.dataset(table).to_table(columns=list(columns) or None)

    def content(self, table: str, *, but_stage: str | None = None) -> list[str]:
        """The rows of a table without what says how they came, as text, but those of a stage; none where there is no table."""
        rows = self.read(table)
        kept = [row for row in rows if but_stage is None or row.get("stage") != but_stage]
        return sorted(str({name: row[name] for name in row if name not in ("batch_id", "arrived_at")}) for row in kept)

    def versions(self) -> dict[str, int]:
        """The version of each table but those of ops."""
        return {table: self.lake.open(table).version() for table in self.lake.tables() if not table.startswith("ops/")}

    def reasons(self) -> Counter[str]:
        """How many records (or files) were refused, by reason."""
        return Counter(row["reason"] for row in self.read("bronze/rejects", "reason"))
