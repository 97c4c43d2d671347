"""A policy that learned from logged decisions, as a release holds it and a server asks it. What it learned and how is none of this package."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lib.serving.request import Request


class Policy(Protocol):
    """Says which of some items to show."""

    @property
    def name(self) -> str:
        """What answers and the log call it."""
        ...

    @property
    def version(self) -> str:
        """The model's."""
        ...

    def values(self, request: Request, items: NDArray[np.int64]) -> NDArray[np.floating]:
        """What showing each item now is worth in the long run, (n,): of items (n,), positions in the release's catalogue, to who asks."""
        ...

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        ...
