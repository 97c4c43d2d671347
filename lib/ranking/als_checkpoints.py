"""Checkpoints of a fit of als between sweeps: each task's factors as a file in the lake, complete where all tasks have left theirs.

A fit that is begun again goes on from the last complete one, with however many tasks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs

from lib.lake.places import filesystem_of, is_address, names_in
from lib.ranking.als_factors import Factors, factors_of, vectors_array

NAME = re.compile(r"(\d+)-of-(\d+)\.arrow")
CONTENT = pa.schema([("kind", pa.string()), ("id", pa.string()), ("values", pa.list_(pa.float32()))])
Sides = Sequence[tuple[str, pa.Array, Factors]]  # the kind, ids and factors (ids, rank) of users and of items


@dataclass(frozen=True)
class Checkpoints:
    """Those of one fit, below a folder or an address of its own."""

    location: str
    every: int  # sweeps; 0: none are left

    def is_due(self, sweep: int) -> bool:
        """Whether one is left after that many sweeps."""
        return self.every > 0 and sweep % self.every == 0

    def last_complete(self) -> int:
        """After how many sweeps the last complete one was left; 0 where there is none."""
        sweeps = sorted((int(name) for name in names_in(self.location) if name.isdigit()), reverse=True)
        return next((sweep for sweep in sweeps if self._complete(sweep)), 0)

    def leave(self, sweep: int, sides: Sides, *, rank: int, size: int) -> None:
        """Leave the factors of one task of `size`, the one of this `rank`; a file counts once it is whole."""
        filesystem, folder = filesystem_of(f"{self.location}/{sweep:06d}")
        if not is_address(self.location):  # a store has no folders
            filesystem.create_dir(folder, recursive=True)
        name, unfinished = f"{folder}/{rank}-of-{size}.arrow", f"{folder}/unfinished-{rank}-of-{size}"
        target = name if is_address(self.location) else unfinished  # a store shows only whole files
        with filesystem.open_output_stream(target) as stream, pa.ipc.new_stream(stream, CONTENT) as writer:
            for kind, ids, factors in sides:
                columns = [pa.repeat(kind, len(ids)), ids.cast(pa.string()), vectors_array(factors)]
                writer.write_table(pa.table(columns, schema=CONTENT), max_chunksize=1 << 16)
        if target != name:
            filesystem.move(unfinished, name)

    def restored(self, sweep: int, sides: Sides, *, rank: int, size: int) -> list[Factors] | None:
        """The factors of these sides after that many sweeps; None where the checkpoint does not hold all of them."""
        names = self._complete(sweep)
        own = f"{rank}-of-{size}.arrow"
        filesystem, folder = filesystem_of(f"{self.location}/{sweep:06d}")
        tables = [_read(filesystem, f"{folder}/{name}") for name in ([own] if own in names else names)]
        held = pl.concat([pl.DataFrame(table) for table in tables]) if tables else pl.DataFrame(schema=CONTENT.names)
        found = []
        for kind, ids, factors in sides:
            known = factors_of(held.filter(pl.col("kind") == kind), ids, factors.shape[1])
            if known is None or len(known[0]) != len(ids):
                return None
            found.append(known[1])
        return found

    def _complete(self, sweep: int) -> list[str]:
        """The files of a checkpoint, all those of one number of tasks; none where it is not complete."""
        by_size: dict[int, list[str]] = {}
        for name in names_in(f"{self.location}/{sweep:06d}"):
            if matched := NAME.fullmatch(name):
                by_size.setdefault(int(matched[2]), []).append(name)
        return next((names for size, names in sorted(by_size.items()) if len(names) == size), [])


def _read(filesystem: pafs.FileSystem, path: str) -> pa.Table:
    with filesystem.open_input_stream(path) as stream, pa.ipc.open_stream(stream) as reader:
        return reader.read_all()
