"""The report's charts as plotly figures: bars, intervals, lines and columns.

A figure has no colours for page, text or grid: the page's style sheet sets them, so that charts follow light and dark
mode. The colours of the marks have a contrast of at least 3 in both. Each chart has a text alternative for those who
cannot see it.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

COLOURS = ("#3f7fd6", "#d4762a", "#2a9277", "#a565c0", "#c9549a", "#5b8c2a", "#8a8f98")
QUIET = "#8a8f98"
# The page's own fonts, so that plotly leaves the right room for labels.
FONT = {
    "family": 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif',
    "size": 13,
}
ROW_PIXELS = 30
MARGIN_PIXELS = 16
AXIS_PIXELS = 34
LEGEND_PIXELS = 30
LINE_CHART_PIXELS = 270


@dataclass(frozen=True)
class Chart:
    """A plotly figure as plain values; its title is shown outside it, and `alt` describes it in words."""

    title: str
    figure: dict[str, Any]
    alt: str
    height: int


@dataclass(frozen=True)
class Interval:
    """A value with its interval; `low` and `high` are None if there is no interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    series: str = ""

    def text(self, digits: int, unit: str = "") -> str:
        """The value and its interval in words."""
        value = f"{self.value:.{digits}f}{unit}"
        return (
            value
            if self.low is None or self.high is None
            else f"{value} [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        )


def bar_chart(title: str, labels: Sequence[str], values: Sequence[float], texts: Sequence[str]) -> Chart:
    """Horizontal bars from top to bottom, each with its text at the end."""
    bars = go.Bar(
        x=list(values),
        y=[_plain(label) for label in labels],
        text=[f" {_plain(text)}" for text in texts],
        orientation="h",
        marker_color=COLOURS[0],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    figure = _figure([bars], height=MARGIN_PIXELS + ROW_PIXELS * len(labels))
    figure.update_xaxes(visible=False, range=[0, 1.4 * max([*values, 1e-9])])
    figure.update_yaxes(autorange="reversed", type="category", ticklabelstandoff=6)
    figure.update_layout(bargap=0.38)
    return _chart(title, figure, zip(labels, texts, strict=True))


def interval_chart(
    title: str, intervals: Sequence[Interval], *, reference: float | None = None, digits: int = 3, unit: str = ""
) -> Chart:
    """A forest plot: a row per dot and interval, from the top, a colour per series, and a line at x = `reference`."""
    labels = list(dict.fromkeys(interval.label for interval in intervals))
    names = list(dict.fromkeys(interval.series for interval in intervals))
    traces = []
    for number, name in enumerate(names):
        chosen = [interval for interval in intervals if interval.series == name]
        # Series that share a label are drawn slightly apart, so that none hides another.
        shift = 0.0 if len(names) == 1 else (number / (len(names) - 1) - 0.5) * 0.44
        traces.append(
            go.Scatter(
                x=[interval.value for interval in chosen],
                y=[labels.index(interval.label) + shift for interval in chosen],
                name=_plain(name),
                mode="markers",
                marker={"size": 10, "color": COLOURS[number % len(COLOURS)]},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [_beyond(interval.high, interval.value) for interval in chosen],
                    "arrayminus": [_beyond(interval.value, interval.low) for interval in chosen],
                    "color": COLOURS[number % len(COLOURS)],
                    "thickness": 2,
                    "width": 5,
                },
                customdata=[[_plain(interval.label), interval.text(digits, unit)] for interval in chosen],
                hovertemplate="%{customdata[0]}: %{customdata[1]}<extra>%{fullData.name}</extra>",
            )
        )
    row_pixels = ROW_PIXELS if len(names) == 1 else ROW_PIXELS + 12 * len(names)
    figure = _figure(traces, height=MARGIN_PIXELS + AXIS_PIXELS + row_pixels * len(labels))
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[_plain(label) for label in labels],
        range=[len(labels) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
        ticklabelstandoff=6,
    )
    figure.update_xaxes(showgrid=True, zeroline=False, nticks=6, ticksuffix=unit, automargin=False)
    figure.update_layout(margin_b=AXIS_PIXELS)  # plotly's own margin would cut off the numbers under a single row
    if reference is not None:
        figure.add_vline(x=reference, line_width=1.5, line_dash="dot", line_color=QUIET)
    said = ((f"{i.series} {i.label}".strip(), i.text(digits, unit)) for i in intervals)
    return _chart(title, figure, said)


def line_chart(
    title: str, x: Sequence[str], series: Mapping[str, Sequence[float]], *, marks: Mapping[str, str]
) -> Chart:
    """Lines over time (`x` in ISO format), with a vertical line and a word at each of `marks` (word -> time)."""
    traces = [
        go.Scatter(
            x=list(x),
            y=list(values),
            name=_plain(name),
            mode="lines" if len(x) > 1 else "markers",
            line={"color": COLOURS[number % len(COLOURS)], "width": 2},
            hovertemplate="%{x|%d %b %H:%M}: %{y:,}<extra>%{fullData.name}</extra>",
        )
        for number, (name, values) in enumerate(series.items())
    ]
    figure = _figure(traces, height=LINE_CHART_PIXELS)
    figure.update_yaxes(showgrid=True, rangemode="tozero", nticks=5, tickformat="~s", zeroline=False)
    figure.update_xaxes(showgrid=False, type="date", nticks=6)
    for word, moment in marks.items():
        figure.add_shape(type="line", x0=moment, x1=moment, y0=0, y1=1, yref="paper", line=_thin_line())
        figure.add_annotation(
            x=moment, y=1, yref="paper", text=word, showarrow=False, xanchor="right", yanchor="bottom"
        )
    return _chart(title, figure, ((name, f"{sum(values):,.0f} in all") for name, values in series.items()))


def reliability_chart(title: str, points: Mapping[str, Sequence[tuple[float, float]]]) -> Chart:
    """What was said (x) and what came (y), both 0..1, of bins of each series; on the dotted diagonal they agree."""
    largest = max((value for series in points.values() for point in series for value in point), default=1.0)
    traces = [
        go.Scatter(
            x=[said for said, _ in series],
            y=[came for _, came in series],
            name=_plain(name),
            mode="lines+markers",
            line={"color": COLOURS[number % len(COLOURS)], "width": 2},
            hovertemplate="said %{x:.1%}, came %{y:.1%}<extra>%{fullData.name}</extra>",
        )
        for number, (name, series) in enumerate(points.items())
    ]
    figure = _figure(traces, height=LINE_CHART_PIXELS)
    figure.add_shape(type="line", x0=0, y0=0, x1=largest, y1=largest, line=_thin_line())
    axes = {"tickformat": ".0%", "rangemode": "tozero", "showgrid": True, "zeroline": False, "nticks": 6}
    figure.update_xaxes(**axes)
    figure.update_yaxes(**axes)
    figure.update_layout(margin_b=AXIS_PIXELS)
    pairs = {name: ", ".join(f"{said:.1%} {came:.1%}" for said, came in series) for name, series in points.items()}
    return _chart(title, figure, pairs.items())


def column_chart(title: str, labels: Sequence[str], values: Sequence[float], *, value_format: str) -> Chart:
    """Vertical columns from left to right; `value_format` is a format that both plotly (d3) and Python understand."""
    columns = go.Bar(
        x=[_plain(label) for label in labels],
        y=list(values),
        marker_color=COLOURS[2],
        hovertemplate="%{x}: %{y:" + value_format + "}<extra></extra>",
    )
    figure = _figure([columns], height=LINE_CHART_PIXELS)
    figure.update_xaxes(type="category", showgrid=False, nticks=12)
    figure.update_yaxes(tickformat=value_format, showgrid=True, nticks=5, zeroline=False)
    figure.update_layout(bargap=0.2)
    return _chart(
        title, figure, ((label, format(value, value_format)) for label, value in zip(labels, values, strict=True))
    )


def _figure(traces: Sequence[Any], *, height: int) -> go.Figure:
    clear = "rgba(0,0,0,0)"
    has_legend = len(traces) > 1
    return go.Figure(
        data=list(traces),
        layout={
            "template": "none",
            "height": height + (LEGEND_PIXELS if has_legend else 0),
            "font": FONT,
            "paper_bgcolor": clear,
            "plot_bgcolor": clear,
            "margin": {"l": 4, "r": 12, "t": 4 + (LEGEND_PIXELS if has_legend else 0), "b": 4},
            "showlegend": has_legend,
            "legend": {
                "orientation": "h",
                "x": 0,
                "xref": "container",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "bgcolor": clear,
            },
            "hoverlabel": {"bgcolor": "#23262d", "bordercolor": "#23262d", "font": {"color": "#ffffff"}},
            "dragmode": False,
            "xaxis": {"automargin": True, "fixedrange": True},
            "yaxis": {"automargin": True, "fixedrange": True},
        },
    )


def _chart(title: str, figure: go.Figure, said: Iterable[tuple[str, str]]) -> Chart:
    alt = f"{title}: " + "; ".join(f"{name} {value}" for name, value in said)
    return Chart(title, figure.to_plotly_json(), alt, int(figure.layout.height))


def _plain(text: str) -> str:
    """Text escaped so that plotly shows it unchanged; it would interpret tags as its own markup."""
    return html.escape(text, quote=False)


def _thin_line() -> dict[str, Any]:
    return {"width": 1.5, "dash": "dot", "color": QUIET}


def _beyond(upper: float | None, lower: float | None) -> float:
    return 0.0 if upper is None or lower is None else max(upper - lower, 0.0)
