"""How far the live log has come: the latest event time of each partition, and the watermark behind which events are late."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lib.lake.lake import Lake
from lib.lake.places import filesystem_of

KEPT = 20  # batches whose clocks stay


@dataclass(frozen=True)
class Clocks:
    """The latest time that each partition of the log has told; a partition that has told none is not waited for."""

    latest: Mapping[str, datetime] = field(default_factory=dict)

    def after(self, told: Mapping[str, datetime]) -> "Clocks":
        """The clocks after a batch, of which each partition told a time; no clock goes back."""
        return Clocks({**self.latest, **{name: max(time, self.latest.get(name, time)) for name, time in told.items()}})

    def watermark(self, delay: timedelta) -> datetime | None:
        """What lies before it is late: `delay` before the time of the partition that is furthest behind; None at first."""
        return min(self.latest.values()) - delay if self.latest else None


def clocks_after(lake: Lake, folder: str, batch: int) -> Clocks:
    """The clocks after a batch of the stream whose clocks lie in a folder below the lake; those of no batch before the first.

    So a batch that is made again has the same watermark.
    """
    if batch < 0:
        return Clocks()
    filesystem, path = filesystem_of(lake.uri(_name(folder, batch)))
    with filesystem.open_input_stream(path) as stream:
        stored = json.loads(stream.read())
    return Clocks({name: datetime.fromisoformat(time) for name, time in stored.items()})


def keep_clocks(lake: Lake, folder: str, batch: int, clocks: Clocks) -> None:
    """Keep the clocks after a batch, and forget those of long before."""
    told = {name: time.isoformat() for name, time in clocks.latest.items()}
    lake.write_text(_name(folder, batch), json.dumps(told, sort_keys=True))
    filesystem, path = filesystem_of(lake.uri(_name(folder, batch - KEPT)))
    if filesystem.get_file_info(path).is_file:
        filesystem.delete_file(path)


def _name(folder: str, batch: int) -> str:
    return f"{folder}/{batch:012d}.json"
