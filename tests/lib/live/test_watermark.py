"""The watermark: behind the partition that is furthest behind, the same for a batch that is made again."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from lib.lake.lake import Lake
from lib.live.watermark import KEPT, Clocks, clocks_after, keep_clocks

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_the_watermark_lies_behind_the_partition_that_is_furthest_behind() -> None:
    clocks = Clocks().after({"t/0": NOON, "t/1": NOON - HOUR})
    assert clocks.watermark(HOUR) == NOON - 2 * HOUR
    assert Clocks().watermark(HOUR) is None


def test_a_clock_never_goes_back_and_one_that_tells_nothing_stays() -> None:
    clocks = Clocks().after({"t/0": NOON, "t/1": NOON}).after({"t/0": NOON - HOUR})
    assert clocks.latest == {"t/0": NOON, "t/1": NOON}


def test_clocks_are_kept_for_each_batch_and_those_of_long_before_are_forgotten(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    assert clocks_after(lake, "live/clocks", -1) == Clocks()
    for batch in range(KEPT + 2):
        keep_clocks(lake, "live/clocks", batch, Clocks({"t/0": NOON + batch * HOUR}))
    assert clocks_after(lake, "live/clocks", KEPT) == Clocks({"t/0": NOON + KEPT * HOUR})
    assert len([*(tmp_path / "live/clocks").iterdir()]) == KEPT
