"""The Python that the peers run with: an environment of their own, outside the checkout, made once from requirements.lock."""

from pathlib import Path

from tests.environments import environment

REQUIREMENTS = Path(__file__).parent / "requirements.lock"


def python() -> str:
    """The environment's Python.

    Raises:
        RuntimeError: the environment could not be made.
    """
    return str(environment("peers", REQUIREMENTS) / "bin" / "python")
