"""How a job ends on an error: what its user is told, what is recorded of it, and the exit code.

More people read ops/runs and the lake's logs than bronze, so no value of the log is recorded.
"""

import re
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple


class ExitCode(IntEnum):
    """What a scheduler may make of an end; alike for `cartwheel`, `spark-submit` and Ray jobs."""

    DONE = 0  # or skipped, since the log does not hold what the job needs
    FAILED = 1
    WRONG_SETTING = 2
    FILES_SET_ASIDE = 3
    REFUSED = 4


RETRY_IS_IN_VAIN = (ExitCode.WRONG_SETTING, ExitCode.FILES_SET_ASIDE, ExitCode.REFUSED)

EXIT_CODES = (
    "Exit codes: 0 done, or nothing to do; 1 failed: a retry may help; 2 a wrong setting, flag or mapping, nothing was "
    "done; 3 done, but bad files were set aside; 4 the log or a table was refused: a retry helps only when it is mended."
)


class SettingError(ValueError):
    """A setting is wrong, which shows only when it is used."""


class RetryableError(ValueError):
    """Nothing that the user gave is wrong: a retry may help."""


class PrivateValueError(ValueError):
    """An error that quotes a value of the log to the person who runs the job.

    `recorded` says the same without the value.
    """

    def __init__(self, shown: str, *, recorded: str) -> None:
        super().__init__(shown)
        self.recorded = recorded


class TaskError(Exception):
    """An error in a task, whose text is the traceback there."""


class JobEndedError(Exception):
    """A job that ran in a process of its own has ended with an exit code, and has said why."""

    def __init__(self, told: str, code: int) -> None:
        super().__init__(told)
        self.code = code


class Ending(NamedTuple):
    """What an error means to the person who started the job, in one line, and to a scheduler."""

    told: str
    code: int


OWN_ERRORS = (ValueError, SettingError, RetryableError, PrivateValueError)
# What is said where nothing more can be written, by whatever library, and what its user is told.
STORE_TROUBLE = r"AWS Error (?:INTERNAL_FAILURE|SLOW_DOWN|SERVICE_UNAVAILABLE)|<Code>(?:InternalError|SlowDown|ServiceUnavailable|QuotaExceeded)|InsufficientStorage"
STORE_IS_FULL = "the store cannot write: it is full, over its quota or overloaded"
FULL = ((r"No space left on device", "the disk is full"), (STORE_TROUBLE, STORE_IS_FULL))
# What an engine says, often deep in a Java or Python traceback, and what its user is told.
ENGINE_WORDS = (
    (r"JAVA_GATEWAY_EXITED", "Spark could not start Java: install Java 17, or set JAVA_HOME to its folder"),
    (r"java\.lang\.OutOfMemoryError|std::bad_alloc", "Spark ran out of memory: give it more by cluster.driver_memory or its submit command"),
    (r"Python worker exited unexpectedly|ExecutorLostFailure|WorkerCrashedError|ActorDiedError|OutOfMemoryError|BrokenProcessPool",
     "a worker was killed or crashed, perhaps for want of memory"),
    (r"Concurrent\w+Exception|CommitFailedError|ProtocolChangedException|MetadataChangedException",
     "another job changed the same table meanwhile"),
    (r"ConnectionRefusedError|Py4JNetworkError|Answer from Java side is empty", "Spark's Java process has ended: it was killed, or ran out of memory"),
)  # fmt: skip
ERROR_LINE = re.compile(
    r"^(?:Caused by: |: )?([A-Za-z_][\w.$]*(?:Error|Exception|Failure)\w*)(?:\(\w+\))?(?:: (.*))?$", re.MULTILINE
)
PYTHON_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(.*?)(?:\n\s+at |\n\n|\Z)", re.DOTALL)


def ending_of(error: BaseException) -> Ending:
    """What the user is told of an error, in one line, and the exit code of the job that ends on it."""
    if isinstance(error, JobEndedError):
        return Ending(_in_one_line(str(error)), error.code)
    if isinstance(error, ValueError) and _is_ours(f"{type(error).__module__}.{type(error).__name__}"):
        return Ending(_in_one_line(str(error)), _code_of(type(error).__name__))
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", ExitCode.FAILED)
    for words, told in FULL:
        if re.search(words, _text_of(error)):
            return Ending(told, ExitCode.FAILED)
    if _is_of_an_engine(error):
        return _ending_of_engine(error)
    kind = type(error).__name__
    message = _first_line(_text_of(error))
    code = ExitCode.REFUSED if isinstance(error, ValueError) else ExitCode.FAILED
    return Ending(f"{kind}: {message}" if message else kind, code)


def recordable(error: BaseException) -> str:
    """The text to record of an error: our own message without values of the log, or only the type of any other error.

    A library's message (from a parser, or an executor's traceback) may quote a value that it was given.
    """
    if isinstance(error, PrivateValueError):
        return f"ValueError: {error.recorded}"
    return f"ValueError: {error}" if type(error) in OWN_ERRORS else type(error).__name__


def recordable_traceback(error: BaseException) -> str:
    """The traceback for the lake's logs, without a value of the log that an error of ours or of a task quotes."""
    if not isinstance(error, PrivateValueError) and not _is_of_an_engine(error):
        return "".join(traceback.format_exception(error))
    frames = traceback.format_tb(error.__traceback__)
    places = "" if isinstance(error, PrivateValueError) else _places_in(_text_of(error))
    return "".join(["Traceback (most recent call last):\n", *frames, recordable(error), "\n", places])


def _places_in(text: str) -> str:
    """Of an engine's text its lines that name a place in the code or the type of an error, without any message."""
    lines = []
    for line in text.splitlines():
        kind = ERROR_LINE.match(line)
        if kind:
            lines.append(line[: kind.end(1)])
        elif re.match(r"\s+(File \"|at |\.\.\. \d+ more)|Traceback \(most recent", line):
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def note(error: BaseException, name: str, value: str) -> None:
    """Note something with an error: its `run`, or where its `traceback` lies."""
    error.add_note(f"{name}: {value}")


def noted(error: BaseException, name: str) -> str | None:
    """What was noted last with an error under a name."""
    notes = [each for each in getattr(error, "__notes__", ()) if each.startswith(f"{name}: ")]
    return notes[-1].removeprefix(f"{name}: ") if notes else None


def is_users(error: BaseException) -> bool:
    """Whether an error is its user's to mend, who needs no traceback for it."""
    return type(error) in OWN_ERRORS or isinstance(error, JobEndedError | KeyboardInterrupt)


def one_line(error: BaseException) -> str:
    """What the user is told of an error, and for one that is not theirs to mend where its traceback lies."""
    if not is_users(error) and noted(error, "traceback") is None:
        # It came before a run had begun, or the lake's disk is full.
        with (
            suppress(OSError),
            tempfile.NamedTemporaryFile("w", prefix="cartwheel-", suffix=".txt", delete=False) as file,
        ):
            file.write(recordable_traceback(error))
            note(error, "traceback", file.name)
    return told_with_place(error)


def told_with_place(error: BaseException) -> str:
    """What the user is told of an error, and where its traceback was noted to lie."""
    told, place = ending_of(error).told, noted(error, "traceback")
    return f"{told} (traceback: {place})" if place and not is_users(error) else told


def _is_of_an_engine(error: BaseException) -> bool:
    engines = ("py4j", "pyspark", "ray", "deltalake", "_internal", "concurrent")
    return isinstance(error, TaskError) or type(error).__module__.partition(".")[0] in engines


def _ending_of_engine(error: BaseException) -> Ending:
    """What an engine's error is about: the words of a task's own error are inside its text, or with it as its cause."""
    cause = getattr(error, "cause", None)  # Ray's
    if isinstance(cause, Exception):
        return ending_of(cause)
    text = _text_of(error)
    for kind, message in _errors_of_tasks(text):
        if _is_ours(kind):
            return Ending(_in_one_line(message), _code_of(kind.rpartition(".")[2]))
    for words, told in ENGINE_WORDS:
        if re.search(words, text) or re.search(words, type(error).__name__):
            return Ending(told, ExitCode.FAILED)
    causes = [*_errors_of_tasks(text), *ERROR_LINE.findall(text)[-1:]]
    kind, message = causes[0] if causes else (type(error).__name__, _first_line(text))
    return Ending(f"{kind.rpartition('.')[2]}: {message}".removesuffix(": "), ExitCode.FAILED)


def _errors_of_tasks(text: str) -> Iterator[tuple[str, str]]:
    """Type and message of the errors that Python tracebacks in an engine's text end with."""
    for block in PYTHON_TRACEBACK.findall(text):
        lines = ERROR_LINE.findall(block)
        if lines:
            yield lines[-1]


def _is_ours(kind: str) -> bool:
    """Whether an error of that qualified name speaks to users: a plain ValueError, or one that a room declares."""
    return kind in ("builtins.ValueError", "ValueError") or kind.partition(".")[0] in ("lib", "rl", "gan")


def _code_of(kind: str) -> ExitCode:
    return {"SettingError": ExitCode.WRONG_SETTING, "RetryableError": ExitCode.FAILED}.get(kind, ExitCode.REFUSED)


def _text_of(error: BaseException) -> str:
    """An error's text; Spark asks its Java process for some of them, which may have ended."""
    try:
        return str(error)
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}"


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0].strip()


def _in_one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
