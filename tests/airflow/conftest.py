"""Airflow in its own environment; its tests are skipped where that cannot be had."""

import warnings

import pytest

from tests.airflow.engine import DAGS
from tests.environments import environment


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    """Make sure that Airflow is there."""
    try:
        environment("airflow", DAGS / "requirements.lock")
    except RuntimeError as reason:
        warnings.warn(f"NO TEST OF AIRFLOW RUNS: {reason}", stacklevel=1)
        pytest.skip(str(reason))
