"""Opens the online state that the settings name."""

from lib.online.state import OnlineState
from lib.settings import LiveSettings


def open_state(live: LiveSettings, lake_path: str) -> OnlineState:
    """x."""
    raise NotImplementedError
