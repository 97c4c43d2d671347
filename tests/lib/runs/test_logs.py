"""What jobs say: lines for people, and JSON lines that another process says again."""

import json
import logging
import subprocess
import sys

import pytest

from lib.pipeline import ROOT
from lib.runs.logs import JsonFormatter, job_logger, say_again


def test_a_line_bears_the_jobs_name_and_goes_to_the_standard_output_of_the_moment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job_logger("clean").info("wrote %s", "silver/events")
    assert capsys.readouterr().out == "clean          wrote silver/events\n"


def test_a_json_line_holds_job_message_and_figures_and_is_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("cartwheel.train_gan", logging.INFO, "", 0, "epoch %d", (3,), None)
    record.figures = {"loss": 0.5}
    line = JsonFormatter().format(record)
    content = json.loads(line)
    assert (content["job"], content["level"], content["message"]) == ("train_gan", "INFO", "epoch 3")
    assert content["figures"] == {"loss": 0.5}
    assert say_again(line)
    assert capsys.readouterr().out == "train_gan      epoch 3\n"


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
