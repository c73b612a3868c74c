"""Our own plots of rows: accuracy against latency with its front, scaling with batch and threads, samples of a case."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bench import pareto, stats
from bench.report import figures
from bench.report.figures import GREY, Chart, Pen
from bench.report.rows import Repetition, Row
from bench.report.tables import choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 12
COLUMNS = 3
LINES = len(figures.COLOURS)
#: below it so many models are all named, not those of the front alone
NAME_ALL = 15
#: a latency so many times the 99th percentile is drawn at the edge, or all others would lie on one line
FAR = 2
#: an axis whose values span less is linear
LOG_RATIO = 10


def known(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.status == "ok" and row.latency_ms]


def settings(row: Row, pen: Pen, *left_out: str) -> str:
    """The case of a row in words, but for its model and what is left out."""
    words = {
        "device": pen.name(row.device),
        "backend": pen.name(row.backend),
        "precision": row.precision,
        "batch_size": pen.say(f"batch {row.batch_size}", f"批大小 {row.batch_size}"),
        "threads": pen.say(f"{row.threads} thread{'s' * (row.threads != 1)}", f"{row.threads} 线程"),
        "interval": row.interval,
        "source": pen.say(row.source, {"measured": "实测", "published": "官方公布"}[row.source]),
    }
    # A published figure may not say with how many threads, and there are none on a GPU.
    hidden = {*left_out, *([] if row.threads else ["threads"])}
    return ", ".join(word for name, word in words.items() if name not in hidden)


def _by(rows: Iterable[Row], fields: Sequence[str]) -> Iterator[list[Row]]:
    """Groups of rows that are equal in those fields, in the order in which they come first."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, field) for field in fields), []).append(row)
    yield from groups.values()


def _name(kind: str, row: Row, fields: Iterable[str]) -> str:
    short = {"batch_size": "bs{}", "threads": "t{}"}
    return ".".join([kind, *(short.get(field, "{}").format(getattr(row, field)) for field in fields)])


# Accuracy against latency

FRONT = ("device", "backend", "precision", "batch_size", "threads", "interval", "source")


def fronts(rows: Iterable[Row]) -> Iterator[Chart]:
    """A chart for each setting in which two models or more have both a latency and an accuracy."""
    for group in _by([row for row in known(rows) if row.top1 is not None], FRONT):
        if len(group) > 1:
            yield Chart(_name("front", group[0], FRONT), _Front(group).draw, "top-1 accuracy against latency")


@dataclass(frozen=True)
class _Front:
    rows: list[Row]

    def draw(self, pen: Pen) -> "Figure":
        figure, complete = self._draw(pen, numbered=False)
        return figure if complete else self._draw(pen, numbered=True)[0]

    def _draw(self, pen: Pen, numbered: bool) -> tuple["Figure", bool]:
        """The figure, its models named beside their points or numbered; and whether there was room for that."""
        figure = figures.figure(9.5 if numbered else 7.5, 5)
        axes = figure.add_subplot()
        row = self.rows[0]
        axes.set_title(settings(row, pen))
        axes.set_xlabel(pen.say(f"Latency of a batch of {row.batch_size}, ms", f"每批 {row.batch_size} 张的延迟, ms"))
        axes.set_ylabel(pen.say("ImageNet top-1 accuracy", "ImageNet top-1 准确率"))
        axes.margins(0.08)
        best, others = self._split()
        stairs, spans = _stairs(best), _spans(self.rows)
        axes.plot(*_columns(stairs), color=GREY, linewidth=0.8, zorder=1.5)
        figures.bars(axes, spans, GREY)
        _scatter(axes, others, "o", GREY, pen.say("beaten by another", "被其他模型支配"))
        _scatter(axes, best, "D", figures.COLOURS[1], pen.say("on the Pareto front", "帕累托前沿"))
        latencies = [x for x, _ in _spots(self.rows)]
        if max(latencies) > LOG_RATIO * min(latencies):
            figures.round_ticks(axes, "x")
        figure.legend(loc="outside lower center", ncols=2)
        names = [pen.name(each.model, 50) for each in best]
        if numbered:
            _key(figure, names)
            names = [str(number) for number in range(1, len(best) + 1)]
        elif len(self.rows) <= NAME_ALL:
            names += [pen.name(each.model, 50) for each in others]
        figures.freeze(figure)
        texts = [(*spot, name) for spot, name in zip(_spots([*best, *others]), names, strict=False)]
        bars = [[(low, y), (high, y)] for y, low, high in spans]
        return figure, figures.label(axes, texts, _spots(self.rows), [stairs, *bars])

    def _split(self) -> tuple[list[Row], list[Row]]:
        """The models of the front, by latency, and the others."""
        best = pareto.front([choice(row) for row in self.rows])
        rows = sorted(zip(self.rows, best, strict=True), key=lambda pair: pair[0].latency_ms or 0)
        return [row for row, leads in rows if leads], [row for row, leads in rows if not leads]


def _spots(rows: Iterable[Row]) -> list[tuple[float, float]]:
    return [(row.latency_ms or 0, row.top1 or 0) for row in rows]


def _scatter(axes: "Axes", rows: Sequence[Row], marker: str, colour: str, label: str) -> None:
    if rows:
        face = "white" if marker == "o" else colour
        axes.plot(*_columns(_spots(rows)), marker, color=colour, markerfacecolor=face, markersize=4, label=label)


def _key(figure: "Figure", names: Iterable[str]) -> None:
    """The names behind the numbers, from 1, beside the plot."""
    from matplotlib.lines import Line2D

    # A figure space is as wide as a digit.
    entries = [f"{number:\N{FIGURE SPACE}>2} {name}" for number, name in enumerate(names, start=1)]
    nothing = [Line2D([], [], linestyle="none") for _ in entries]
    figure.legend(nothing, entries, loc="outside right upper", handlelength=0, handletextpad=0, fontsize=6.5)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _spans(rows: Iterable[Row]) -> list[tuple[float, float, float]]:
    """Accuracy and both ends of the interval, where there is one."""
    return [(row.top1 or 0, row.ci_low_ms, row.ci_high_ms) for row in rows if row.ci_low_ms and row.ci_high_ms]


def _stairs(best: Iterable[Row]) -> list[tuple[float, float]]:
    """The most accurate model of the front that is no slower, at each latency."""
    corners: list[tuple[float, float]] = []
    for x, y in _spots(best):
        if not corners:
            corners.append((x, y))
        elif y > corners[-1][1]:
            corners += [(x, corners[-1][1]), (x, y)]
    return corners


# Latency against batch size and threads

BATCH = ("device", "backend", "precision", "threads", "interval", "source")
THREADS = ("device", "backend", "precision", "batch_size", "interval", "source")


def batches(rows: Iterable[Row]) -> Iterator[Chart]:
    """Latency against batch size, a panel for each family: pages of PANELS."""
    yield from _scalings("batch", known(rows), BATCH, "batch_size")


def threads(rows: Iterable[Row]) -> Iterator[Chart]:
    """Latency against threads, like `batches`."""
    yield from _scalings("threads", [row for row in known(rows) if row.threads], THREADS, "threads")


def _scalings(kind: str, rows: Iterable[Row], fields: Sequence[str], over: str) -> Iterator[Chart]:
    for group in _by(rows, fields):
        pages = list(_evenly(_panels(group, over), PANELS))
        for number, page in enumerate(pages, start=1):
            name = _name(kind, group[0], fields) + (f".{number}" if len(pages) > 1 else "")
            yield Chart(name, _Scaling(page, over, f"{number}/{len(pages)}").draw, f"latency against {over}")


def _panels(rows: Iterable[Row], over: str) -> list[Sequence[list[Row]]]:
    """Panels of at most LINES lines; a line has a model's rows in order. Small families share their panels."""
    found = [sorted(line, key=lambda row: getattr(row, over)) for line in _by(rows, ("model",))]
    lines = sorted((line for line in found if len(line) > 1), key=lambda line: line[0].family)
    families = [list(group) for _, group in groupby(lines, key=lambda line: line[0].family)]
    large = [part for family in families if len(family) > LINES // 2 for part in _evenly(family, LINES)]
    small = _packed(family for family in families if len(family) <= LINES // 2)
    return sorted([*large, *small], key=lambda panel: panel[0][0].family)


def _packed(families: Iterable[list[Any]]) -> Iterator[list[Any]]:
    """Whole families together, as long as they are no more than LINES lines."""
    panel: list[Any] = []
    for family in families:
        if panel and len(panel) + len(family) > LINES:
            yield panel
            panel = []
        panel = [*panel, *family]
    if panel:
        yield panel


def _evenly(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """Parts of about the same size, none larger than `most`."""
    parts = math.ceil(len(items) / most)
    for part in range(parts):
        yield items[len(items) * part // parts : len(items) * (part + 1) // parts]


@dataclass(frozen=True)
class _Scaling:
    panels: Sequence[Sequence[list[Row]]]
    over: str
    page: str

    def draw(self, pen: Pen) -> "Figure":
        columns = min(COLUMNS, len(self.panels))
        height = math.ceil(len(self.panels) / columns)
        figure = figures.figure(1 + 3.8 * columns, 0.8 + 2.2 * height)
        first = self.panels[0][0][0]
        pages = "" if self.page == "1/1" else f" ({self.page})"
        figure.suptitle(settings(first, pen, self.over) + pages)
        for place, panel in enumerate(self.panels, start=1):
            self._panel(figure.add_subplot(height, columns, place), panel, pen)
        figure.supxlabel(self._x_label(pen), fontsize="medium")
        figure.supylabel(pen.say("latency of a batch, ms", "每批延迟, ms"), fontsize="medium")
        figures.freeze(figure)
        return figure

    def _x_label(self, pen: Pen) -> str:
        if self.over == "batch_size":
            return pen.say("batch size (dotted: proportional to it)", "批大小 (虚线: 与批大小成正比)")
        return pen.say("threads (dotted: inversely proportional)", "线程数 (虚线: 与线程数成反比)")

    def _panel(self, axes: "Axes", panel: Sequence[list[Row]], pen: Pen) -> None:
        figures.round_ticks(axes, "x")
        figures.round_ticks(axes, "y")
        families = dict.fromkeys(line[0].family for line in panel)
        axes.set_title(pen.name(", ".join(families)), fontsize="medium")
        for place, line in enumerate(panel):
            xs = [getattr(row, self.over) for row in line]
            ys = [row.latency_ms or 0 for row in line]
            look = figures.mark(place)
            ideal = [ys[0] * (x / xs[0] if self.over == "batch_size" else xs[0] / x) for x in xs]
            axes.plot(xs, ideal, ":", color=look["color"], linewidth=0.7)
            axes.plot(xs, ys, **look, label=pen.name(line[0].model, 30))
        axes.set_xticks(sorted({getattr(row, self.over) for line in panel for row in line}))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1.03), fontsize=6, handlelength=1.4, borderaxespad=0.2)


# Samples of a case


def samples(row: Row, repetitions: Sequence[Repetition]) -> Chart:
    """How the latency of a case went on over time, warm-up included, and how it is distributed."""
    name = _name("samples", row, ("model", *FRONT[:-1], "run_id"))
    return Chart(name, _Samples(row, repetitions).draw, "samples over time, and their distribution")


@dataclass(frozen=True)
class _Samples:
    row: Row
    repetitions: Sequence[Repetition]

    def draw(self, pen: Pen) -> "Figure":
        figure = figures.figure(8.5, 3.8)
        over_time, shares = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        title = f"{pen.name(self.row.model)}: {settings(self.row, pen, 'source')} ({pen.name(self.row.run_id)})"
        figure.suptitle(title, fontsize="large")
        over_time.set_ylabel(pen.say("latency of a batch, ms", "每批延迟, ms"))
        edge = self._edge()
        self._over_time(over_time, edge, pen)
        self._shares(shares, pen)
        over_time.set_ylim(top=edge)
        median: dict[str, Any] = {"color": figures.COLOURS[1], "linewidth": 0.8, "zorder": 3}
        over_time.axhline(self.row.latency_ms or 0, **median)
        shares.axhline(self.row.latency_ms or 0, **median, label=pen.say("median of processes", "各进程中位数的中位数"))
        figure.legend(loc="outside lower center", ncols=5, markerscale=3)
        figures.freeze(figure)
        return figure

    def _edge(self) -> float:
        """The upper end of the axis; what lies beyond is drawn on it."""
        timed = [ns / 1e6 for each in self.repetitions for ns in each.samples.samples_ns]
        warming = [ns / 1e6 for each in self.repetitions for ns in each.samples.warmup_ns]
        high = FAR * stats.percentile(timed, 99)
        return 1.04 * min(high, max([*timed, *warming]))

    def _over_time(self, axes: "Axes", edge: float, pen: Pen) -> None:
        warm = pen.say("warm-up, not counted", "预热 (不计入)")
        timed = pen.say("sample", "样本")
        start, beyond = 0.0, 0
        for number, each in enumerate(self.repetitions):
            first = number == 0
            for values, marker, colour, words in (
                (each.samples.warmup_ns, "x", figures.COLOURS[4], warm),
                (each.samples.samples_ns, ".", figures.COLOURS[0], timed),
            ):
                latencies = [ns / 1e6 for ns in values]
                ends = _sums(latencies, start)
                start = ends[-1] if ends else start
                beyond += sum(latency > edge for latency in latencies)
                (spots,) = axes.plot(
                    [end / 1e3 for end in ends],
                    [min(latency, edge) for latency in latencies],
                    marker,
                    color=colour,
                    label=words if first else None,
                )
                # As shapes, thousands of them would make a file of megabytes. Those at the edge show in full.
                spots.set(markersize=1.8, rasterized=True, clip_on=False)
            axes.axvline(start / 1e3, color=GREY, linewidth=0.5)
        processes = pen.say("line: end of a process", "竖线: 进程结束")
        above = pen.say(f"; {beyond} above the axis, at its edge", f"; {beyond} 个超出范围, 画在上沿") if beyond else ""
        axes.set_xlabel(pen.say("time inside calls, s", "调用内累计时间, s") + f" ({processes}{above})")

    def _shares(self, axes: "Axes", pen: Pen) -> None:
        found = [[ns / 1e6 for ns in each.samples.samples_ns] for each in self.repetitions]
        for place, latencies in enumerate(found):
            words = pen.say("each process", "各进程") if place == 0 else None
            axes.ecdf(latencies, orientation="horizontal", color=GREY, linewidth=0.6, label=words)
        together = pen.say("all samples", "全部样本")
        everything = [latency for latencies in found for latency in latencies]
        axes.ecdf(everything, orientation="horizontal", color=figures.COLOURS[0], linewidth=1.4, label=together)
        axes.set_xlabel(pen.say("share of samples below", "累计占比"))


def _sums(values: Iterable[float], start: float) -> list[float]:
    sums = []
    for value in values:
        start += value
        sums.append(start)
    return sums
