"""What may be kept of an error: ops/runs and the lake's logs are read by more people than bronze is."""

import traceback

SOME_FILES_SET_ASIDE = 2  # the exit code of a job that went on without a bad file


class PrivateValueError(ValueError):
    """An error whose text quotes a value of the log, for the one who runs the job; `recorded` says the same without it."""

    def __init__(self, shown: str, *, recorded: str) -> None:
        super().__init__(shown)
        self.recorded = recorded


def recordable(error: BaseException) -> str:
    """What may be kept of an error: our own words without values of the log; of any other error its kind alone.

    What a library says (a parser, an executor's traceback) may quote a value that it was given.
    """
    if isinstance(error, PrivateValueError):
        return f"ValueError: {error.recorded}"
    return f"{type(error).__name__}: {error}" if type(error) is ValueError else type(error).__name__


def recordable_traceback(error: BaseException) -> str:
    """The traceback for the lake's own logs, which as little as ops/runs hold a value that an error of ours quotes."""
    if isinstance(error, PrivateValueError):
        frames = traceback.format_tb(error.__traceback__)
        return "".join(["Traceback (most recent call last):\n", *frames, recordable(error), "\n"])
    return "".join(traceback.format_exception(error))
