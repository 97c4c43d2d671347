import sys

import pytest

from benchmarks.measured import ProgramError, measure


def failed(code: str) -> ProgramError:
    with pytest.raises(ProgramError) as caught:
        measure([sys.executable, "-c", code])
    return caught.value


def test_a_failure_tells_its_error_and_the_memory_up_to_then() -> None:
    held = "import time; held = bytearray(60_000_000); time.sleep(0.6); raise MemoryError('no more')"
    measured = failed(held).measured
    assert measured.failure == "MemoryError: no more"
    assert measured.peak_bytes > 60_000_000
    assert measured.seconds > 0.6


def test_a_program_that_is_killed_is_told_by_its_signal() -> None:
    killed = failed("import os, signal; print('working', flush=True); os.kill(os.getpid(), signal.SIGKILL)").measured
    assert killed.failure == "killed by SIGKILL, as the system does when memory runs out"
    assert killed.output == "working\n"


def test_a_program_that_names_no_error_is_told_by_its_last_line_or_its_code() -> None:
    assert failed("print('a'); print('the disk is full'); exit(3)").measured.failure == "the disk is full"
    assert failed("exit(3)").measured.failure == "exit code 3"
