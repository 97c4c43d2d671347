"""The fixed thresholds by which clean tells records apart: settings of that job, and all that lib/cleaning takes of them."""

from pydantic import BaseModel, ConfigDict, Field


class Thresholds(BaseModel):
    """What makes a record a double click, a session or a bot's."""

    model_config = ConfigDict(frozen=True)

    double_click_seconds: float = Field(
        2,
        ge=0,
        le=60,
        description="a view at most this long after the same user's last view of the item is its double click",
    )
    session_gap_minutes: int = Field(30, ge=1, le=1440, description="a silence longer than this ends a session")
    bot_actions_per_day: int = Field(500, ge=1, description="more moments with an event on one UTC day are a bot's")
    bot_actions_per_hour: int = Field(200, ge=1, description="more moments with an event in one hour are a bot's")
    bot_regular_actions: int = Field(
        30, ge=3, description="gaps within a day's sessions before their regularity is judged"
    )
    bot_gap_variation: float = Field(
        0.1, ge=0, le=1, description="gaps whose standard deviation is at most this part of their mean are a bot's"
    )
