"""What may be recorded of an error: more people read ops/runs and the lake's logs than bronze."""

import traceback

SOME_FILES_SET_ASIDE = 2  # exit code of a job that set bad files aside and went on


class PrivateValueError(ValueError):
    """An error that quotes a value of the log to the person who runs the job.

    `recorded` says the same without the value.
    """

    def __init__(self, shown: str, *, recorded: str) -> None:
        super().__init__(shown)
        self.recorded = recorded


def recordable(error: BaseException) -> str:
    """The text to record of an error: our own message without values of the log, or only the type of any other error.

    A library's message (from a parser, or an executor's traceback) may quote a value that it was given.
    """
    if isinstance(error, PrivateValueError):
        return f"ValueError: {error.recorded}"
    return f"{type(error).__name__}: {error}" if type(error) is ValueError else type(error).__name__


def recordable_traceback(error: BaseException) -> str:
    """The traceback for the lake's logs, without a value of the log that one of our own errors quotes."""
    if isinstance(error, PrivateValueError):
        frames = traceback.format_tb(error.__traceback__)
        return "".join(["Traceback (most recent call last):\n", *frames, recordable(error), "\n"])
    return "".join(traceback.format_exception(error))
