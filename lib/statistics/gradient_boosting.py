"""LightGBM without scikit-learn, which it would import for classes that nothing here uses: half a second of every process."""

import sys
from importlib import import_module
from types import ModuleType


def _without_sklearn() -> ModuleType:
    """LightGBM, to which scikit-learn is not installed, unless somebody has imported it already."""
    is_hidden = "sklearn" not in sys.modules
    if is_hidden:
        sys.modules["sklearn"] = None  # type: ignore[assignment]  # Python's own sign that there is no such module
    try:
        lightgbm = import_module("lightgbm")
    finally:
        if is_hidden:
            del sys.modules["sklearn"]
    return lightgbm


lightgbm = _without_sklearn()
