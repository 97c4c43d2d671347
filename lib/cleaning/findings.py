"""What cleaning all shards has found, gathered from their parts, and whether too many records were refused."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake.transaction import AddAction

from lib.cleaning.batches import CLOCKS, COUNTS, DAYS, FORMS, GATHERED
from lib.engines.arrow_tasks import files_of, gathered
from lib.formats.columns import locate
from lib.formats.json_lines import nested_texts
from lib.formats.mapping import LogMapping, Source
from lib.lake.lake import Lake
from lib.lake.places import filesystem_of
from lib.runs.errors import PrivateValueError
from lib.tables.bronze import IGNORED, REJECTS
from lib.tables.silver import EVENTS

Part = tuple[str, bytes]  # its kind and content (lib/engines/arrow_tasks.py)


@dataclass(frozen=True)
class Findings:
    """Counts of what became of the records, and the files that were written and are not committed yet."""

    files: Mapping[str, list[AddAction]]  # of silver/events and bronze/rejects, when they are written
    counts: list[dict[str, Any]]  # numbers of records and events by source and outcome
    forms: list[dict[str, Any]]  # how many records have values of which form, and the first and last of their files
    events_by_day: dict[date, int]
    clocks: pl.DataFrame  # source, clock, num_times

    @classmethod
    def of(cls, parts: Sequence[Part]) -> "Findings":
        """From the parts that the shards go on as."""
        counts, forms, days, clocks = (gathered(parts, kind, GATHERED) for kind in (COUNTS, FORMS, DAYS, CLOCKS))
        by_outcome = counts.group_by("source", "outcome").agg(pl.col("num_records", "num_events").sum())
        by_form = forms.group_by("source", "outcome", "form").agg(
            pl.col("num_records").sum(), pl.col("first_file").min(), pl.col("last_file").max()
        )
        return cls(
            {},
            by_outcome.sort("source", "outcome").to_dicts(),
            by_form.sort("source", "outcome", "form").to_dicts(),
            dict(days.group_by("event_date").agg(pl.col("num_events").sum()).rows()),
            clocks.group_by("source", "clock").agg(pl.col("num_times").sum()).sort("source", "clock"),
        )

    def with_files(self, parts: Sequence[Part]) -> "Findings":
        """With the files that tasks have written, and say so in parts."""
        return replace(self, files={table: files_of(parts, table) for table in (EVENTS.name, REJECTS.name)})


def require_fit_records(lake: Lake, found: Findings, mapping: LogMapping, *, max_reject_frac: float) -> None:
    """Check that not too many records of a source are malformed or hold bad values, and that some times can be read.

    Raises:
        PrivateValueError: gives the count, the limit, what to check, and the first bad value, which may identify a
            person.
    """
    counts = found.counts
    for source in sorted({row["source"] for row in counts}):
        num_records = {row["outcome"]: row["num_records"] for row in counts if row["source"] == source}
        total = sum(n for outcome, n in num_records.items() if outcome != IGNORED)
        unfit = {reason: n for reason, n in num_records.items() if n and reason.startswith(("malformed", "bad_value:"))}
        no_time = unfit.get("bad_value:event_time", 0)
        is_timeless = no_time and total == sum(
            unfit.get(reason, 0) for reason in ("malformed", "bad_value:event_type", "bad_value:event_time")
        )
        if is_timeless or sum(unfit.values()) > max_reject_frac * total:
            reason = "bad_value:event_time" if is_timeless else max(unfit, key=lambda reason: (unfit[reason], reason))
            what = f"{unfit[reason]:,} of {total:,} records of {source}"
            limit = (
                ""
                if is_timeless
                else f"; {sum(unfit.values()):,} are refused in all (limit {max_reject_frac:.3g} of them)"
            )
            message = f"{what} {_described(reason, mapping.sources[source])}{limit}; first: "
            value, place = _first_of(lake, found, source, reason, mapping)
            raise PrivateValueError(
                f"{message}{value!r} in {place}" if value is not None else message + place, recorded=message + place
            )


def _described(reason: str, source: Source) -> str:
    """What is wrong with records that were refused for this reason, and what to check."""
    _, _, field = reason.partition(":")
    if not field:
        return "could not be parsed; check the mapping's reader"
    name = source.names.get(field)
    columns = ", ".join(name.source_columns) if name else "events and ignore" if field == "event_type" else "constants"
    return f"have no valid {field}; check the mapping's {columns}"


def _first_of(lake: Lake, found: Findings, source: str, reason: str, mapping: LogMapping) -> tuple[str | None, str]:
    """The first record that was refused for this reason: its bad value, if in a single column, and its place."""
    own = [file for file in found.files[REJECTS.name] if file.partition_values["source"] == source]
    files = [f"{lake.uri(REJECTS.name)}/{file.path}" for file in own]
    filesystem, _ = filesystem_of(files[0])
    rejects = ds.dataset([filesystem_of(file)[1] for file in files], format="parquet", filesystem=filesystem)
    is_it = pc.field("reason") == reason
    order = ("source_file", pl.col("source_record").str.len_bytes(), "source_record")
    first = pl.DataFrame(schema=dict.fromkeys(("source_file", "source_record", "raw"), pl.String))
    for batch in rejects.to_batches(columns=first.columns, filter=is_it):
        first = pl.concat([first, pl.DataFrame(pa.Table.from_batches([batch]))]).sort(order).head(1)
    ((_, place, raw),) = first.rows()
    name = mapping.sources[source].names.get(reason.partition(":")[2])
    if reason == "malformed" or name is None or name.column is None:
        return None, place
    record = json.loads(raw)
    column, path = locate(tuple(record), name.column) or ("", None)
    value = record.get(column)
    return nested_texts([value], path)[0].as_py() if path else value, place
