"""What a person is told of an error, and the exit code: the texts are what the engines say, shortened."""

import errno

import pytest

from lib.runs.errors import (
    ExitCode,
    JobEndedError,
    PrivateValueError,
    SettingError,
    ending_of,
    note,
    one_line,
    recordable_traceback,
)

TASK_FAILED = """An error occurred while calling o63.save.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 0.0 failed 1 times, most recent failure: Lost task 0.0 in stage 0.0 (TID 0) (localhost executor driver): org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/venv/pyspark/worker.py", line 3000, in main
    process()
  File "/app/lib/formats/files.py", line 20, in read
    raise {error}("{message}")
{error}: {message}

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:581)
\tat java.base/java.lang.Thread.run(Thread.java:840)

Driver stacktrace:
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:2856)
Caused by: org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/venv/pyspark/worker.py", line 3000, in main
{error}: {message}

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:581)
"""
JAVA_FAILED = """An error occurred while calling o63.save.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 0.0 failed 1 times
Driver stacktrace:
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:2856)
Caused by: {cause}
\tat java.base/java.lang.Thread.run(Thread.java:840)
"""


class Py4JJavaError(Exception):
    """Stands for Spark's, which needs a JVM to be made."""

    __module__ = "py4j.protocol"


class RayTaskError(Exception):
    """Stands for Ray's."""

    __module__ = "ray.exceptions"

    def __init__(self, text: str, cause: Exception) -> None:
        super().__init__(text)
        self.cause = cause


class WorkerGroupError(Exception):
    """Stands for Ray Train's."""

    __module__ = "ray.train.v2.api.exceptions"


def of_workers(last_line: str) -> WorkerGroupError:
    traceback = f'Traceback (most recent call last):\n  File "train.py", line 3, in worker\n    read()\n{last_line}\n'
    return WorkerGroupError(f"Training failed due to worker errors:\n[Rank 0,1 Error Snippet]:\n{traceback}")


def of_task(error: str, message: str) -> Py4JJavaError:
    return Py4JJavaError(TASK_FAILED.format(error=error, message=message))


def of_java(cause: str) -> Py4JJavaError:
    return Py4JJavaError(JAVA_FAILED.format(cause=cause))


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (ValueError("3 of 9 records\nhave no time"), "3 of 9 records have no time", ExitCode.REFUSED),
        (SettingError("no key"), "no key", ExitCode.WRONG_SETTING),
        (PrivateValueError("first: ann", recorded="first"), "first: ann", ExitCode.REFUSED),
        (JobEndedError("no key", 2), "no key", ExitCode.WRONG_SETTING),
        (KeyError("x"), "KeyError: 'x'", ExitCode.FAILED),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
            "UnicodeDecodeError: 'utf-8' codec can't",
            ExitCode.REFUSED,
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full", ExitCode.FAILED),
        (of_task("ValueError", "1.csv is cut off"), "1.csv is cut off", ExitCode.REFUSED),
        (of_task("lib.formats.files.UnreadableError", "1.csv is gone"), "1.csv is gone", ExitCode.REFUSED),
        (of_task("lib.runs.errors.RetryableError", "try again"), "try again", ExitCode.FAILED),
        (of_task("FileNotFoundError", "[Errno 2] no 1.csv"), "FileNotFoundError: [Errno 2] no 1.csv", ExitCode.FAILED),
        (of_task("polars.exceptions.ComputeError", "no"), "ComputeError: no", ExitCode.FAILED),
        (of_task("OSError", "[Errno 28] No space left on device"), "the disk is full", ExitCode.FAILED),
        (
            of_task(
                "OSError", "When uploading part: AWS Error INTERNAL_FAILURE during UploadPart operation: try again"
            ),
            "the store cannot write: it is full, over its quota or overloaded",
            ExitCode.FAILED,
        ),
        (of_java("java.io.IOException: No space left on device"), "the disk is full", ExitCode.FAILED),
        (of_java("java.lang.OutOfMemoryError: Java heap space"), "Spark ran out of memory", ExitCode.FAILED),
        (
            of_java("org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)"),
            "a worker was killed or crashed",
            ExitCode.FAILED,
        ),
        (
            of_java("io.delta.exceptions.ConcurrentAppendException: Files were added by a concurrent update"),
            "another job changed the same table meanwhile",
            ExitCode.FAILED,
        ),
        (of_java("java.lang.IllegalStateException: so it is"), "IllegalStateException: so it is", ExitCode.FAILED),
        (RayTaskError("ray::f()\n  File x", ValueError("one class")), "one class", ExitCode.REFUSED),
        (RayTaskError("ray::f()\n  File x", KeyError("x")), "KeyError: 'x'", ExitCode.FAILED),
        (of_workers("ValueError: 2 pictures, fewer than a batch"), "2 pictures, fewer than a batch", ExitCode.REFUSED),
        (of_workers("RuntimeError: shape [2] is invalid"), "RuntimeError: shape [2] is invalid", ExitCode.FAILED),
        (of_workers("ray.exceptions.ActorDiedError: The actor died"), "a worker was killed", ExitCode.FAILED),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error: Exception, told: str, code: ExitCode) -> None:
    end = ending_of(error)
    assert end.code == code
    assert end.told.startswith(told)
    assert "\n" not in end.told
    assert "Traceback" not in end.told


def test_of_a_task_that_failed_the_places_are_recorded_and_no_value() -> None:
    kept = recordable_traceback(of_task("ValueError", "the user ann@shop has no time"))
    assert "ann@shop" not in kept
    places = (
        'File "/app/lib/formats/files.py", line 20, in read',
        "\tat java.base/java.lang.Thread.run",
        "ValueError\n",
    )
    assert all(place in kept for place in places)


def test_where_a_traceback_lies_is_told_unless_the_error_is_the_users() -> None:
    broken, wrong = KeyError("x"), ValueError("3 of 9 records")
    for error in (broken, wrong):
        note(error, "traceback", "s3://shop/lake/logs/clean-000001.txt")
    assert one_line(broken) == "KeyError: 'x' (traceback: s3://shop/lake/logs/clean-000001.txt)"
    assert one_line(wrong) == "3 of 9 records"
