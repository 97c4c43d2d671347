"""The shop's product pictures as the lake holds them: which are used, and their bytes, decoded a few at a time."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.dataset as pads

from gan.arrays import Picture
from gan.training.dataset import hashed_order
from gan.training.decoding import MAX_FILE_BYTES, decode
from lib.lake.places import filesystem_of

COLUMNS = ("item_id", "source_file_sha256", "bytes", "uri")
ROWS_PER_READ = 64  # pictures in memory at a time, encoded


def chosen_pictures(rows: pa.Table, *, max_pictures: int, seed: int) -> dict[str, str]:
    """Each item's latest picture, as the SHA-256 of its file; beyond `max_pictures`, the first items in hashed order.

    `rows` hold item_id, arrived_at and source_file_sha256.
    """
    ordered = rows.sort_by([(name, "ascending") for name in ("item_id", "arrived_at", "source_file_sha256")])
    latest = dict(zip(ordered["item_id"].to_pylist(), ordered["source_file_sha256"].to_pylist(), strict=True))
    return {item: latest[item] for item in hashed_order(list(latest), seed)[:max_pictures]}


def read_pictures(images: pads.Dataset, chosen: Mapping[str, str], resolution: int) -> dict[str, Picture]:
    """The chosen picture of each item, decoded; items whose picture is undecodable are left out.

    `images` is bronze/images, `chosen` each item's picture as the SHA-256 of its file.
    """
    found: dict[str, Picture] = {}
    read = images.scanner(columns=list(COLUMNS), batch_size=ROWS_PER_READ, batch_readahead=1, fragment_readahead=1)
    for batch in read.to_batches():
        for row in batch.to_pylist():
            item = row["item_id"]
            if chosen.get(item) != row["source_file_sha256"] or item in found:
                continue
            data = row["bytes"] if row["bytes"] is not None else read_content(row["uri"])
            picture = decode(data, resolution) if data is not None else None
            if picture is not None:
                found[item] = picture
    return found


def read_content(uri: str) -> bytes | None:
    """The bytes of the file at a path or URI; None where there is none, or one too large for a picture."""
    try:
        filesystem, path = filesystem_of(uri)
        info = filesystem.get_file_info(path)
        if not info.is_file or info.size > MAX_FILE_BYTES:
            return None
        with filesystem.open_input_stream(path) as stream:
            content: bytes = stream.read()
    except (OSError, ValueError, NotImplementedError):  # of Arrow, and for a null byte in a path
        return None
    return content
