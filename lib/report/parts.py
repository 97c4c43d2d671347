"""The parts of a section of the report, and the formatting of its numbers and words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import floor, log10

from lib.report.charts import Chart
from lib.report.facts import Row

MINUS = "−"
GAP_CHARACTERS = 2
HALF_PAGE_CHARACTERS = 54


@dataclass(frozen=True)
class Grid:
    """A table of texts; the first `num_text_columns` are aligned left, the others are numbers."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    num_text_columns: int = 1

    @property
    def is_narrow(self) -> bool:
        """Whether it fits in half the page's width."""
        columns = zip(self.header, *self.rows, strict=True)
        return sum(max(len(cell) for cell in column) + GAP_CHARACTERS for column in columns) <= HALF_PAGE_CHARACTERS


@dataclass(frozen=True)
class Picture:
    """An image inlined in the page."""

    data_uri: str
    alt: str
    caption: str
    is_generated: bool = True


@dataclass(frozen=True)
class Section:
    """One part of the page; `missing` replaces everything else if there is nothing to show."""

    id: str
    title: str
    text: str = ""
    charts: list[Chart] = field(default_factory=list)
    tables: list[Grid] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    missing: str | None = None

    @property
    def layout(self) -> str:
        """How charts and tables share the width: beside, pair (tables in two columns) or stacked."""
        are_narrow = all(table.is_narrow for table in self.tables)
        if are_narrow and len(self.charts) == 1:
            return "beside"
        return "pair" if are_narrow and len(self.tables) > 1 else "stacked"


def count(value: float | None) -> str:
    """12345 -> 12,345; an unknown value is an en dash."""
    return "–" if value is None else f"{value:,.0f}"


def decimal(value: float | None, digits: int = 3) -> str:
    """0.12345 -> 0.123."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def digits_of(*values: float | None) -> int:
    """Digits after the point that show the largest of the values with three significant digits; at least three."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return 3 if largest == 0 else max(3, 2 - floor(log10(largest)))


def signed(value: float | None, digits: int = 3) -> str:
    """0.12345 -> +0.123."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def percent(part: float, whole: float, digits: int = 1) -> str:
    """1, 8 -> 12.5 %."""
    return "–" if not whole else f"{100 * part / whole:.{digits}f} %"


def interval(low: float | None, high: float | None, digits: int = 3, *, with_sign: bool = False) -> str:
    """[low, high], or an empty text if there is no interval."""
    if low is None or high is None:
        return ""
    show = signed if with_sign else decimal
    return f"[{show(low, digits)}, {show(high, digits)}]"


def words(name: str) -> str:
    """A name as words: bad_value:price -> bad value: price."""
    return name.replace("_", " ").replace(":", ": ")


def metric_words(name: str) -> str:
    """A metric as people write it, a paired difference included."""
    known = {"auc": "AUC", "pr_auc": "PR-AUC", "ctr": "CTR", "log_loss": "log loss"}
    known |= {"ece": "calibration error", "ece_calibrated": "calibration error, corrected"}
    head, minus, other = name.partition("_minus_")
    shown = known.get(head, words(head))
    return f"{shown} minus {words(other)}’s" if minus else shown


def estimator_words(name: str) -> str:
    """An off-policy estimator's name."""
    known = {"dr": "doubly robust", "mean_return": "mean return", "true": "true value"}
    known["pdis"] = "importance sampling (diagnostic)"
    return known.get(name, words(name))


def with_interval(row: Row | None) -> str:
    """A row's value and its interval."""
    return "–" if row is None else f"{decimal(row['value'])} {interval(row['low'], row['high'])}".strip()


def probability(p: float | None) -> str:
    """0.0123 -> 0.012; a value that rounds to zero -> < 0.001."""
    return "–" if p is None else "< 0.001" if p < 0.0005 else f"{p:.3f}"


def moment(time: datetime | None) -> str:
    """20 Mar 2026 00:00."""
    return "–" if time is None else f"{time:%d %b %Y %H:%M}"


def plural(number: int, noun: str) -> str:
    """1 -> 1 file, 2 -> 2 files."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def sentence(text: str) -> str:
    """The text as a complete sentence."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def enumerate_words(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
