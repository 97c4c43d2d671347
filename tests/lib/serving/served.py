"""A small release with random content, and a service that answers from it: a real state in SQLite, a real log in files."""

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from benchmarks.synthetic_release import AS_OF, synthetic_release, user_key
from lib.cleaning.pseudonyms import pseudonyms
from lib.formats.mapping import LogMapping, parse_mapping
from lib.formats.writing import writer_of
from lib.lake.lake import Lake
from lib.online.open_state import open_state
from lib.runs.model_registry import register_model
from lib.serving import release as releases
from lib.serving.live_log import FileLog
from lib.serving.release import Release
from lib.serving.service import Service
from lib.settings import LiveSettings
from tests.lakes import START

KEY = b"a key of a test, 32 bytes long.."
NOW = AS_OF + timedelta(minutes=5)
MAPPING = """
name: live
sources:
  events:
    files: "events/*.jsonl"
    reader: {type: json_lines}
    names: {user_id: user, item_id: item, event_time: time, quantity: quantity, price: price, request_id: request, position: position,
            propensity: propensity, policy: policy, candidates: candidates}
    optional: [user_id, quantity, price, request_id, position, propensity, policy, candidates]
    events: [{type: {column: kind}}]
"""


@cache
def small_release(version: str = "first", seed: int = 0) -> Release:
    """A hundred and twenty items and forty users."""
    return synthetic_release(120, num_users=40, num_trees=20, num_visits=400, seed=seed, version=version)


def mapping() -> LogMapping:
    """Of a log of JSON lines."""
    return parse_mapping(MAPPING, "live.yaml")


def publish(lake: Lake, release: Release) -> str:
    """Write a release and register it; returns where it is."""
    folder = lake.files("releases", release.version)
    releases.save(release, folder)
    row = dict.fromkeys(("sha256", "reason", "as_of", "num_parameters", "settings", "curves"))
    uri = folder.absolute().relative_to(lake.folder).as_posix()
    told = {"model": "release", "version": release.version, "run_id": release.version, "uri": uri, "inputs": []}
    register_model(lake, row | told | {"status": "promoted", "created_at": START})
    return uri


def service_in(folder: Path, *, now: datetime = NOW, epsilon: float = 0.0) -> Service:
    """A service whose lake, state and log lie in a folder."""
    lake, own = Lake(str(folder / "lake")), mapping()
    writer = writer_of(own)
    service = Service(
        lake=lake,
        mapping=own,
        key=KEY,
        writer=writer,
        state=open_state(LiveSettings(state=str(folder / "online.sqlite"), state_timeout_ms=5000), lake.path),
        log=FileLog(folder / "log", own.sources["events"], writer, name="test"),
        epsilon=epsilon,
        clock=lambda: now,
    )
    publish(lake, small_release())
    assert service.look_for_release()
    return service


__all__ = ["AS_OF", "KEY", "NOW", "mapping", "pseudonyms", "publish", "service_in", "small_release", "user_key"]
