"""What `cartwheel formats` shows: the shipped mappings, what one makes of a file, and a proposal for a file none knows."""

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from lib.formats.mapping import LogMapping, load_mapping, parse_mapping, shipped_names, shipped_text
from lib.trial.outcome import Outcome, outcomes
from lib.trial.proposal import proposal

FITS = 0.5  # a shipped mapping that accepts so many of a file's first rows is the file's own


def shipped() -> Grid:
    """The shipped mappings, with the first line of each."""
    grid = Grid("format", "reads", box=None)
    for name in shipped_names():
        grid.add_row(name, shipped_text(name).partition("\n")[0].removeprefix("# "))
    return grid


def show_trial(console: Console, log: str, given: str | None, *, max_rows: int) -> None:
    """Print what a mapping makes of the first rows of a log: the one given, else a shipped one that fits, else a proposal."""
    if given is not None:
        _show(console, outcomes(log, load_mapping(given), max_rows=max_rows))
        return
    found = {name: read for name in shipped_names() if (read := _tried(log, load_mapping(name), max_rows))}
    if found:
        best = max(found, key=lambda name: _share(found[name]))
        console.print(f"The shipped mapping {best} reads it: --format {best}.\n")
        _show(console, found[best])
        return
    text = proposal(log, max_rows=max_rows)
    console.print("No shipped mapping reads it. A proposal, to be saved and mended:\n")
    console.print(Text(text), soft_wrap=True)
    try:
        _show(console, outcomes(log, parse_mapping(text, "the proposal"), max_rows=max_rows))
    except ValueError as error:
        console.print(f"It is not yet right: {error}", soft_wrap=True)


def _tried(log: str, mapping: LogMapping, max_rows: int) -> list[Outcome]:
    """What a mapping makes of a log; nothing if it cannot read it, or accepts too little."""
    try:
        found = outcomes(log, mapping, max_rows=max_rows)
    except ValueError:
        return []
    return found if _share(found) >= FITS else []


def _share(found: list[Outcome]) -> float:
    return min(outcome.accepted_frac for outcome in found)


def _show(console: Console, found: list[Outcome]) -> None:
    for outcome in found:
        part = "all" if outcome.is_whole else "first"
        console.print(Text.assemble((outcome.source, "bold"), f"  {part} {outcome.num_rows:,} rows of {outcome.path}"))
        grid = Grid(box=None, show_header=False)
        grid.add_column()
        grid.add_column(overflow="fold")
        grid.add_row("records", _counted(outcome.num_by_outcome))
        if outcome.num_by_type:
            grid.add_row("events", _counted(outcome.num_by_type))
        for name, words in outcome.facts.items():
            grid.add_row(name, words)
        for line in outcome.remarks:
            grid.add_row("note", line)
        console.print(grid)
        rows = Grid(*outcome.sample.columns, box=None)
        for row in outcome.sample.iter_rows():
            rows.add_row(*(_cell(value) for value in row))
        console.print(rows)
        console.print()


def _counted(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in sorted(numbers.items(), key=lambda pair: -pair[1]))


def _cell(value: object) -> str:
    text = "" if value is None else " > ".join(value) if isinstance(value, list) else str(value)
    return text if len(text) <= 32 else f"{text[:29]}..."
