from benchmarks import others
from benchmarks.measured import Measured, Run
from benchmarks.page import Compared, jobs_table, table


def runs(*seconds: float, gigabytes: float = 1.0, failure: str | None = None) -> list[Run]:
    """Runs that ended, cold first, and then one that failed if there is a failure."""
    ended = [Run(Measured(one, round(gigabytes * 1e9), ""), {"accepted": 7, "duplicate": 1}, (2, 3)) for one in seconds]
    return ended if failure is None else [*ended, Run(Measured(0.5, 9_000_000_000, "", failure))]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_tells_cold_and_warm_seconds_the_ratio_to_duckdb_the_slope_and_the_most_memory() -> None:
    small = {"Cartwheel": runs(9, 4, 6, 5, gigabytes=1.5), "DuckDB": runs(3, 2, 2, 2)}
    large = {"Cartwheel": runs(30, 20), "DuckDB": runs(50, 32)}
    _, _, *rows = table([1_000, 4_000], [small, large])
    assert [cells(row) for row in rows] == [
        ["1,000", "Cartwheel", "9.0", "5.0 (4.0, 6.0, 5.0)", "2.50", "", "1.5 GB"],
        ["1,000", "DuckDB", "3.0", "2.0 (2.0, 2.0, 2.0)", "1.00", "", "1.0 GB"],
        [
            "4,000",
            "Cartwheel",
            "30.0",
            "20.0",
            "0.62",
            "1.00",
            "1.0 GB",
        ],  # four times the time for four times the records
        ["4,000", "DuckDB", "50.0", "32.0", "1.00", "2.00", "1.0 GB"],
    ]


def test_a_program_that_fails_is_shown_with_its_reason_and_memory_and_the_others_as_ever() -> None:
    small = {"Cartwheel": runs(9, 4), "DuckDB": runs(failure="killed"), "Polars": runs(2, 1, failure="no | disk")}
    large = {"Cartwheel": runs(30, 16), "DuckDB": runs(8, 8), "Polars": runs(3, 2)}
    _, _, *rows = table([1_000, 4_000], [small, large])
    assert [cells(row) for row in rows] == [
        ["1,000", "Cartwheel", "9.0", "4.0", "", "", "1.0 GB"],
        ["1,000", "DuckDB", "failed: killed", "", "", "", "9.0 GB"],
        ["1,000", "Polars", "2.0", "failed: no / disk", "", "", "9.0 GB"],
        ["4,000", "Cartwheel", "30.0", "16.0", "2.00", "1.00", "1.0 GB"],
        ["4,000", "DuckDB", "8.0", "8.0", "1.00", "", "1.0 GB"],
        ["4,000", "Polars", "3.0", "2.0", "0.25", "", "1.0 GB"],
    ]


def test_runs_are_equal_when_those_that_ended_found_the_same() -> None:
    same = {"Cartwheel": runs(1, 1), "DuckDB": runs(1, failure="killed")}
    assert Compared(8, same, {}, []).are_equal
    other_bots = Run(Measured(1, 1, ""), {"accepted": 7, "duplicate": 1}, (2, 4))
    other_outcomes = Run(Measured(1, 1, ""), {"accepted": 8}, (2, 3))
    assert not Compared(8, same | {"Polars": [other_bots]}, {}, []).are_equal
    assert not Compared(8, same | {"Polars": [other_outcomes]}, {}, []).are_equal


def test_the_jobs_without_a_peer_have_their_seconds_by_size_the_slopes_and_the_memory_of_the_largest() -> None:
    small = {job: runs(10)[0] for job in others.JOBS}
    large = {"als": runs(40, gigabytes=3)[0], "recommend": runs(failure="no | memory")[0]}
    _, _, als, recommend, evaluate, *_ = jobs_table([1_000, 4_000], [small, large])
    assert cells(als) == ["als", "10.0", "40.0", "1.00", "3.0 GB"]
    assert cells(recommend) == ["recommend", "10.0", "failed: no / memory", "", "9.0 GB"]
    assert cells(evaluate) == ["evaluate", "10.0", "not run", "", ""]
