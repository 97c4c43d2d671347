"""The estimators of obp (Open Bandit Pipeline), an implementation that shares no code with ours.

Importing obp imports its plots too, and with them packages that nothing here needs. So its packages are made known without
running them, and only the modules of the estimators are run.
"""

import importlib
import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType


def obp_module(name: str) -> ModuleType:
    """A module of obp, such as `ope.estimators`, without what its packages import around it."""
    for package in ("obp", "obp.ope"):
        if package not in sys.modules:
            spec = find_spec(package)
            assert spec is not None, f"{package} is not installed: run .ci/setup"
            sys.modules[package] = module_from_spec(spec)
    return importlib.import_module(f"obp.{name}")
