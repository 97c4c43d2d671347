"""The peers: they find in the market's log what Cartwheel finds, run our versions, and one that fails does not stop the rest."""

import gzip
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from benchmarks import clean, clean_polars, peers
from benchmarks.__main__ import run_each
from benchmarks.measured import Measured, Run, measure
from lib.cleaning.shard import CleanShard, clean_events
from lib.cleaning.thresholds import Thresholds
from lib.formats.log_files import LogFile
from lib.formats.mapping import load_mapping
from lib.formats.reading import Reading
from lib.pipeline import ROOT
from rl.market.market import Market
from rl.market.records import NUM_PLAIN, DirtRates, records
from rl.market.visitors import Visitors

NUM_USERS = 40
OUTCOMES = {
    *("accepted", "duplicate", "double_click", "bad_value:event_time", "bad_value:event_type", "bad_value:item_id"),
    *("bad_value:price", "bad_value:quantity"),
}
SHARED_COLUMNS = ("event_time", "event_type", "item_id", "price", "quantity", "request_id", "position", "is_bot")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a small market with a good deal of all the dirt that the peers tell, and bots."""
    folder = tmp_path_factory.mktemp("market")
    (folder / "events").mkdir()
    rates = DirtRates(
        *[0.03] * NUM_PLAIN, **dict.fromkeys(("resent", "rewritten", "broken_text"), 0.0), clock_reset=0.0, removed=0.0
    )
    made = records(Market.generate(num_users=NUM_USERS), 0, NUM_USERS, rates, Visitors(0.05, 0))
    for name, some in (("a", made[::2]), ("b", made[1::2])):
        (folder / "events" / f"{name}.jsonl.gz").write_bytes(
            gzip.compress("".join(f"{one.line}\n" for one in some).encode())
        )
    return folder


@pytest.fixture(scope="module")
def ours(log: Path) -> CleanShard:
    """The same log as Cartwheel's own functions read and clean it."""
    mapping, frames = load_mapping("market"), list[pl.DataFrame]()
    for file in sorted((log / "events").iterdir()):
        found = LogFile(str(file), f"events/{file.name}", file.stat().st_size, "events")
        read = [pl.DataFrame(batch) for batch in Reading(found, mapping.sources["events"])]
        frames.append(pl.concat(read, how="diagonal").with_columns(source_file=pl.lit(found.path)))
    received = pl.concat(frames, how="diagonal").with_columns(
        source_file_sha256=pl.lit("0"), batch_id=pl.lit("1"), arrived_at=pl.lit(datetime(2026, 7, 2, tzinfo=UTC))
    )
    return clean_events({"events": received}, mapping, Thresholds(), b"the key of a test")


@pytest.mark.parametrize("program", [clean.POLARS, clean.YARDSTICK], ids=lambda program: program.stem)
def test_a_peer_finds_the_outcomes_bots_and_sessions_that_cartwheel_finds(
    program: Path, log: Path, ours: CleanShard, tmp_path: Path
) -> None:
    if not program.is_file():
        pytest.skip(f"{program.name} is absent beside the checkout")
    found = clean.peer(program, log, tmp_path / "out", sys.executable)
    counts = dict(ours.counts.select("outcome", "num_records").iter_rows())
    assert set(counts) == OUTCOMES
    assert found.outcomes == counts
    assert ours.events is not None
    sessions = ours.events["session_id"].drop_nulls().n_unique()
    assert found.bots_and_sessions == (ours.events["is_bot"].sum(), sessions)
    assert min(found.bots_and_sessions) > 0
    assert found.stages
    assert found.measured.seconds > sum(found.stages.values())


def test_polars_writes_our_events_however_it_splits_the_users(
    log: Path, ours: CleanShard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clean_polars, "PART_BYTES", 20_000)
    clean_polars.main(log / "events", tmp_path)
    assert len(list((tmp_path / "silver").iterdir())) > 3
    assert ours.events is not None
    written, expected = (
        frame.select(SHARED_COLUMNS).with_columns(pl.col("price").cast(pl.Float64)).sort(pl.all())
        for frame in (pl.read_parquet(tmp_path / "silver"), ours.events)
    )
    assert written.equals(expected)
    as_received = pl.read_parquet(tmp_path / "bronze" / "*" / "*.parquet")
    assert as_received.height == ours.counts["num_records"].sum()


def test_a_peer_that_fails_is_not_run_again_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    def fail() -> Run:
        return Run(measure([sys.executable, "-c", "raise MemoryError('no more')"]))

    runs: dict[str, list[Run]] = {"Cartwheel": [], "DuckDB": [], "Polars": []}
    programs = {"Cartwheel": lambda: Run(Measured(1, 1, "")), "DuckDB": fail, "Polars": lambda: Run(Measured(1, 1, ""))}
    for _ in range(2):
        run_each(programs, runs, reads=tmp_path)
    assert {name: [run.measured.failure for run in some] for name, some in runs.items()} == {
        "Cartwheel": [None, None],
        "DuckDB": ["MemoryError: no more"],
        "Polars": [None, None],
    }


def test_the_peers_have_our_versions() -> None:
    ours, theirs = (
        {line.split()[0] for line in path.read_text().splitlines() if "==" in line and not line.startswith("#")}
        for path in (ROOT / "requirements.lock", peers.REQUIREMENTS)
    )
    assert {pin.partition("==")[0] for pin in theirs} >= {"duckdb", "polars"}
    assert theirs <= ours
