"""The pages of the PaddleClas zoo, regenerated: same columns, rows and rounding, from what was published or measured.

`bench/report/pages.py` says what the pages hold; this fills their cells and says where each figure is from.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from bench import catalog
from bench.errors import UsageError
from bench.published import Figure, Latency
from bench.report import Report, Table, pages
from bench.report.pages import Column, Fact, Grid, Line, Page, Time, Words
from bench.report.rows import Row
from bench.report.tables import FLOPS_OF_A_MAC, NONE, Footnotes, doubts
from bench.schema import Frozen

#: TensorRT by itself stands in for the subgraphs that the pages were measured with
SUBSTITUTES = {"paddle_tensorrt": ("paddle_tensorrt", "tensorrt")}
#: what stands on the pages and is no result: settings of the evaluation, addresses
CONTEXT = ("input_size", "resize_short", "pretrained_url", "pretrained_url_stage1", "inference_url")
ACCURACIES = ("top1", "top5", "ref_top1", "ref_top5")
MILLIONS = {"G": 1e-3, "M": 1.0}
# Decimals of a measured latency where the page printed none.
DECIMALS = 2

TITLE = Words("{family} 系列：{title}", "{family}: {title}")
MEASURED = Words("{header} 实测", "{header} measured")
RATIO = Words("{header} 实测/公布", "{header} measured/published")
COUNTED = Words("{header} 统计", "{header} counted")
COUNT_RATIO = Words("{header} 统计/公布", "{header} counted/published")
STATUS = {
    "failed": Words("失败", "failed"),
    "unsupported": Words("不支持", "unsupported"),
    "unavailable": Words("不可用", "unavailable"),
}
ERRORS = {
    "transcription_error": Words("几乎可以肯定是原文笔误", "almost surely an error of the document"),
    "same_values_as_other_model": Words("与另一模型的数值完全相同", "the values of another model"),
    "device_mislabelled": Words("原文写的设备有误", "the document names another device"),
}
RECORDS = Words("运行 {run}，{count} 条记录", "run {run}, {count} records")
REASON = Words("{status}：{reason}（运行 {run}）", "{status}: {reason} (run {run})")
NOT_MEASURED = Words("未实测", "not measured")
NOT_PUBLISHED = Words("未公布", "not published")
NO_ACCURACY = Words("精度不由 bench 测量", "bench measures no accuracy")
NO_NETWORK = Words("没有该模型的网络，只有公布的数字", "its network is not here, only its published figures")
OTHER_SIZE = Words("实测输入为 {size}×{size}", "measured with inputs of {size}×{size}")
COUNTED_FROM = Words("bench 统计自 {network}", "counted by bench from {network}")
DIVIDED = Words("实测或统计 ÷ 公布", "measured or counted ÷ published")
QUOTED = Words("公布的数字出自 {places}", "published figures: {places}")
CAMPAIGNS = Words("（测量批次 {names}）", " (measuring campaign {names})")
MEASURED_BY = Words(
    "实测：后端 {backend}，口径 {interval}，线程数 {threads}，{runs}",
    "measured: {backend}, {interval}, threads {threads}, {runs}",
)
THREADS_UNSTATED = Words(
    "该页未注明线程数：实测取线程数最多者", "threads not stated on the page: of the measured ones the most are taken"
)
COUNTS = Words(
    "FLOPs、Params 不是实测，而由 bench 统计：FLOPs 的口径与该页相同（MACs 或 2×MACs），Params 为可训练参数",
    "FLOPs and parameters are not measured but counted by bench: FLOPs in the convention of the page (MACs or 2×MACs), "
    "trained parameters",
)
ELSEWHERE = Words("该系列的页面没有这张表，数字取自其他文档", "the family's page lacks this table")
WHERE = Words("{table}：数据来源", "{table}: where each figure is from")
ORIGIN = (
    Words("行", "row"),
    Words("列", "column"),
    Words("数值", "value"),
    Words("来源", "from"),
)
IDLE = Words("页面所列设备上没有实测数据的系列", "Families not measured on the devices of their pages")
IDLE_COLUMNS = (
    Words("系列", "family"),
    Words("页面所列设备", "devices of its page"),
    Words("实测过的设备", "measured on"),
)


class Origin(Frozen, frozen=True):
    """Where a figure of a table is from: document:line, a run and how many of its records, or why there is none."""

    table: str
    row: str
    column: str
    value: str
    source: str


class Cell(NamedTuple):
    """`origin` is empty for what is no figure."""

    text: str
    origin: str = ""


class Filled(NamedTuple):
    """A table with its cells, of which the first in each line is the name of the model."""

    title: str
    columns: tuple[str, ...]
    lines: list[tuple[Cell, ...]]
    notes: tuple[str, ...]

    @property
    def table(self) -> Table:
        texts = tuple(tuple(cell.text for cell in line) for line in self.lines)
        align = "".join("l" if all(map(_is_word, column)) else "r" for column in zip(*texts, strict=True))
        return Table(self.title, self.columns, texts, align, self.notes)

    @property
    def origins(self) -> Iterator[Origin]:
        for line in self.lines:
            for column, cell in zip(self.columns, line, strict=True):
                if cell.origin:
                    yield Origin(self.title, line[0].text, column, cell.text, cell.origin)


# Pages


def tables(report: Report) -> list[Table]:
    """The tables of the pages asked for, then a line for each family of which no page's figure was measured.

    Raises UsageError where no page has what is asked for.
    """
    found = []
    for filled in _filled(report):
        found.append(filled.table)
        if report.provenance:
            found.append(_where(filled, report.language))
    return [*found, *_idle(report)]


def origins(report: Report) -> list[Origin]:
    """Where each figure of the pages asked for is from."""
    return [origin for filled in _filled(report) for origin in filled.origins]


def latencies(family: str | None) -> list[Latency]:
    """Those that stand on the page of a family or on all pages, in their order."""
    return [latency for page in _pages({"family": family} if family else {}) for latency in page.latencies]


def models(family: str) -> frozenset[str]:
    """Those that stand on the page of a family, whichever family they are of."""
    return frozenset(line.model for grid in pages.page(family).grids for line in grid.lines)


def shows(asked: Mapping[str, str]) -> bool:
    """Whether a page has a table of what is asked for, latencies or not."""
    return bool(_pages(asked))


def _pages(asked: Mapping[str, str]) -> list[Page]:
    names = [asked["family"]] if "family" in asked else pages.families()
    found = [page._replace(grids=_wanted(page.grids, asked)) for page in map(pages.page, names)]
    return [page for page in found if page.grids]


def _wanted(grids: Iterable[Grid], asked: Mapping[str, str]) -> tuple[Grid, ...]:
    chosen = []
    for grid in grids:
        own = {"device": (grid.device,), "interval": (grid.interval,), "backend": _runtimes(grid)}
        lines = [line for line in grid.lines if fnmatchcase(line.model, asked.get("model", "*"))]
        if lines and all(asked[name] in values for name, values in own.items() if name in asked):
            chosen.append(grid._replace(lines=lines))
    return tuple(chosen)


def _runtimes(grid: Grid) -> tuple[str, ...]:
    """The backends whose times may stand in a table, in order of preference."""
    return SUBSTITUTES.get(grid.backend, (grid.backend,))


def _filled(report: Report) -> list[Filled]:
    found = _pages(report.asked)
    if not found:
        wanted = " and ".join(f"{name} {value}" for name, value in report.asked.items()) or "nothing"
        raise UsageError(f"no published page has figures of {wanted}", "", "take --layout default")
    measured = Measured(report.rows)
    shown = [page for page in found if report.source != "measured" or measured.any(page)]
    return [Filling(report, page, grid, measured).filled for page in shown for grid in _shown(page, report)]


def _shown(page: Page, report: Report) -> list[Grid]:
    """Of measured figures no correlation is on a page: they would be those of other models."""
    return [grid for grid in page.grids if report.source != "measured" or grid.kind is not pages.CORRELATION]


def _where(filled: Filled, language: str) -> Table:
    lines = [(each.row, each.column, each.value, each.source) for each in filled.origins]
    title = WHERE.of(language, table=filled.title)
    return Table(title, tuple(words.of(language) for words in ORIGIN), tuple(lines), "llrl")


def _idle(report: Report) -> list[Table]:
    if report.source == "published":
        return []
    measured, lines = Measured(report.rows), []
    for page in _pages(report.asked):
        if not measured.any(page):
            devices = dict.fromkeys(pages.DEVICES.get(grid.device, grid.device) for grid in page.grids if grid.device)
            tried = dict.fromkeys(row.device for row in measured.rows if row.family == page.family)
            lines.append((page.family, *(", ".join(names) or NONE for names in (devices, tried))))
    columns = tuple(words.of(report.language) for words in IDLE_COLUMNS)
    return [Table(IDLE.of(report.language), columns, tuple(lines), "lll")] if lines else []


# Cells


class Measured:
    """Measured rows, to be found by what a page says of a figure."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = [row for row in rows if row.source == "measured"]
        self._found: dict[tuple[str, str, str, int], list[Row]] = {}
        for row in self.rows:
            self._found.setdefault((row.model, row.device, row.precision, row.batch_size), []).append(row)

    def any(self, page: Page) -> bool:
        """Whether anything of a page was tried, with success or not."""
        return any(
            self.find(grid, line, column)
            for grid in page.grids
            for line in grid.lines
            for column in grid.columns
            if isinstance(column.takes, Time)
        )

    def find(self, grid: Grid, line: Line, column: Column) -> Row | None:
        """The row of the page's device, interval and backend; where threads are not printed, that with the most."""
        time, wanted = column.takes, _runtimes(grid)
        if not isinstance(time, Time):
            return None
        fitting = [
            row
            for row in self._found.get((line.model, grid.device, time.precision, time.batch_size), ())
            if row.backend in wanted and row.interval == grid.interval and time.threads in (None, row.threads)
        ]
        return min(fitting, key=lambda row: (row.status != "ok", wanted.index(row.backend), -row.threads), default=None)


class Filling:
    """A table of a page as it is filled; `filled` is what comes of it."""

    def __init__(self, report: Report, page: Page, grid: Grid, measured: Measured) -> None:
        self.report, self.page, self.grid, self.measured = report, page, grid, measured
        self.language = report.language
        self.footnotes = Footnotes()

    @property
    def filled(self) -> Filled:
        spread = [part for column in self.grid.columns for part in self._spread(column)]
        lines = [(Cell(line.name), *(cell(line) for _, cell in spread)) for line in self.grid.lines]
        title = TITLE.of(self.language, family=self.page.family, title=self.grid.title(self.language))
        columns = (self.grid.kind.name.of(self.language), *(header for header, _ in spread))
        return Filled(title, columns, lines, tuple(self._notes(lines)))

    def _spread(self, column: Column) -> list[tuple[str, Callable[[Line], Cell]]]:
        """A column of the page as columns of ours: one, or three where both figures are asked for and there."""
        header = self.grid.header(column, self.language)
        by_page = [(header, lambda line: self._published(column, line))]
        context = isinstance(column.takes, Fact) and column.takes.field in CONTEXT
        if self.report.source == "published" or context:
            return by_page
        if self.report.source == "measured":
            return [(header, lambda line: self._measured(column, line))]
        if not any(self._tried(column, line) for line in self.grid.lines):
            return by_page
        number, ratio = (COUNTED, COUNT_RATIO) if _is_count(column) else (MEASURED, RATIO)
        return [
            *by_page,
            (self._say(number, header=header), lambda line: self._measured(column, line)),
            (self._say(ratio, header=header), lambda line: self._ratio(column, line)),
        ]

    def _say(self, words: Words, **parts: str) -> str:
        return words.of(self.language, **parts)

    def _published(self, column: Column, line: Line) -> Cell:
        text, place = pages.printed(line, column)
        return Cell(text, place or self._say(NOT_PUBLISHED))

    def _tried(self, column: Column, line: Line) -> bool:
        return bool(self.measured.find(self.grid, line, column)) or self._number(column, line) is not None

    def _number(self, column: Column, line: Line) -> float | None:
        """What was measured or counted, in the unit of the column."""
        if isinstance(column.takes, Time):
            row = self.measured.find(self.grid, line, column)
            return row.latency_ms if row and row.status == "ok" else None
        if column.takes.field == "storage_mb":
            row = self._stored(line)
            return row.storage_mb if row else None
        return self._count(column.takes.field, line.facts.get(column.takes.field), line.model)

    def _stored(self, line: Line) -> Row | None:
        """The row whose file gives the size of a model: of those with a latency the first, if there is one."""
        found = (self.measured.find(self.grid, line, column) for column in self.grid.columns)
        return min((row for row in found if row and row.storage_mb), key=lambda row: row.status != "ok", default=None)

    def _count(self, field: str, figure: Figure | None, model: str) -> float | None:
        """FLOPs in the convention of the figure beside it, which says how the page counts."""
        card = self.report.cards.get(model)
        if not card or not figure or figure.unit not in MILLIONS:
            return None
        of_a_mac = FLOPS_OF_A_MAC.get(figure.flops_convention)
        if field == "flops_g" and card.macs and of_a_mac:
            return card.macs / 1e6 * of_a_mac * MILLIONS[figure.unit]
        return card.params / 1e6 if field == "params_m" and card.params else None

    def _measured(self, column: Column, line: Line) -> Cell:
        row = self.measured.find(self.grid, line, column)
        number = self._number(column, line)
        if row and row.status != "ok":
            words, reason = self._say(STATUS[row.status]), row.reason or NONE
            origin = self._say(REASON, status=words, reason=reason, run=row.run_id)
            return Cell(self.footnotes.mark(words, reason), origin)
        if number is None:
            return self._missing(column, line)
        text = f"{number:.{self._decimals(column)}f}"
        for doubt in self._doubts(row, line):
            text = self.footnotes.mark(text, doubt)
        return Cell(text, self._origin(column, line))

    def _missing(self, column: Column, line: Line) -> Cell:
        if isinstance(column.takes, Fact) and column.takes.field in ACCURACIES:
            return Cell(NONE, self._say(NO_ACCURACY))
        card = self.report.cards.get(line.model)
        if card and card.measurable:
            return Cell(NONE, self._say(NOT_MEASURED))
        why = self._say(NO_NETWORK)
        return Cell(self.footnotes.mark(NONE, why), why)

    def _doubts(self, row: Row | None, line: Line) -> Iterator[str]:
        if row and row.validity:
            yield doubts(row)
        card, size = self.report.cards.get(line.model), line.facts.get("input_size")
        if row and card and size and str(card.input_shape[-1]) != size.value:
            yield self._say(OTHER_SIZE, size=str(card.input_shape[-1]))

    def _origin(self, column: Column, line: Line) -> str:
        """Of a number that is there: its run, or for a count the network."""
        row = self.measured.find(self.grid, line, column) or (None if _is_count(column) else self._stored(line))
        if row:
            return self._say(RECORDS, run=row.run_id, count=str(row.repetitions))
        return self._say(COUNTED_FROM, network=self.report.cards[line.model].network)

    def _ratio(self, column: Column, line: Line) -> Cell:
        number, (text, _) = self._number(column, line), pages.printed(line, column)
        return Cell(f"{number / float(text):.2f}", self._say(DIVIDED)) if number and text else Cell(NONE)

    def _decimals(self, column: Column) -> int:
        """As many as the page printed."""
        texts = [pages.printed(line, column)[0] for line in self.grid.lines]
        return max((len(text.partition(".")[2]) for text in texts if text), default=DECIMALS)

    # Notes

    def _notes(self, lines: Iterable[tuple[Cell, ...]]) -> Iterator[str]:
        yield from self.footnotes.lines()
        if self.report.source != "published":
            yield from self._notes_on_measured(lines)
        if self.report.source != "measured":
            yield from self._notes_on_published()

    def _notes_on_measured(self, lines: Iterable[tuple[Cell, ...]]) -> Iterator[str]:
        taken = {column: list(self._taken(column)) for column in self.grid.columns}
        yield from self._notes_on_runs([row for rows in taken.values() for row in rows])
        if any(rows and self._unstated(column) for column, rows in taken.items()):
            yield self._say(THREADS_UNSTATED)
        counts = [column for column in self.grid.columns if _is_count(column)]
        if any(self._number(column, line) is not None for column in counts for line in self.grid.lines):
            yield self._say(COUNTS)
        if any(cell.text == NONE for line in lines for cell in line):
            yield f"{NONE} {self._say(NOT_MEASURED)}"

    def _taken(self, column: Column) -> Iterator[Row]:
        """The rows whose latencies stand in a column."""
        found = (self.measured.find(self.grid, line, column) for line in self.grid.lines)
        return (row for row in found if row and row.status == "ok")

    def _unstated(self, column: Column) -> bool:
        """Whether times depend on a number of threads that the page doesn't give; those of a GPU have none."""
        profile = catalog.profiles().get(self.grid.device)
        gpu = profile is not None and profile.kind == "gpu"
        return isinstance(column.takes, Time) and column.takes.threads is None and not gpu

    def _notes_on_runs(self, rows: Iterable[Row]) -> Iterator[str]:
        by_backend: dict[str, list[Row]] = {}
        for row in rows:
            by_backend.setdefault(row.backend, []).append(row)
        for backend, own in by_backend.items():
            names = ", ".join(dict.fromkeys(row.run_id for row in own))
            yield self._say(
                MEASURED_BY,
                backend=backend,
                interval=str(self.grid.interval),
                threads=", ".join(map(str, sorted({row.threads for row in own}))),
                runs=self._say(RECORDS, run=names, count=str(_records(own))),
            )

    def _notes_on_published(self) -> Iterator[str]:
        if note := self._say(self.grid.kind.note):
            yield note
        if any("header_mismatch" in latency.tags for latency in self.grid.latencies):
            yield self._say(pages.HEADER)
        if not self.grid.document:
            yield self._say(ELSEWHERE)
        yield from self._errors()
        names = ", ".join(dict.fromkeys(latency.campaign for latency in self.grid.latencies))
        yield self._say(QUOTED, places=self._places() + (self._say(CAMPAIGNS, names=names) if names else ""))

    def _places(self) -> str:
        found = dict.fromkeys(latency.source.rpartition(":")[0] for latency in self.grid.latencies)
        return self.grid.document or ", ".join(found)

    def _errors(self) -> Iterator[str]:
        """What is known to be wrong with figures of the table."""
        found: dict[str, list[str]] = {}
        for line in self.grid.lines:
            for latency in line.times.values():
                for words in (ERRORS[tag] for tag in latency.tags if tag in ERRORS):
                    why = latency.notes if self.language == "en" and latency.notes else self._say(words)
                    found.setdefault(why, []).append(f"{line.name} {latency.raw}")
        yield from (f"{', '.join(cells)}: {why}" for why, cells in found.items())


def _is_count(column: Column) -> bool:
    return isinstance(column.takes, Fact) and column.takes.field in ("flops_g", "params_m")


def _is_word(text: str) -> bool:
    """Whether a cell is a name or an address rather than a figure."""
    return text[:1].isalpha()


def _records(rows: Iterable[Row]) -> int:
    return sum(row.repetitions for row in rows)
