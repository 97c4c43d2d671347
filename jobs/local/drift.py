"""drift: gold/interactions, silver/events, model `release` -> gold/drift.

How far three things have moved since the release that serves was made: the features and scores of candidates, drawn now as the
release drew its reference (lib/serving/reference.py), by the same retrievers and ranker; what is asked for; and what comes of what is
shown. What moved further than chance, and far enough to matter, has `is_drifted` (lib/drift/, docs/decisions/0038). The last line says so, and what to
run. With `drift.retrain: when_drifted` the job runs it: featurize to publish, once for a release. A rerun, a retry or a kill
changes nothing.
"""

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from lib.drift import candidates, events, rewards
from lib.drift.compare import compare, num_units
from lib.drift.judging import Limits, of_measures, of_policies, of_sequence
from lib.drift.retraining import command_of, is_done, retrain, settle_others
from lib.runs.errors import JobEndedError
from lib.runs.log_times import resolve_as_of
from lib.runs.model_registry import RELEASE
from lib.runs.run import Run, start_run
from lib.serving import release as releases
from lib.serving.release import REFERENCE, Release
from lib.settings import JobSettings
from lib.tables import contract

MOST_TOLD = 8  # measures in the last line
MORE_USERS = 2  # than the reference has rows of are drawn: a user may have fewer candidates now


class DriftSettings(JobSettings):
    """What counts as drift, and whether the pipeline runs again then."""

    until: str = Field(
        "end",
        description="the time that stands for now: `end`, of the log, or an ISO time with a zone; later events are not read",
    )
    min_psi: float = Field(
        0.2,
        ge=0,
        le=10,
        description="population stability index, beyond what chance makes, from which on a measure has drifted",
    )
    max_p: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="corrected p value below which a difference is more than chance: so rarely is there a false alarm",
    )
    min_reward_change_frac: float = Field(
        0.1, ge=0, description="change of a reward's rate, as a share of it, from which on it has drifted"
    )
    reward_hours: float = Field(
        1,
        gt=0,
        le=24 * 90,
        description="hours within which a reaction counts as one to an impression; younger ones are left out",
    )
    reward_days_before: float = Field(
        28, gt=0, description="days before the release whose impressions tell the rate before"
    )
    adwin_delta: float = Field(
        0.002, gt=0, lt=1, description="ADWIN's bound on the chance of a false change at each look"
    )
    unwatched: tuple[str, ...] = Field(
        ("user_age_days",),
        description="measures of candidates and events that are told and never count as drifted: the age of users grows with the log itself",
    )
    num_permutations: int = Field(
        9_999, ge=99, le=1_000_000, description="draws of the permutation test; no p value is below 1 / (draws + 1)"
    )
    max_events: int = Field(
        500_000,
        ge=1_000,
        description="events since the release, and before it, that are read: beyond, those of users who are drawn",
    )
    seed: int = Field(1, ge=0, description="seed of the draws")
    retrain: Literal["never", "when_drifted"] = Field(
        "never", description="when_drifted: run the pipeline from featurize to publish, once for a release"
    )

    @field_validator("until")
    @classmethod
    def is_a_moment(cls, value: str) -> str:
        if value == "end":
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise ValueError("should be end or an ISO time with a zone, such as 2011-11-09T00:00:00Z")
        return moment.astimezone(UTC).isoformat()

    def limits(self) -> Limits:
        """From where on a difference counts."""
        return Limits(self.max_p, self.min_psi, self.min_reward_change_frac, frozenset(self.unwatched))


def current_release(run: Run) -> tuple[Release, pl.DataFrame]:
    """The release that serves, and its reference; ends the run as skipped where there is none."""
    row = run.current_model(RELEASE)
    if row is None:
        run.skip("no release was published: run publish")
    folder: Path = run.lake.local(row["uri"])
    release = releases.load(folder)
    if not (folder / REFERENCE).is_file():
        run.skip(f"release {release.version} keeps no reference ({REFERENCE}): publish again")
    return release, pl.read_parquet(folder / REFERENCE)


def of_candidates(
    run: Run, release: Release, reference: pl.DataFrame, moment: datetime, settings: DriftSettings
) -> list[dict[str, Any]]:
    """The rows of features and of the score."""
    if not len(reference):
        run.log("candidates left out", why=f"the reference of {release.version} has no row")
        return []
    users_then = num_units(candidates.users_of_rows(reference))
    now = candidates.candidates_now(
        release,
        run.dataset("gold/interactions"),
        moment,
        num_users=MORE_USERS * users_then,
        num_rows=len(reference),
        seed=settings.seed,
    )
    if not len(now):
        run.log("candidates left out", why=f"nobody has one as of {moment:%Y-%m-%d %H:%M}")
        return []
    measures, sides = candidates.measures_of(reference, now)
    num = num_units(sides.then), num_units(sides.now)
    run.log("candidates", then=len(reference), now=len(now), users_then=num[0], users_now=num[1])
    found = compare(measures, sides, num_permutations=settings.num_permutations, seed=settings.seed)
    kinds = {one.name: "score" if one.name == candidates.SCORE else "feature" for one in measures}
    return of_measures(kinds, found, num, settings.limits())


def events_between(
    run: Run, columns: tuple[str, ...], start: datetime, end: datetime, condition: pc.Expression, *, at_most: int
) -> pl.DataFrame:
    """People's events in [start, end): all, or beyond `at_most` those of the users with the first keys, which are drawn by a keyed hash."""
    time, day = pc.field("event_time"), pc.field("event_date")
    wanted = (
        (time >= start) & (time < end) & (day >= start.date()) & (day <= end.date()) & ~pc.field("is_bot") & condition
    )
    data = run.dataset("silver/events")
    number = data.count_rows(filter=wanted)
    if number > at_most:
        last = f"{int(at_most / number * 2**32):08x}"
        unit = pc.coalesce(pc.field("user_key"), pc.field("event_id"))
        wanted &= unit < last
        run.log("events of some users alone", of=number, frac=at_most / number)
    return pl.DataFrame(data.to_table([*columns], filter=wanted)).sort("event_time", "event_id")


def of_events(run: Run, release: Release, moment: datetime, settings: DriftSettings) -> list[dict[str, Any]]:
    """The rows of what is asked for since the release, against as long a time before it."""
    start = release.facts.as_of
    before, since = events.Window(start - (moment - start), start), events.Window(start, moment)
    rows = events_between(
        run, events.COLUMNS, before.start, since.end, pc.scalar(value=True), at_most=2 * settings.max_events
    )
    num = len(before.of(rows)), len(since.of(rows))
    run.log("events", before=num[0], since=num[1])
    if not all(num):
        return []
    measures, sides, told = events.measures_of(rows, release, before, since)
    if before.start - run.times.start < moment - start:  # in a log that has just begun everybody is new
        measures = [one for one in measures if one.name not in events.OF_NEWCOMERS]
        run.log(
            "unknown users and items left out", why="the log is shorter than three times the time since the release"
        )
    found = compare(measures, sides, num_permutations=settings.num_permutations, seed=settings.seed)
    kinds = {one.name: "events" for one in measures}
    return of_measures(kinds, found, (num_units(sides.then), num_units(sides.now)), settings.limits(), told)


def of_rewards(run: Run, release: Release, moment: datetime, settings: DriftSettings) -> list[dict[str, Any]]:
    """The rows of what comes of impressions since the release, against what came before."""
    start, within = release.facts.as_of, timedelta(hours=settings.reward_hours)
    first = start - timedelta(days=settings.reward_days_before)
    tied = pc.field("request_id").is_valid()
    rows = events_between(run, rewards.COLUMNS, first, moment, tied, at_most=2 * settings.max_events)
    shown = rewards.rewarded(rows, until=moment, within=within)
    is_before = pl.col("event_time") < start
    before, since = shown.filter(is_before), shown.filter(~is_before)
    run.log("impressions of a policy", before=len(before), since=len(since))
    if before.is_empty() or since.is_empty():
        return []
    found, by_policy = [], {}
    for reward in rewards.REACTIONS:
        values = shown[reward].to_numpy()
        change = rewards.changes(values, len(before), delta=settings.adwin_delta)
        at = None if change.first is None else f"{shown['event_time'][change.first]:%Y-%m-%d %H:%M}"
        of_all = rewards.together(before, since, reward)
        found.append(of_sequence(reward, of_all, change, at, settings.limits()))
        by_policy[reward] = rewards.by_policy(before, since, reward)
    return found + of_policies(by_policy, settings.limits())


def forget_others(run: Run, release: Release) -> None:
    """Empty a table that tells of another release, lest its drift is taken for this one's."""
    if run.lake.exists("gold/drift"):
        held = run.lake.dataset("gold/drift").to_table(columns=["release"])
        if set(held["release"].to_pylist()) - {release.version}:
            run.commit_arrow("gold/drift", contract("gold/drift").schema.empty_table())


def measured(run: Run, settings: DriftSettings) -> list[dict[str, Any]]:
    """The rows of gold/drift."""
    release, reference = current_release(run)
    moment = resolve_as_of(settings.until, run.times)
    start = release.facts.as_of
    if moment <= start:
        forget_others(run, release)
        run.skip(f"nothing has happened since release {release.version}, as of {start:%Y-%m-%d %H:%M}")
    rows = [
        *of_candidates(run, release, reference, moment, settings),
        *of_events(run, release, moment, settings),
        *of_rewards(run, release, moment, settings),
    ]
    if not rows:
        run.skip(f"nothing can be compared between {start:%Y-%m-%d %H:%M} and {moment:%Y-%m-%d %H:%M}")
    told = {"release": release.version, "released_as_of": start, "as_of": moment}
    return [told | row for row in rows]


def main(settings: DriftSettings) -> None:
    release, drifted, run_id = None, "", ""
    with start_run("drift", settings) as run:
        rows = measured(run, settings)
        run.commit_arrow("gold/drift", pa.Table.from_pylist(rows, schema=contract("gold/drift").schema))
        release, run_id, lake = rows[0]["release"], run.run_id, run.lake
        names = [f"{row['kind']} {row['name']}" for row in rows if row["is_drifted"]]
        more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
        drifted = ", ".join(names[:MOST_TOLD]) + more
        again = shlex.join(["python", *command_of(lake, settings._arguments)])
        settle_others(lake, release)
        wanted = bool(names) and settings.retrain == "when_drifted" and not is_done(lake, release)
        if not names:
            run.log(f"release {release} has not drifted", measures=len(rows))
        elif wanted:
            run.log(f"release {release} has drifted: {drifted}; runs {again}", measures=len(rows), drifted=len(names))
        elif settings.retrain == "when_drifted":
            run.log(
                f"release {release} has drifted: {drifted}; the pipeline has run for it already", drifted=len(names)
            )
        else:
            run.log(f"release {release} has drifted: {drifted}; run {again}", measures=len(rows), drifted=len(names))
    if release is not None and wanted:
        code = retrain(lake, release, run_id, drifted, settings._arguments)
        if code not in (0, 3):
            raise JobEndedError(f"the pipeline that drift ran ended with exit code {code}", code)


if __name__ == "__main__":
    main(DriftSettings.from_command_line())
