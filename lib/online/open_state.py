"""Where the online state is, by the settings."""

from pathlib import Path

from lib.lake.places import STORE
from lib.online.redis_state import RedisState
from lib.online.sqlite_state import SqliteState
from lib.online.state import OnlineState
from lib.runs.errors import SettingError
from lib.settings import LiveSettings

FILE = "online.sqlite"
REDIS = ("redis://", "rediss://")


def open_state(settings: LiveSettings, lake_path: str) -> OnlineState:
    """The online state of a lake. A Redis need not answer yet; a file is made where there is none.

    Raises:
        SettingError: the settings name nothing that can hold it.
    """
    if settings.state is not None and settings.state.startswith(REDIS):
        return RedisState(settings.state, settings)
    return SqliteState(_file(settings, lake_path), settings)


def has_state(settings: LiveSettings, lake_path: str) -> bool:
    """Whether there is an online state: a Redis that the settings name, or a file."""
    if settings.state is None and lake_path.startswith(STORE):
        return False
    is_redis = settings.state is not None and settings.state.startswith(REDIS)
    return is_redis or _file(settings, lake_path).is_file()


def _file(settings: LiveSettings, lake_path: str) -> Path:
    place = settings.state or lake_path
    if settings.state is None and lake_path.startswith(STORE):
        raise SettingError(
            f"the lake is on an object store, {lake_path}, where no online state can be: "
            "set live.state to redis://host:6379/0, or to a file of this machine"
        )
    if "://" in place:
        raise SettingError(f"live.state is {place!r}; it should be redis://host:6379/0, rediss://host:6379/0 or a file")
    path = Path(place).expanduser().absolute()
    return path if settings.state is not None else path / FILE
