"""The fixed thresholds of the clean job, the only settings of it that lib/cleaning uses."""

from pydantic import BaseModel, ConfigDict, Field


class Thresholds(BaseModel):
    """Thresholds for double clicks, sessions and bots, and for what may be refused."""

    model_config = ConfigDict(frozen=True)

    double_click_seconds: float = Field(
        2,
        ge=0,
        le=60,
        description="a view at most this long after the same user's last view of the item is a double click, unless it "
        "alone answers a request; only where the log's clock is finer (0: none)",
    )
    session_gap_minutes: int = Field(
        30,
        ge=1,
        le=1440,
        description="a silence longer than this ends a session; on a clock that is not finer it is a user's day or hour",
    )
    bot_actions_per_day: int = Field(
        500, ge=1, description="a user with events at more moments of one UTC day is a bot"
    )
    bot_actions_per_hour: int = Field(200, ge=1, description="a user with events at more moments of one hour is a bot")
    bot_regular_actions: int = Field(
        30,
        ge=3,
        description="gaps within a day's sessions needed to judge their regularity, on a clock finer than a minute",
    )
    bot_gap_variation: float = Field(
        0.1,
        ge=0,
        le=1,
        description="a user is a bot if the standard deviation of the gaps is at most this fraction of their mean",
    )
    bot_item_actions: int = Field(
        20,
        ge=2,
        description="a user with events of one item at so many moments of a UTC day is a bot that lifts it, unless it does "
        "much else",
    )
    bot_item_frac: float = Field(
        0.9, gt=0, le=1, description="the part of such a user's events of the day that are of the item, at least"
    )
    max_reject_frac: float = Field(
        0.05, ge=0, le=1, description="largest share of a source's records that may be malformed or hold a bad value"
    )
    max_stray_frac: float = Field(
        0.05,
        ge=0,
        le=0.2,
        description="largest share of all events, on either side of the log, that are refused as `stray_time` where a "
        "silence longer than 30 days and the log itself sets them apart (a fifth of it where the silence is longer than "
        "3 days and a tenth of the log): clocks are wrong there; 0 refuses none",
    )
