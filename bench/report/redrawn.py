"""The plots that the zoo published, as data: `models/published/plots.toml` and the figures it names."""

import functools
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from bench import published
from bench.errors import UsageError
from bench.published import Latency
from bench.report import figures
from bench.report.figures import Chart, Pen
from bench.report.rows import Row, backend_rank, is_runtime
from bench.schema import Frozen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATH = published.FOLDER / "plots.toml"

Figure = Literal["latency", "flops_g", "params_m", "storage_mb", "top1"]


#: inches of a plot with up to FEW points, and with more
SMALL, LARGE, FEW = (8, 5), (11, 7.5), 40


class Plot(Frozen, frozen=True):
    """One picture: what is on its x axis, and for a latency of which case. `without` names models to leave out."""

    name: str
    x: Figure
    limits: tuple[float, float]
    y_limits: tuple[float, float] | None = None
    device: str = ""
    precision: str = ""
    batch_size: int = 0
    threads: int | None = None
    campaign: str = ""
    without: tuple[str, ...] = ()


class Series(Frozen, frozen=True):
    """Models of one line: label of the point → name."""

    label: str
    models: dict[str, str]


class Elsewhere(Frozen, frozen=True):
    """The document that a figure is taken from, instead of the usual one."""

    model: str
    figure: Figure
    document: str


class Group(Frozen, frozen=True):
    """Plots of the same series. `families` are those whose pages show them; none for a survey of many families.

    `latency_of` names for a model the one whose latency is shown: the same network with other weights.
    """

    title: dict[str, str]
    y_limits: tuple[float, float]
    plots: tuple[Plot, ...]
    series: tuple[Series, ...]
    families: tuple[str, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()
    latency_of: dict[str, str] = {}
    note: str = ""


class Plots(Frozen, frozen=True):
    """The file: `top1` is the document of the accuracies."""

    top1: str
    group: tuple[Group, ...]


class Point(Frozen, frozen=True):
    """A model in a plot, `y` its accuracy. A measured latency lies between `low` and `high` where that is known."""

    model: str
    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Line(Frozen, frozen=True):
    """A series as drawn, in order of x. `place` is that among the series of its group, drawn or not.

    The points of a `single` one need no label, its model is named in the legend.
    """

    label: str
    place: int
    single: bool
    quoted: tuple[Point, ...]
    measured: tuple[Point, ...] = ()

    @property
    def points(self) -> tuple[Point, ...]:
        return (*self.quoted, *self.measured)


@functools.cache
def plots() -> Plots:
    """All of the file. Raises UsageError where it can't be read."""
    try:
        return msgspec.convert(tomllib.loads(PATH.read_text(encoding="utf-8")), Plots)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"cannot read {PATH.name}", str(error), f"mend {PATH}") from error


def lines(group: Group, plot: Plot, quoted: bool, rows: Iterable[Row]) -> list[Line]:
    """The series of a plot, from published latencies and from those rows that measured the plot's case.

    Raises UsageError for a figure that no document has.
    """
    measured = {row.model: row for row in _measured(plot, rows)}
    found = (_line(group, plot, place, quoted, measured) for place in range(len(group.series)))
    return [line for line in found if line.quoted or line.measured]


def _line(group: Group, plot: Plot, place: int, quoted: bool, measured: dict[str, Row]) -> Line:
    series = group.series[place]
    models = {label: model for label, model in series.models.items() if model not in plot.without}
    return Line(
        series.label,
        place,
        len(series.models) == 1,
        _sorted(_quoted(group, plot, label, model) for label, model in models.items() if quoted),
        _sorted(_of(group, label, measured[model]) for label, model in models.items() if model in measured),
    )


def _sorted(points: Iterable[Point]) -> tuple[Point, ...]:
    return tuple(sorted(points, key=lambda point: point.x))


def _quoted(group: Group, plot: Plot, label: str, model: str) -> Point:
    if plot.x == "latency":
        x = _latency(plot, group.latency_of.get(model, model)).latency_ms
    else:
        x = _figure(group, model, plot.x)
    return Point(model, label, x, _figure(group, model, "top1"))


def _of(group: Group, label: str, row: Row) -> Point:
    # `_measured` has no rows without latency.
    return Point(
        row.model, label, row.latency_ms or 0, _figure(group, row.model, "top1"), low=row.ci_low_ms, high=row.ci_high_ms
    )


def _figure(group: Group, model: str, figure: Figure) -> float:
    documents = [each.document for each in group.elsewhere if (each.model, each.figure) == (model, figure)]
    documents += [plots().top1] * (figure == "top1")
    found = [_printed().get((model, figure, document)) for document in documents]
    primary = getattr(published.models().get(model), figure, None)
    value = next((each for each in [*found, primary] if each is not None), None)
    if value is None:
        raise UsageError(f"{PATH.name}: {model} has no published {figure}", "", f"mend {PATH}")
    return float(value)


@functools.cache
def _printed() -> dict[tuple[str, str, str], float]:
    """The figures that a plot may show, by model, field and document."""
    shown = ("top1", "flops_g", "params_m")
    return {
        (each.model, each.field, each.source.partition(":")[0]): float(each.value)
        for each in published.figures()
        if each.field in shown
    }


def _latency(plot: Plot, model: str) -> Latency:
    found = _latencies().get((model, plot.device, plot.precision, plot.batch_size), [])
    fitting = [each for each in found if plot.threads in (None, each.threads)]
    chosen = [each for each in fitting if (each.campaign == plot.campaign if plot.campaign else each.canonical)]
    if not chosen:
        raise UsageError(f"{PATH.name}: {model} has no published latency for {plot.name}", "", f"mend {PATH}")
    return max(chosen, key=lambda each: each.canonical)


@functools.cache
def _latencies() -> dict[tuple[str, str, str, int], list[Latency]]:
    found: dict[tuple[str, str, str, int], list[Latency]] = {}
    for each in published.latencies():
        found.setdefault((each.model, each.device, each.precision, each.batch_size), []).append(each)
    return found


def _measured(plot: Plot, rows: Iterable[Row]) -> list[Row]:
    """Rows of the plot's case, all of one backend, interval and number of threads: if possible the published ones."""
    fitting = [row for row in rows if _fits(plot, row)]
    if not fitting:
        return []
    first = min(fitting, key=lambda row: _setup(plot, row))
    return [row for row in fitting if _setup(plot, row) == _setup(plot, first)]


def _fits(plot: Plot, row: Row) -> bool:
    known = row.source == "measured" and row.status == "ok" and row.latency_ms is not None
    case = (row.device, row.precision, row.batch_size) == (plot.device, plot.precision, plot.batch_size)
    return known and case and plot.threads in (None, row.threads) and is_runtime(row.backend)


def _setup(plot: Plot, row: Row) -> tuple[bool, tuple[int, str], bool, str, int]:
    backend, interval = _usual(plot.device)
    return (row.backend != backend, backend_rank(row.backend), row.interval != interval, row.interval, row.threads)


@functools.cache
def _usual(device: str) -> tuple[str, str]:
    """Backend, in our words, and interval of most of a device's published latencies."""
    found = Counter(
        (each.backend, published.campaigns()[each.campaign].interval)
        for each in published.latencies()
        if each.device == device and each.canonical
    )
    (backend, interval), _ = found.most_common(1)[0]
    return published.BACKENDS.get(backend, backend), interval


def selected(rows: Sequence[Row]) -> Iterator[tuple[Group, Plot]]:
    """The plots of the families and devices that a report is about; surveys unless it is about one family."""
    families = {row.family for row in rows}
    devices = {row.device for row in rows if row.source == "published"}
    for group in plots().group:
        if not (families & set(group.families) if group.families else len(families) > 1):
            continue
        yield from ((group, plot) for plot in group.plots if not devices or plot.device in {"", *devices})


# Drawing


def chart(group: Group, plot: Plot, lines: Sequence[Line]) -> Chart:
    return Chart(plot.name, _Redrawn(group, plot, lines).draw, group.note)


@dataclass(frozen=True)
class _Redrawn:
    """A series is known by its marker, a model by the label beside its point."""

    group: Group
    plot: Plot
    lines: Sequence[Line]

    def draw(self, pen: Pen) -> Any:
        points = [point for line in self.lines for point in line.points]
        figure = figures.figure(*(SMALL if len(points) <= FEW else LARGE))
        axes = figure.add_subplot()
        axes.set_title(self._title(pen))
        axes.set_xlabel(self._x_label(pen))
        axes.set_ylabel(pen.say("ImageNet top-1 accuracy", "ImageNet top-1 准确率"))
        for line in self.lines:
            _plot(axes, line)
        if any(line.quoted for line in self.lines):
            _ring(axes, [point for line in self.lines for point in line.measured], pen)
        self._limit(axes)
        figure.legend(loc="outside right upper")
        figures.freeze(figure)
        named = [point for line in self.lines if not line.single for point in line.quoted or line.measured]
        texts = [(point.x, point.y, point.label) for point in named]
        joined = [_spots(points) for line in self.lines for points in (line.quoted, line.measured) if len(points) > 1]
        figures.label(axes, texts, _spots(points), joined, reach=0.12)
        return figure

    def _title(self, pen: Pen) -> str:
        words = (
            [pen.say("published", "官方公布")] * any(line.quoted for line in self.lines),
            [pen.say("measured", "实测")] * any(line.measured for line in self.lines),
        )
        return f"{self.group.title[pen.language]} ({', '.join(chain(*words))})"

    def _x_label(self, pen: Pen) -> str:
        plot = self.plot
        if plot.x == "latency":
            threads = [pen.say(f"{plot.threads} thread", f"{plot.threads} 线程")] if plot.threads else []
            case = ", ".join([plot.device.upper(), plot.precision, *threads])
            size = plot.batch_size
            return pen.say(f"Latency of a batch of {size}, ms ({case})", f"每批 {size} 张的延迟, ms ({case})")
        return {
            "flops_g": "FLOPs, G (2 x MACs)",
            "params_m": pen.say("Parameters, M", "参数量, M"),
            "storage_mb": pen.say("Storage size, MB", "存储大小, MB"),
        }[plot.x]

    def _limit(self, axes: "Axes") -> None:
        """The published limits, or wider ones where a point lies beyond."""
        (left, right), (low, high) = self.plot.limits, self.plot.y_limits or self.group.y_limits
        bounds = axes.dataLim
        axes.set_xlim(min(left, bounds.x0), right if bounds.x1 <= right else bounds.x1 * 1.05)
        axes.set_ylim(min(low, bounds.y0 - 0.005), max(high, bounds.y1 + 0.005))


def _plot(axes: "Axes", line: Line) -> None:
    look = figures.mark(line.place)
    parts = [part for part in (line.quoted, line.measured) if part]
    for part in parts:
        label = line.label if part is parts[0] else None
        xs, ys = [point.x for point in part], [point.y for point in part]
        axes.plot(xs, ys, linestyle=":" if len(part) > 1 else "none", linewidth=0.8, label=label, **look)
    spans = [(point.y, point.low, point.high) for point in line.measured if point.low and point.high]
    figures.bars(axes, spans, look["color"])


def _ring(axes: "Axes", points: Sequence[Point], pen: Pen) -> None:
    """Rings around measured points, which stand among published ones."""
    if points:
        xs, ys = [point.x for point in points], [point.y for point in points]
        words = pen.say("measured (others: published)", "实测 (其余为官方公布)")
        axes.plot(xs, ys, "o", color="black", markerfacecolor="none", markersize=10, markeredgewidth=0.7, label=words)


def _spots(points: Iterable[Point]) -> list[tuple[float, float]]:
    return [(point.x, point.y) for point in points]
