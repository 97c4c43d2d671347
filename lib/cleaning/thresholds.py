"""The fixed thresholds by which clean tells records apart."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CleaningRules:
    """The fixed thresholds by which records are told apart; the settings of jobs/spark/clean.py say what each means."""

    double_click_seconds: float
    session_gap_minutes: int
    bot_actions_per_day: int
    bot_actions_per_hour: int
    bot_regular_actions: int
    bot_gap_variation: float
