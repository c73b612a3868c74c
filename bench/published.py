"""Figures that the zoos published, each with the document and line it stands in: `models/published/*.csv`.

They are quoted as printed, errors included: `qc` names what is wrong with a latency, `conflicts` who disagrees.
A line of a table that can't be read is left out, and `troubles` says which.
"""

import csv
import fnmatch
import functools
import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import msgspec

from bench import catalog
from bench.catalog import MODELS, ModelCard
from bench.errors import UsageError
from bench.schema import Frozen, Precision

FOLDER = MODELS / "published"
#: a published figure may not say which it is of
PRECISIONS: tuple[str, ...] = (*get_args(Precision), "unstated")
#: what the documents measured with, in our words; engines that we don't run keep their names
BACKENDS = {"tensorrt": "paddle_tensorrt", "paddle-lite": "paddle_lite", "mkldnn": "paddle"}


class Model(Frozen, frozen=True):
    """One variant and the primary value of each of its figures.

    Accuracies are fractions, FLOPs in G in `flops_convention` ("MACs", "2xMACs", "unclear"), parameters in millions.
    `gmacs` is the published figure on one footing, `gmacs_counted` and `params_m_counted` our count of the zoo's code.
    `source` has `field+field=document:line` for each field, separated by "; ".
    """

    model: str
    family: str
    top1: float | None = None
    top5: float | None = None
    ref_top1: float | None = None
    ref_top5: float | None = None
    flops_g: float | None = None
    flops_convention: str = ""
    params_m: float | None = None
    storage_mb: float | None = None
    input_size: int | None = None
    resize_short: int | None = None
    pretrained_url: str = ""
    inference_url: str = ""
    source: str = ""
    notes: str = ""
    gmacs: float | None = None
    gmacs_source: str = ""
    params_m_readme: float | None = None
    gmacs_counted: float | None = None
    params_m_counted: float | None = None
    arch: str = ""
    config: str = ""

    @property
    def sources(self) -> dict[str, str]:
        """The document and line of each field."""
        found = {}
        for part in filter(None, self.source.split("; ")):
            fields, _, place = part.partition("=")
            found.update(dict.fromkeys(fields.split("+"), place))
        return found


class Latency(Frozen, frozen=True):
    """One printed latency, in ms for the whole batch. `threads` is None on a GPU and where it is not stated.

    `raw` has the digits of `latency_ms` as they were printed ("10.30"). `source` is document:line; `campaign` joins
    `campaigns`; `canonical` marks the one to take for its model, device, backend, precision, batch size and threads.
    `doc_kind` is zh, en, ref, hist, slim or ext.
    """

    model: str
    device: str
    backend: str
    precision: str
    batch_size: int
    latency_ms: float
    source: str
    campaign: str
    threads: int | None = None
    notes: str = ""
    published_name: str = ""
    device_published: str = ""
    input_size: int | None = None
    resize_short: int | None = None
    doc_kind: str = ""
    canonical: bool = False
    qc: str = ""
    raw: str = ""

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(self.qc.replace(";", " ").split())


class Campaign(Frozen, frozen=True):
    """How the latencies of a device were measured, and where that is said. All words are the documents'."""

    device: str
    campaign: str
    hardware: str = ""
    engine: str = ""
    engine_version: str = ""
    backend: str = ""
    precisions: str = ""
    batch_sizes: str = ""
    threads: str = ""
    runs: str = ""
    warmup: str = ""
    statistic: str = ""
    timing_scope: str = ""
    published: str = ""
    where_stated: str = ""
    latency_rows: int = 0
    models: int = 0
    notes: str = ""

    @property
    def scope_stated(self) -> bool:
        """Whether a document says what was timed; else `interval` is what is usual for such a device."""
        return not self.timing_scope.startswith(("not stated", "OpenVINO benchmark tool"))

    @property
    def interval(self) -> Literal["compute", "end_to_end"]:
        """What its times hold, in the words of our records: those of GPUs copy in and out. See `scope_stated`."""
        return "end_to_end" if "copy" in self.timing_scope or self.device in ("v100", "t4") else "compute"


class Figure(Frozen, frozen=True):
    """One printed figure that is no latency, or a fact such as an address: `value` normalised, `raw` as it stands."""

    model: str
    field: str
    value: str
    raw: str
    source: str
    unit: str = ""
    published_name: str = ""
    flops_convention: str = ""
    ratio_to_reference_macs: float | None = None
    notes: str = ""


class Conflict(Frozen, frozen=True):
    """Two printed values that disagree beyond rounding; `ratio` is b over a."""

    kind: str
    model: str
    field: str
    value_a: str
    source_a: str
    value_b: str
    source_b: str
    ratio: float | None = None


class Other(Frozen, frozen=True):
    """Ablations, downstream tasks and correlations of the pages."""

    topic: str
    subject: str
    metric: str
    value: str
    source: str
    notes: str = ""


# Reading

Line = TypeVar("Line", bound=Frozen)
#: columns whose digits matter besides their number, and the field that keeps them
PRINTED = {"latency_ms": "raw"}


class Table(NamedTuple, Generic[Line]):
    """The sound lines of a file, and what is wrong with each of the others."""

    lines: tuple[Line, ...]
    broken: tuple[UsageError, ...]


def read(path: Path, type_: type[Line]) -> tuple[Line, ...]:
    """The lines of a table, empty cells left at their default. Raises UsageError that names the first broken one."""
    found = sound(path, type_)
    if found.broken:
        raise found.broken[0]
    return found.lines


def sound(path: Path, type_: type[Line], stray: Callable[[Line], str] = lambda _: "") -> Table[Line]:
    """The lines of a table that can be read and of which `stray` finds nothing to say.

    Raises UsageError for a file that can't be read or has a column that the type doesn't know.
    """
    lines: list[Line] = []
    broken = []
    names, *texts = _text(path).rstrip("\n").split("\n")
    columns = names.split(",")
    if strangers := set(columns) - set(type_.__struct_fields__):
        raise _broken(path, 1, f"has columns that no {type_.__name__} has", ", ".join(sorted(strangers)))
    for number, text in enumerate(texts, 2):
        try:
            line = msgspec.convert(_cells(text, columns), type_, strict=False)
            why = stray(line)
        except (msgspec.ValidationError, csv.Error) as error:
            why = str(error)
        if why:
            broken.append(_broken(path, number, f"is no {type_.__name__}", why))
        else:
            lines.append(line)
    return Table(tuple(lines), tuple(broken))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path.name}", str(error), f"mend {path}") from error


def _cells(text: str, columns: list[str]) -> dict[str, str]:
    """The cells of one line by their column, those that are empty left out. Raises csv.Error."""
    cells = next(csv.reader([text], strict=True), [])
    if len(cells) != len(columns):
        raise csv.Error(f"{len(cells)} cells under {len(columns)} columns")
    named = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
    return {**named, **{also: named[name] for name, also in PRINTED.items() if name in named}}


def _broken(path: Path, number: int, what: str, found: str) -> UsageError:
    return UsageError(f"{path.name}:{number} {what}", found, f"mend {path}")


def models() -> Mapping[str, Model]:
    return _models(FOLDER)


def campaigns() -> Mapping[str, Campaign]:
    return _campaigns(FOLDER)


def latencies() -> tuple[Latency, ...]:
    return _latencies(FOLDER).lines


def figures() -> tuple[Figure, ...]:
    return _figures(FOLDER).lines


def conflicts() -> tuple[Conflict, ...]:
    return _table(FOLDER / "conflicts.csv", Conflict).lines


def others() -> tuple[Other, ...]:
    return _table(FOLDER / "other_figures.csv", Other).lines


def troubles(*, all_tables: bool = False) -> tuple[str, ...]:
    """A line for each line of the tables that was left out: of those behind latencies, or of all."""
    tables: list[Table[Any]] = [
        _table(FOLDER / "models.csv", Model),
        _table(FOLDER / "campaigns.csv", Campaign),
        _latencies(FOLDER),
    ]
    if all_tables:
        tables += [
            _figures(FOLDER),
            _table(FOLDER / "conflicts.csv", Conflict),
            _table(FOLDER / "other_figures.csv", Other),
        ]
    return tuple(f"left out: {error}" for table in tables for error in table.broken)


# What can't be measured


def select(models: Iterable[str], families: Iterable[str], input_shape: tuple[int, ...] = ()) -> list[ModelCard]:
    """As `catalog.select`, which doesn't know the models of which there are published figures only."""
    models, families = tuple(models), tuple(families)
    try:
        return catalog.select(models, families, input_shape)
    except UsageError:
        _refuse_quoted("model", models, _models(FOLDER), catalog.cards())
        quoted, measurable = family_spellings(), _families(catalog.cards())
        spelt = [quoted.get(catalog.fold(name), name) for name in families]
        _refuse_quoted("family", spelt, quoted.values(), measurable.values())
        raise


def family_spellings() -> dict[str, str]:
    """Those of the published figures as they are spelt, by what any spelling of them comes to."""
    return _families(_models(FOLDER))


def _families(models: Mapping[str, Model] | Mapping[str, ModelCard]) -> dict[str, str]:
    """As they are spelt, by what any spelling of them comes to."""
    return {catalog.fold(model.family): model.family for model in models.values()}


def _refuse_quoted(kind: str, names: Iterable[str], quoted: Iterable[str], measurable: Iterable[str]) -> None:
    """Raises UsageError for a name or glob that fits published figures and nothing that can be measured."""
    for name in names:
        if fnmatch.filter(quoted, name) and not fnmatch.filter(measurable, name):
            raise UsageError(
                f"{kind} {name} can't be measured",
                "its network is not here, only its published figures",
                f"see them with: bench report --source published --{kind} {shlex.quote(name)}",
            )


# Each file is read once. The folder is an argument: another one has other tables.


_table = functools.cache(sound)


@functools.cache
def _models(folder: Path) -> Mapping[str, Model]:
    return {each.model: each for each in _table(folder / "models.csv", Model).lines}


@functools.cache
def _campaigns(folder: Path) -> Mapping[str, Campaign]:
    return {each.campaign: each for each in _table(folder / "campaigns.csv", Campaign).lines}


@functools.cache
def _latencies(folder: Path) -> Table[Latency]:
    models, campaigns = _models(folder), _campaigns(folder)
    canonical: set[tuple[Any, ...]] = set()

    def stray(latency: Latency) -> str:
        case = (latency.device, latency.backend, latency.precision, latency.batch_size, latency.threads)
        wrong = {
            f"models.csv has no {latency.model!r}": latency.model not in models,
            f"campaigns.csv has no {latency.campaign!r}": latency.campaign not in campaigns,
            f"{latency.latency_ms} ms is no time": not 0 < latency.latency_ms < math.inf,
            f"no precision is called {latency.precision!r}": latency.precision not in PRECISIONS,
            "batch size and threads are positive": latency.batch_size < 1 or (latency.threads or 1) < 1,
            "another line of this case is canonical": latency.canonical and (latency.model, case) in canonical,
        }
        if latency.canonical:
            canonical.add((latency.model, case))
        return next((words for words, holds in wrong.items() if holds), "")

    return sound(folder / "latency.csv", Latency, stray)


@functools.cache
def _figures(folder: Path) -> Table[Figure]:
    models = _models(folder)
    lack = "models.csv has no {!r}".format
    return sound(folder / "figures.csv", Figure, lambda each: "" if each.model in models else lack(each.model))
