"""The functions that train_content's tasks run: they decode the catalogue's pictures, and see them by the trained encoder.

Does not import Ray.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from lib.content.fitting import picture_vectors
from lib.content.networks import PictureEncoder
from lib.engines.arrow_tasks import Broadcast, packed, rows_of, shards_by, unpacked
from lib.pictures.catalogue import PICTURE, pictures_of, read_pictures

SEEN = "seen"  # kind of a part
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {SEEN: {"item_id": pl.String, "values": pl.Binary}}


def spread_pictures(
    files: Iterable[pa.RecordBatch], *, chosen: Broadcast[dict[str, str]], resolution: int, num_shards: int
) -> Iterator[pa.RecordBatch]:
    """Decode the chosen pictures in files of bronze/images, by shard of items."""
    for file in rows_of(files):
        found = read_pictures(pictures_of(file["location"]), chosen.value, resolution)
        pixels = pl.Series([picture.tobytes() for picture in found.values()], dtype=pl.Binary)
        rows = pl.DataFrame({"item_id": pl.Series(list(found), dtype=pl.String), "pixels": pixels})
        yield from packed(rows, PICTURE, shards_by(rows["item_id"], num_shards))


def decoded_share(
    parts: Iterable[pa.RecordBatch], *, resolution: int, at_most: int
) -> tuple[list[str], np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """The items and pixels (n, 3, R, R) of a worker's share of the pictures, the first `at_most` that it meets."""
    item_ids: list[str] = []
    pixels: list[bytes] = []
    for batch in parts:
        if len(item_ids) >= at_most:
            break
        rows = unpacked([batch]).get(PICTURE)
        if rows is not None:
            item_ids += rows["item_id"].to_list()
            pixels += rows["pixels"].to_list()
    order = sorted(range(len(item_ids)), key=item_ids.__getitem__)[:at_most]
    joined = np.frombuffer(b"".join(pixels[place] for place in order), np.uint8)
    return [item_ids[place] for place in order], joined.reshape(len(order), 3, resolution, resolution)


def see_pictures(
    parts: Iterable[pa.RecordBatch], *, encoder: Broadcast[PictureEncoder], resolution: int
) -> Iterator[pa.RecordBatch]:
    """The encoder's vectors of the pictures of a share."""
    torch.set_num_threads(1)
    for batch in parts:
        rows = unpacked([batch]).get(PICTURE)
        if rows is None:
            continue
        pixels = np.frombuffer(b"".join(rows["pixels"].to_list()), np.uint8)
        vectors = picture_vectors(encoder.value, pixels.reshape(len(rows), 3, resolution, resolution))
        values = pl.Series([vector.tobytes() for vector in vectors], dtype=pl.Binary)  # float32
        yield from packed(pl.DataFrame({"item_id": rows["item_id"], "values": values}), SEEN)
