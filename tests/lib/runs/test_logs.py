"""What jobs say: lines for people, and JSON lines that another process says again."""

import json
import logging
import subprocess
import sys

import pytest

from lib.cli.kubernetes import _shown
from lib.pipeline import ROOT
from lib.runs.errors import PrivateValueError, note
from lib.runs.logs import FORMAT_VARIABLE, JsonFormatter, StandardOutput, error_in, job_logger, say_again, say_error


def test_a_line_bears_the_jobs_name_and_goes_to_the_standard_output_of_the_moment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job_logger("clean").info("wrote %s", "silver/events")
    assert capsys.readouterr().out == "clean          wrote silver/events\n"


def test_a_json_line_holds_job_message_and_figures_and_is_said_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = logging.LogRecord("cartwheel.train_gan", logging.INFO, "", 0, "epoch %d", (3,), None)
    extra = {"run_id": "train_gan-000004", "stage": "epoch", "figures": {"loss": 0.5}}
    record.__dict__ |= extra
    line = JsonFormatter().format(record)
    content = json.loads(line)
    assert (content["job"], content["level"], content["message"]) == ("train_gan", "INFO", "epoch 3")
    assert {name: content[name] for name in extra} == extra
    assert say_again(line)
    assert capsys.readouterr().out == "train_gan      epoch 3\n"

    (handler,) = (each for each in logging.getLogger("cartwheel").handlers if isinstance(each, StandardOutput))
    monkeypatch.setattr(handler, "formatter", JsonFormatter())
    assert say_again(line)
    again = json.loads(capsys.readouterr().out)
    assert again == content | {"time": again["time"]}


@pytest.mark.parametrize(
    "line", ["", "(RayTrainWorker pid=3) hello", "train_gan      epoch 3", "[1]", "{}", '{"job": "x"}', "3"]
)
def test_a_line_of_the_engine_is_not_said_again(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not say_again(line)
    assert capsys.readouterr().out == ""


def test_the_variable_asks_for_json() -> None:
    program = "from lib.runs.logs import job_logger; job_logger('als').info('fitted', extra={'figures': {'pairs': 2}})"
    environment = {"CARTWHEEL_LOG_FORMAT": "json", "PYTHONPATH": str(ROOT)}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(printed.stdout)["figures"] == {"pairs": 2}


def test_how_a_job_failed_is_a_json_line_that_whoever_follows_the_job_still_sees(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = KeyError("x")
    note(error, "run", "clean-000007")
    note(error, "traceback", "s3://shop/lake/logs/clean-000007.txt")
    told = "KeyError: 'x' (traceback: s3://shop/lake/logs/clean-000007.txt)"
    say_error("clean", error)
    plain = capsys.readouterr().err.strip()
    assert plain == f"error: {told}"
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    say_error("clean", error)
    line = capsys.readouterr().err.strip()
    content = json.loads(line)
    assert [content[name] for name in ("level", "job", "run_id", "message")] == ["ERROR", "clean", "clean-000007", told]
    assert "traceback" not in content
    assert error_in(line) == error_in(plain) == told

    shown: list[str] = []
    for each in (plain, line, "WARN something that Java says", '{"level": "ERROR"}'):
        _shown(shown.append)(each)
    assert [*shown, capsys.readouterr().out.strip()] == [f"error: {told}"] * 2


def test_a_json_line_holds_a_traceback_that_lies_nowhere_else_and_no_value_of_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    say_error("clean", KeyError("x"))
    content = json.loads(capsys.readouterr().err)
    assert (content["message"], content["traceback"]) == ("KeyError: 'x'", "KeyError: 'x'\n")
    say_error("clean", PrivateValueError("first: ann@shop", recorded="first: 1.csv:1"))
    content = json.loads(capsys.readouterr().err)
    assert content["message"] == "first: 1.csv:1"
    assert "traceback" not in content
