"""The shop's product pictures as the lake holds them: which are used, and their bytes, decoded a few at a time.

Tasks choose among the pictures and decode them (lib/engines/arrow_tasks.py); what they give to the driver is at most
`max_pictures`, however many pictures there are.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads

from lib.engines.arrow_tasks import Broadcast, gathered, packed, rows_of, unpacked
from lib.lake.places import filesystem_of
from lib.pictures.decoding import MAX_FILE_BYTES, Picture, decode
from lib.tables import contract

COLUMNS = ("item_id", "source_file_sha256", "bytes", "uri")
KEYS = ("item_id", "arrived_at", "source_file_sha256")
ROWS_PER_READ = 64  # pictures in memory at a time, encoded
KEY, PICTURE = "key", "picture"  # kinds of parts
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    KEY: {"item_id": pl.String, "source_file_sha256": pl.String},
    PICTURE: {"item_id": pl.String, "pixels": pl.Binary},
}


def hashed_order(item_ids: Sequence[str], seed: int) -> list[str]:
    """The distinct items in a random order that depends on the seed and the ids alone."""
    return sorted(set(item_ids), key=lambda item: hashlib.sha256(f"{seed}/{item}".encode()).digest())


def chosen_pictures(keys: pl.DataFrame, *, max_pictures: int, seed: int) -> pl.DataFrame:
    """Each item's latest picture (a row of KEYS); beyond `max_pictures`, those of the first items in hashed order.

    Chosen of parts and then of what was chosen there, it is the same as of all at once.
    """
    latest = keys.sort(KEYS).unique("item_id", keep="last")
    first = hashed_order(latest["item_id"].to_list(), seed)[:max_pictures]
    return latest.filter(pl.col("item_id").is_in(first))


def choose_in_files(files: Iterable[pa.RecordBatch], *, max_pictures: int, seed: int) -> Iterator[pa.RecordBatch]:
    """Choose in each file of bronze/images (rows of TABLE_FILES)."""
    for file in rows_of(files):
        keys = pl.DataFrame(pictures_of(file["location"]).to_table(columns=list(KEYS), use_threads=False))
        yield from packed(chosen_pictures(keys, max_pictures=max_pictures, seed=seed), KEY)


def choose_of_chosen(parts: Iterable[pa.RecordBatch], *, max_pictures: int, seed: int) -> Iterator[pa.RecordBatch]:
    """Choose among what was chosen in files."""
    found = unpacked(parts)
    if KEY in found:
        yield from packed(chosen_pictures(found[KEY], max_pictures=max_pictures, seed=seed), KEY)


def decode_chosen(
    files: Iterable[pa.RecordBatch], *, chosen: Broadcast[dict[str, str]], resolution: int
) -> Iterator[pa.RecordBatch]:
    """Decode the chosen pictures of files."""
    for file in rows_of(files):
        found = read_pictures(pictures_of(file["location"]), chosen.value, resolution)
        pixels = pl.Series([picture.tobytes() for picture in found.values()], dtype=pl.Binary)
        yield from packed(pl.DataFrame({"item_id": list(found), "pixels": pixels}), PICTURE)


def decoded(parts: Iterable[tuple[str, bytes]], resolution: int) -> dict[str, Picture]:
    """The pictures that tasks have decoded, by item."""
    rows = gathered(parts, PICTURE, GATHERED).iter_rows()
    return {item: np.frombuffer(pixels, np.uint8).reshape(3, resolution, resolution) for item, pixels in rows}


def pictures_of(location: str) -> pads.Dataset:
    """A file of bronze/images."""
    filesystem, path = filesystem_of(location)
    return pads.dataset(path, schema=contract("bronze/images").schema, format="parquet", filesystem=filesystem)


def read_pictures(images: pads.Dataset, chosen: Mapping[str, str], resolution: int) -> dict[str, Picture]:
    """The chosen picture of each item, decoded; items whose picture is undecodable are left out.

    `images` are rows of bronze/images, `chosen` each item's picture as the SHA-256 of its file.
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
