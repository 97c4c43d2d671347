"""Parts of a stack are real processes here: they start in order, and none is left behind however the stack ends."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lib.live.stack import LivePart, Stack
from lib.live.tied import descendants
from lib.pipeline import ROOT
from lib.runs.errors import RetryableError
from tests.processes import await_end

# A part that starts another process of its own session, and does not end by itself on SIGTERM unless it may.
PART = """
import pathlib, signal, subprocess, sys, time
folder, name, ends = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def end(*_):
    (folder / "order").open("a").write(f"-{name} ")
    sys.exit(0)
signal.signal(signal.SIGTERM, end if ends == "politely" else signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
(folder / "order").open("a").write(f"+{name} ")
(folder / name).touch()
time.sleep(600)
"""
STACK = """
import sys
from pathlib import Path
from tests.lib.live.test_stack import stack_in
stack_in(Path(sys.argv[1])).run()
"""


def part(folder: Path, name: str, *, ends: str = "politely", stop_seconds: float = 20) -> LivePart:
    command = [sys.executable, "-c", PART, str(folder), name, ends]
    return LivePart(name, command, (folder / name).exists, stop_seconds=stop_seconds)


def stack_in(folder: Path) -> Stack:
    parts = [part(folder, "one"), part(folder, "two", ends="never", stop_seconds=2), part(folder, "three")]
    return Stack(parts, folder, lambda line: print(line, flush=True), "all run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stack_starts_in_order_and_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STACK, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        told = [owner.stdout.readline() for _ in range(4)]
        started = descendants(owner.pid)
        assert len(started) == 9, "three parts, each with its tie and a process of its own"
        os.kill(owner.pid, number)
        rest = owner.stdout.read()
    assert await_end(started, seconds=30)
    assert [line.split()[0] for line in told] == ["one", "two", "three", "all"]
    order = (tmp_path / "order").read_text()
    if number == signal.SIGKILL:
        assert order.startswith("+one +two +three -")
    else:
        assert order == "+one +two +three -three -one "
        stops = [re.sub(", after .*", "", line) for line in rest.splitlines()]
        assert stops[1::2] == ["three has stopped", "two was killed", "one has stopped"]
        assert owner.returncode == 0


def test_asked_twice_a_stack_does_not_wait_for_its_parts(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STACK, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        while not (line := owner.stdout.readline()).startswith("two is asked"):
            if line.startswith("all run"):
                started = descendants(owner.pid)
                owner.terminate()
        owner.terminate()
        told = [line.split(",")[0].strip() for line in owner.stdout]
    assert told[:2] == ["two was killed", "one is asked to stop"]
    assert await_end(started, seconds=10)


def test_a_part_that_ends_ends_the_others_and_is_told_with_its_last_words(tmp_path: Path) -> None:
    dying = [sys.executable, "-c", "print('the port is taken'); raise SystemExit(7)"]
    stack = Stack([part(tmp_path, "one"), LivePart("two", dying)], tmp_path, lambda line: None, "all run")
    log = tmp_path / "two.log"
    with pytest.raises(RetryableError, match=f"two has ended, exit code 7: the port is taken; its log is {log}"):
        stack.run()
    assert (tmp_path / "order").read_text() == "+one -one "


def test_a_part_that_is_killed_later_ends_the_others(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STACK, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        while not owner.stdout.readline().startswith("all run"):
            pass
        started = descendants(owner.pid)
        os.kill(started[3], signal.SIGKILL)  # the first after the three ties: a part itself
        _, errors = owner.communicate()
    assert "has ended, exit code 137" in errors
    assert await_end(started, seconds=30)


def test_a_part_that_does_not_get_ready_is_told(tmp_path: Path) -> None:
    never = LivePart("one", [sys.executable, "-c", "import time; time.sleep(600)"], lambda: False, start_seconds=0.3)
    with pytest.raises(RetryableError, match=r"one is not ready after 0 s; its log is .*one\.log"):
        Stack([never], tmp_path, lambda line: None, "all run").run()


def test_a_program_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(RetryableError, match="one has ended, exit code 127: no-such-program cannot be started"):
        Stack([LivePart("one", ["no-such-program"], lambda: False)], tmp_path, lambda line: None, "all run").run()
