"""The known pairs of a whole log as a Spark DataFrame: one shuffle brings each user's rows together."""

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from lib.engines.spark import over_shards
from lib.ranking.known_pairs import KNOWN_PAIRS, known_pairs

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def pairs_of_log(interactions: "DataFrame", *, as_of: datetime) -> "DataFrame":
    """The known pairs (lib/ranking/known_pairs.py) of gold/interactions, whole users in a partition."""
    return over_shards(interactions.repartition("user_key"), partial(known_pairs, as_of=as_of), KNOWN_PAIRS)
