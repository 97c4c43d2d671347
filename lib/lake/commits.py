"""A table's commits as its log has them, each with its own number.

delta-rs's `history` numbers commits by counting down from the version that a table was opened at, but lists the log as it is when it
is asked: with a commit between the two every number is one too high. So each commit's file is read itself.
"""

import json
from collections.abc import Iterator
from typing import Any

from deltalake import DeltaTable

from lib.lake.places import filesystem_of

INFO = b'{"commitInfo"'


def newest_first(delta: DeltaTable, place: str) -> Iterator[dict[str, Any]]:
    """What each commit of a table says of itself, and its `version`, from the version that it was opened at back to where its log begins.

    Args:
        delta: the table.
        place: its path or address.
    """
    filesystem, folder = filesystem_of(f"{place}/_delta_log")
    for version in range(delta.version(), -1, -1):
        try:
            with filesystem.open_input_stream(f"{folder}/{version:020d}.json") as stream:
                lines = stream.read().splitlines()
        except FileNotFoundError:
            return  # the log of what lies before was removed
        info: dict[str, Any] = next((json.loads(line)["commitInfo"] for line in lines if line.startswith(INFO)), {})
        yield {**info, "version": version}
