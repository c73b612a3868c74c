"""The pages of the PaddleClas zoo: how each of their tables looks, as data, and which published figures stand in it."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from bench import published
from bench.published import Figure, Latency
from bench.schema import Interval

# What a table looks like


class Words(NamedTuple):
    """As the Chinese pages have it, and as the English ones; where those lack the table, ours."""

    zh: str
    en: str

    def of(self, language: str, **parts: str) -> str:
        return (self.zh if language == "zh" else self.en).format(**parts)


class Fact(NamedTuple):
    """A field of `published.Figure`."""

    field: str


class Time(NamedTuple):
    """Which latency. `threads` is None on a GPU and where the page doesn't say."""

    precision: str
    batch_size: int
    threads: int | None = None


class Column(NamedTuple):
    """What stands in a column. `{unit}` in its words is that of its figures.

    The columns of a `group` stand in a table only if one of them has a figure there; those without one always do.
    """

    words: Words
    takes: Fact | Time
    group: str = ""


class Kind(NamedTuple):
    """A kind of table. Its lines have at least the facts `marks`, and latencies of one of `devices`, if there are any.

    `{device}` in the title is the device of the latencies. A page has but one table of a kind that is `single`.
    """

    title: Words
    name: Words
    columns: tuple[Column, ...]
    devices: tuple[str, ...] = ()
    marks: frozenset[str] = frozenset()
    note: Words = Words("", "")
    single: bool = False


DEVICES = {
    "v100": "V100 GPU",
    "t4": "T4 GPU",
    "sd855": "SD855",
    "sdm865": "SDM865",
    "xeon-6148": "Intel Xeon Gold 6148",
    "xeon-6271c": "Intel Xeon Gold 6271C",
    "iphone12pro": "iPhone 12 Pro",
}
MODELS = Words("Models", "Models")
MODEL = Words("Model", "Model")
SPEED = Words("基于 {device} 的预测速度", "Inference speed based on {device}")
TENSORRT = Words("备注：推理过程使用 TensorRT。", "inference with TensorRT")
TENSORRT_FP32 = Words("备注：精度类型为 FP32，推理过程使用 TensorRT。", "precision FP32, inference with TensorRT")
HEADER = Words(
    "原页的表头只写了三列，而每行有六个数：前三列为 FP16，后三列为 FP32。",
    "the page heads three columns over six figures: the first three are FP16, the last three FP32",
)
SIZE = Column(Words("Size", "Crop Size"), Fact("input_size"), "size")
TOP1 = Column(Words("Top-1 Acc(%)", "Top-1 Acc(%)"), Fact("top1"))
TOP5 = Column(Words("Top-5 Acc(%)", "Top-5 Acc(%)"), Fact("top5"))
PARAMS = Column(Words("Params({unit})", "Params({unit})"), Fact("params_m"), "count")
FLOPS = Column(Words("FLOPs({unit})", "FLOPs({unit})"), Fact("flops_g"), "count")
LATENCY = Words("Latency(ms)", "Latency(ms)")


def _speeds(zh: str, en: str, times: Iterable[Time], group: str = "") -> tuple[Column, ...]:
    """A column a time; `{p}`, `{b}` and `{t}` are its precision, batch size and threads."""
    named = ((time, {"p": time.precision.upper(), "b": time.batch_size, "t": time.threads}) for time in times)
    return tuple(Column(Words(zh.format(**parts), en.format(**parts)), time, group) for time, parts in named)


_V100 = [Time("fp32", batch_size) for batch_size in (1, 4, 8)]
_T4 = [Time(precision, batch_size) for precision in ("fp16", "fp32") for batch_size in (1, 4, 8)]
_SD855 = [Time("fp32", 1, threads) for threads in (1, 2, 4)]
_ONE = Column(LATENCY, Time("fp32", 1), "one")
_TEN = Column(LATENCY, Time("fp32", 1, 10), "ten")
_BATCH = "FP32 Batch Size={b} (ms)"

METRICS = Kind(
    Words("模型指标", "Accuracy, FLOPs and Parameters"),
    MODELS,
    (
        Column(Words("Top1", "Top1"), Fact("top1")),
        Column(Words("Top5", "Top5"), Fact("top5")),
        Column(Words("Reference top1", "Reference top1"), Fact("ref_top1")),
        Column(Words("Reference top5", "Reference top5"), Fact("ref_top5")),
        Column(Words("FLOPs ({unit})", "FLOPs ({unit})"), Fact("flops_g")),
        Column(Words("Params ({unit})", "Parameters ({unit})"), Fact("params_m")),
    ),
    marks=frozenset({"top1"}),
)
V100_CROP = Kind(
    SPEED,
    MODELS,
    (
        Column(Words("Crop Size", "Crop Size"), Fact("input_size")),
        Column(Words("Resize Short Size", "Resize Short Size"), Fact("resize_short")),
        *_speeds(_BATCH, _BATCH, _V100),
    ),
    ("v100",),
    frozenset({"input_size", "resize_short"}),
    TENSORRT_FP32,
)
V100 = Kind(SPEED, MODELS, (SIZE, *_speeds("Latency(ms) bs={b}", _BATCH, _V100)), ("v100",), note=TENSORRT_FP32)
T4 = Kind(
    SPEED,
    MODELS,
    (SIZE, *_speeds("Latency(ms) {p} bs={b}", "{p} Batch Size={b} (ms)", _T4)),
    ("t4",),
    note=TENSORRT,
)
_SD855_TIME = "SD855 time(ms) bs={b}, thread={t}"
SD855_STORAGE = Kind(
    Words("基于 {device} 的预测速度和存储大小", "Inference speed and storage size based on {device}"),
    MODELS,
    (
        *_speeds(_SD855_TIME, _SD855_TIME, _SD855),
        Column(Words("Storage Size(M)", "Storage Size(M)"), Fact("storage_mb")),
    ),
    ("sd855",),
    frozenset({"storage_mb"}),
)
SD855 = Kind(SPEED, MODELS, _speeds("Latency(ms) bs={b}, thread={t}", _SD855_TIME, _SD855), ("sd855",))
SUMMARY = Kind(
    Words("精度、预测速度及权重（{device}）", "Accuracy, latency and weights on {device}"),
    MODEL,
    (
        PARAMS,
        FLOPS,
        TOP1,
        TOP5,
        _ONE,
        _TEN,
        Column(
            Words("stage-1预训练模型下载地址", "download links of stage-1 pretrained model"),
            Fact("pretrained_url_stage1"),
            "stage1",
        ),
        Column(Words("预训练模型下载地址", "download links of pretrained model"), Fact("pretrained_url"), "links"),
        Column(Words("inference模型下载地址", "download links of inference model"), Fact("inference_url"), "links"),
    ),
    ("v100", "xeon-6148", "xeon-6271c"),
    frozenset({"top1"}),
    single=True,
)
COMPARISON = Kind(
    Words("与其他模型对比（{device}）", "Beside other models on {device}"),
    MODEL,
    (PARAMS, FLOPS, TOP1, TOP5, _ONE, _TEN),
    ("v100", "xeon-6148", "xeon-6271c"),
    frozenset({"top1"}),
)
_XEON_TIME = "Latency(ms) bs={b}, thread={t}"
XEON_6148 = Kind(SPEED, MODEL, _speeds(_XEON_TIME, _XEON_TIME, [Time("fp32", 1, 10)]), ("xeon-6148",))
MOBILE_ONE = Kind(
    Words("ImageNet-1K", "ImageNet-1K"),
    MODEL,
    (
        Column(Words("Top-1 Acc.", "Top-1 Acc."), Fact("top1")),
        Column(Words("Latency*", "Latency*"), Time("unstated", 1)),
    ),
    ("iphone12pro",),
    frozenset({"top1"}),
    Words("* Latency measured on iPhone 12 Pro.", "* Latency measured on iPhone 12 Pro."),
)
CORRELATION = Kind(
    Words("延迟与 FLOPs、参数量的相关性（SRCC）", "Rank correlation of latency with FLOPs and parameters (Spearman)"),
    Words("Type", "Type"),
    (
        Column(Words("Flops corr.", "Flops corr."), Fact("FLOPs correlation")),
        Column(Words("Flops p-value", "Flops p-value"), Fact("FLOPs p-value")),
        Column(Words("Parameters corr.", "Parameters corr."), Fact("parameters correlation")),
        Column(Words("Parameters p-value", "Parameters p-value"), Fact("parameters p-value")),
    ),
)
#: tried in this order on the first line of a table
KINDS = (METRICS, V100_CROP, SUMMARY, COMPARISON, MOBILE_ONE, V100, T4, SD855_STORAGE, SD855, XEON_6148)

# Which figures stand in it


class Line(NamedTuple):
    """A line of a document: a model by our name and as it is printed there, and its figures."""

    number: int
    model: str
    name: str
    facts: dict[str, Figure]
    times: dict[Time, Latency]

    @property
    def device(self) -> str:
        return next((latency.device for latency in self.times.values()), "")


class Grid(NamedTuple):
    """A table as it is printed in `document`, or one of ours with figures from several, which is then empty."""

    kind: Kind
    document: str
    device: str
    lines: list[Line]

    @property
    def columns(self) -> list[Column]:
        full = {column.group for column in self.kind.columns if any(_figure(line, column) for line in self.lines)}
        return [column for column in self.kind.columns if not column.group or column.group in full]

    @property
    def latencies(self) -> list[Latency]:
        return [latency for line in self.lines for latency in line.times.values()]

    @property
    def backend(self) -> str:
        """In our words; empty for a table without latencies."""
        return next((published.BACKENDS.get(each.backend, each.backend) for each in self.latencies), "")

    @property
    def interval(self) -> Interval | Literal[""]:
        return next((published.campaigns()[each.campaign].interval for each in self.latencies), "")

    def title(self, language: str) -> str:
        return self.kind.title.of(language, device=DEVICES.get(self.device, self.device))

    def header(self, column: Column, language: str) -> str:
        return column.words.of(language, unit=_unit(self.lines, column))


class Page(NamedTuple):
    """The tables of a family, in the order of its document."""

    family: str
    document: str
    grids: tuple[Grid, ...]

    @property
    def latencies(self) -> list[Latency]:
        return [latency for grid in self.grids for latency in grid.latencies]


def printed(line: Line, column: Column) -> tuple[str, str]:
    """A cell's digits and where they stand, both empty where the page has none."""
    found = _figure(line, column)
    return (found.raw, found.source) if found else ("", "")


def _figure(line: Line, column: Column) -> Figure | Latency | None:
    return line.facts.get(column.takes.field) if isinstance(column.takes, Fact) else line.times.get(column.takes)


def _unit(lines: Iterable[Line], column: Column) -> str:
    found = (_figure(line, column) for line in lines)
    return next((figure.unit for figure in found if isinstance(figure, Figure)), "")


ZOO = "docs/zh_CN/models/ImageNet1k/{}.md"
REFERENCE = "reference/pages/{}.md"
#: where the families are that have no page of their own
OTHERS = ZOO.format("Others")
SPEARMAN = "Spearman rank correlation"
# Lines of one table stand at most this far apart: some documents have lines of markup between them.
APART = 3


def families() -> tuple[str, ...]:
    return tuple(dict.fromkeys(model.family for model in published.models().values()))


@functools.cache
def page(family: str) -> Page:
    """The page of a family: the reference page if there is one, or that of the zoo.

    Beside the latter's tables stand those of its models' canonical figures on devices that the page lacks.
    """
    known = _documents()
    document = next((each.format(family) for each in (REFERENCE, ZOO) if each.format(family) in known), OTHERS)
    lines = [line for line in known[document].values() if document != OTHERS or _family(line.model) == family]
    grids = tuple(_grids(document, lines))
    if document != REFERENCE.format(family):
        grids += tuple(_elsewhere(family, {grid.device for grid in grids}))
    return Page(family, document, (*_correlations(document), *grids))


def _family(name: str) -> str:
    model = published.models().get(name)
    return model.family if model else ""


@functools.cache
def _documents() -> Mapping[str, Mapping[int, Line]]:
    """The lines of each document that have a figure, in its order."""
    found: dict[str, dict[int, Line]] = {}
    for figure in published.figures():
        if line := _line(found, figure):
            line.facts[figure.field] = figure
    for latency in published.latencies():
        if line := _line(found, latency):
            line.times[_time(latency)] = latency
    return {document: dict(sorted(lines.items())) for document, lines in found.items()}


def _line(found: dict[str, dict[int, Line]], each: Figure | Latency) -> Line | None:
    """The line that a figure stands in, which is there from then on; None where its source names none."""
    document, _, number = each.source.rpartition(":")
    if not number.isdecimal():
        return None
    empty = Line(int(number), each.model, each.published_name or each.model, {}, {})
    return found.setdefault(document, {}).setdefault(int(number), empty)


def _time(latency: Latency) -> Time:
    return Time(latency.precision, latency.batch_size, latency.threads)


def _grids(document: str, lines: Iterable[Line]) -> list[Grid]:
    """Lines that follow each other and have figures of one kind are a table."""
    grids: list[Grid] = []
    for line in lines:
        if grids and _continues(grids[-1], line):
            grids[-1].lines.append(line)
        elif kind := _kind(line, {grid.kind.title for grid in grids}):
            grids.append(Grid(kind, document, line.device, [line]))
    return [_linked(grid) if grid.kind is SUMMARY else grid for grid in grids]


def _continues(grid: Grid, line: Line) -> bool:
    near = line.number - grid.lines[-1].number <= APART
    return near and line.device in ("", grid.device) and _has(grid.kind, line)


def _has(kind: Kind, line: Line) -> bool:
    """Whether the kind has a column for each figure of the line."""
    return {*map(Fact, line.facts), *line.times} <= {column.takes for column in kind.columns}


def _kind(line: Line, before: set[Words]) -> Kind | None:
    for kind in KINDS:
        used = kind.single and kind.title in before
        right = line.device in (kind.devices or ("",)) and kind.marks <= line.facts.keys()
        if right and not used and _has(kind, line):
            return kind
    return None


def _linked(grid: Grid) -> Grid:
    """With the addresses of weights; where the document has them as links alone, those of the model."""
    return grid._replace(lines=[line._replace(facts={**_links(line.model), **line.facts}) for line in grid.lines])


def _links(name: str) -> dict[str, Figure]:
    model = published.models().get(name)
    fields = {"pretrained_url": model.pretrained_url, "inference_url": model.inference_url} if model else {}
    places = model.sources if model else {}
    known = {field: address for field, address in fields.items() if address}
    return {field: Figure(name, field, address, address, places.get(field, "")) for field, address in known.items()}


def _correlations(document: str) -> Iterator[Grid]:
    lines: dict[str, Line] = {}
    for each in published.others():
        if each.topic.startswith(SPEARMAN) and each.source.startswith(f"{document}:"):
            kind, _, what = each.subject.partition(" vs ")
            name = " ".join(word[:1].upper() + word[1:] for word in kind.split())
            line = lines.setdefault(kind, Line(int(each.source.rpartition(":")[2]), kind, name, {}, {}))
            field = f"{what} {each.metric}"
            line.facts[field] = Figure(kind, field, each.value, each.value, each.source)
    if lines:
        yield Grid(CORRELATION, document, "", list(lines.values()))


def _elsewhere(family: str, devices: set[str]) -> Iterator[Grid]:
    """A table for each device that is not in `devices`: the canonical figures, in the order of their documents."""
    found: dict[str, list[Latency]] = {}
    for each in published.latencies():
        if each.canonical and each.device not in devices and _family(each.model) == family:
            found.setdefault(each.device, []).append(each)
    for device, latencies in found.items():
        lines: dict[str, Line] = {}
        for each in sorted(latencies, key=_place):
            line = lines.setdefault(each.model, Line(0, each.model, each.model, {}, {}))
            line.times[_time(each)] = each
        times = sorted({_time(each) for each in latencies}, key=lambda time: (time[0], time[1], time[2] or 0))
        yield Grid(_plain(device, times), "", device, list(lines.values()))


def _place(latency: Latency) -> tuple[str, int]:
    document, _, number = latency.source.rpartition(":")
    return document, int(number) if number.isdecimal() else 0


def _plain(device: str, times: Sequence[Time]) -> Kind:
    words = {time: "Latency(ms) {p} bs={b}" + ", thread={t}" * (time.threads is not None) for time in times}
    columns = tuple(column for time in times for column in _speeds(words[time], words[time], [time]))
    return Kind(SPEED, MODELS, columns, (device,))
