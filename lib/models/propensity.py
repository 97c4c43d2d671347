"""The functions of train_encoder's tasks that check examples, and write gold/propensity_to_buy.

Predictions, profiles and days with a purchase are packed by shard of whole users, and brought together there. What the job
gathers, and gives to all tasks, are counts: of users by bin of their log odds, for deciles, and of the shop's spend. Does not
import Ray.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from lib.engines.arrow_tasks import Broadcast, packed, rows_of, shards_by, table_rows, unpacked, write_rows
from lib.lake.lake import Lake
from lib.models import rows
from lib.models.baselines import PurchaseModel, probabilities
from lib.models.calibration import Calibration
from lib.ranking.known_pairs import INTERACTION
from lib.statistics.bootstrap import Floats
from lib.tables.gold import EXAMPLES, PROPENSITY_TO_BUY, USER_PROFILES

UNFIT, PREDICTION, HISTOGRAM, PROFILE, DAY, SPEND = "unfit", "prediction", "histogram", "profile", "day", "spend"
FEATURES = pa.schema([EXAMPLES.schema.field(name) for name in ("user_key", "features")])
PROFILES = pa.schema([USER_PROFILES.schema.field(name) for name in ("user_key", "as_of", "first_event_at", "spend")])
NUM_DECILES = 10
NUM_BINS, LARGEST_LOG_ODDS = 10_000, 12.0  # bins of equal width between its negative and it
# The columns of those that the job gathers.
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    UNFIT: {"num_users": pl.Int64},
    HISTOGRAM: {"bin": pl.Int64, "num_users": pl.Int64},
    SPEND: {"spend": pl.Float64, "num_days": pl.Int64},
}
MONEY = pl.Decimal(18, 4)


@dataclass(frozen=True)
class Served:
    """The model that serves."""

    name: str
    version: str
    model: PurchaseModel
    calibration: Calibration


def count_unfit(files: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Count the rows in files of gold/examples with a feature that is not a finite number."""
    for file in rows_of(files):
        for found in table_rows(file["location"], FEATURES):
            is_fit = found["features"].list.eval(pl.element().is_finite() & pl.element().is_not_null()).list.all()
            yield from packed(pl.DataFrame({"num_users": [found.height - int(is_fit.sum())]}), UNFIT)


def predict(files: Iterable[pa.RecordBatch], *, served: Broadcast[Served], num_shards: int) -> Iterator[pa.RecordBatch]:
    """Predict for the users in files of gold/examples; their bins go on as counts too."""
    for file in rows_of(files):
        for found in table_rows(file["location"], FEATURES):
            features = rows.feature_tensor(found.to_arrow()["features"])
            log_odds = served.value.calibration.corrected(served.value.model.log_odds(features))
            told = found.select(
                "user_key",
                probability=pl.Series(probabilities(log_odds)),
                bin=pl.Series(bins_of(log_odds), dtype=pl.Int64),
            )
            yield from packed(told, PREDICTION, shards_by(told["user_key"], num_shards))
            yield from packed(told.group_by("bin").agg(num_users=pl.len().cast(pl.Int64)), HISTOGRAM)


def spread_profiles(files: Iterable[pa.RecordBatch], *, as_of: datetime, num_shards: int) -> Iterator[pa.RecordBatch]:
    """Read files of gold/user_profiles, and pack by shard of users what they spent, if it was known as of then."""
    for file in rows_of(files):
        for found in table_rows(file["location"], PROFILES):
            known = found.filter(pl.col("as_of") <= as_of).drop("as_of")
            yield from packed(known, PROFILE, shards_by(known["user_key"], num_shards))


def spread_days(parts: Iterable[pa.RecordBatch], *, as_of: datetime, num_shards: int) -> Iterator[pa.RecordBatch]:
    """Of rows of gold/interactions in parts, the UTC days before `as_of` on which a user bought, by shard of users."""
    found = unpacked(parts)
    if INTERACTION in found:
        bought = found[INTERACTION].filter((pl.col("num_relevant") > 0) & (pl.col("event_time") < as_of))
        by_day = bought.group_by("user_key", day=pl.col("event_time").dt.date()).agg(pl.max("event_time"))
        yield from packed(by_day, DAY, shards_by(by_day["user_key"], num_shards))


def count_spend(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What the users of a shard spent, and on how many days."""
    known = spend_of(unpacked(parts))
    yield from packed(known.select(pl.sum("spend", "num_days")), SPEND)


def spend_of(found: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """user_key, spend and num_days with a purchase, of those whose profile knows what they spent; both above 0.

    A profile may know less than the interactions: days before its first event do not count.
    """
    if PROFILE not in found or DAY not in found:
        return pl.DataFrame(schema={"user_key": pl.String, "spend": pl.Float64, "num_days": pl.Int64})
    profiles = found[PROFILE].with_columns(pl.col("spend").cast(pl.Float64)).filter(pl.col("spend") > 0)
    days = (
        found[DAY].join(profiles, on="user_key", how="inner").filter(pl.col("event_time") >= pl.col("first_event_at"))
    )
    return days.group_by("user_key").agg(pl.first("spend"), num_days=pl.len().cast(pl.Int64))


def write_propensities(
    parts: Iterable[pa.RecordBatch],
    *,
    lake: Lake,
    model: str,
    version: str,
    as_of: datetime,
    deciles: NDArray[np.int64],
    shop_spend: float | None,
) -> Iterator[pa.RecordBatch]:
    """Write the rows of a shard's users; of `deciles_of`, and the shop's mean spend on a day with a purchase, if known."""
    found = unpacked(parts)
    if PREDICTION not in found:
        return
    spend = spend_of(found).select("user_key", mean_spend=pl.col("spend") / pl.col("num_days"))
    # Where the shop's is unknown nobody's is known.
    expected = pl.col("probability") * pl.coalesce("mean_spend", pl.lit(shop_spend, pl.Float64))
    predicted = found[PREDICTION].sort("user_key")
    told = (
        predicted.with_columns(decile=pl.Series(deciles[predicted["bin"].to_numpy()]))
        .join(spend, on="user_key", how="left", maintain_order="left")
        .select(
            "user_key",
            "probability",
            "decile",
            as_of=pl.lit(as_of),
            expected_spend=expected.round(4).cast(MONEY),
            model=pl.lit(model),
            version=pl.lit(version),
        )
    )
    table = PROPENSITY_TO_BUY
    stored = told.to_arrow().select(table.schema.names).cast(table.schema)
    yield from write_rows(stored.to_batches(), lake=lake, table=table)


def bins_of(log_odds: Floats) -> NDArray[np.int64]:
    """The bin of each of the log odds, from 0 for the least likely: (N,) -> (N,)."""
    place = (log_odds / LARGEST_LOG_ODDS + 1) / 2 * NUM_BINS
    return np.clip(np.floor(place), 0, NUM_BINS - 1).astype(np.int64)


def deciles_of(histogram: pl.DataFrame) -> NDArray[np.int64]:
    """The decile of each bin, (NUM_BINS,), from 1: less than so many tenths of the users are in more likely bins.

    Args:
        histogram: bin and num_users, whose rows of the same bin add up; some users.
    """
    counts = np.bincount(histogram["bin"].to_numpy(), weights=histogram["num_users"].to_numpy(), minlength=NUM_BINS)
    users = counts.astype(np.int64)
    total, above = users.sum(), users[::-1].cumsum()[::-1] - users
    return np.asarray(np.minimum(NUM_DECILES * above // total, NUM_DECILES - 1) + 1, dtype=np.int64)
