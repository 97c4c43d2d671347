"""The model of what comes next in a visit, as a job learns it from gold/sessions before a moment."""

import polars as pl
import pyarrow.compute as pc

from lib.models import sequence_weights
from lib.next_item import asking
from lib.next_item.model import NextItemModel, SequenceFits
from lib.ranking.examination import latest_days
from lib.runs import model_registry
from lib.runs.run import Run


def visits_before(run: Run, table: str, *, at_most: int) -> pl.DataFrame:
    """The latest visits that began before `as_of`, the oldest first: started_at and the items until then."""
    days = run.lake.rows_by_partition(table, "event_date", run.version_of(table))
    first = latest_days(days, run.as_of, num_rows=at_most)
    is_learnt = (pc.field("event_date") >= first) & (pc.field("started_at") < run.as_of)
    columns = ["session_id", "started_at", "items", "event_times"]
    stored = pl.DataFrame(run.read_arrow(table, columns, is_learnt))
    return asking.cut(stored, run.as_of).sort("started_at", "session_id").tail(at_most).select("started_at", "items")


def sequence_fits(run: Run) -> SequenceFits | None:
    """Both fits of the latest sequence model that used nothing from `as_of` on and is no candidate; None without one."""
    found = [row for row in model_registry.models(run.lake) if row["model"] == "sequence" and row["as_of"] is not None]
    usable = [row for row in found if row["as_of"] <= run.as_of and row["status"] != "candidate"]
    if not usable:
        return None
    row = max(usable, key=lambda row: (row["as_of"], row["created_at"]))
    folder = run.lake.local(row["uri"])
    fits = (model_registry.judged("sequence"), "sequence")
    try:
        return SequenceFits(*(sequence_weights.load(folder, fit) for fit in fits))
    except sequence_weights.UNREADABLE as error:
        run.log(f"next: {row['version']} of the sequence model left out", why=f"{type(error).__name__}: {error}")
        return None


def model_at(run: Run, table: str, *, at_most: int) -> NextItemModel | None:
    """What is learnt from at most so many visits before `as_of`; None without one.

    Those of a window as long as the validation window choose what answers.

    Args:
        run: the run.
        table: gold/sessions, which the job names itself.
        at_most: the latest visits.
    """
    visits = visits_before(run, table, at_most=at_most)
    if visits.is_empty():
        return None
    num_valid = visits.filter(pl.col("started_at") >= run.as_of - (run.times.test_from - run.times.valid_from)).height
    can_choose = 0 < num_valid < visits.height  # else the last of the visits do
    sequence = sequence_fits(run) if can_choose else None  # whose first fit knows the visits before a window
    model = NextItemModel.fit(visits["items"], num_valid=num_valid if can_choose else None, sequence=sequence)
    held_out = model.held_out.get(model.chosen)
    run.log(
        "next: learnt",
        visits=visits.height,
        items=len(model.catalogue),
        best=model.chosen,
        **(held_out._asdict() if held_out else {}),
        asked_to_choose=model.num_asked,
    )
    return model
