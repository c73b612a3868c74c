"""Figures that the zoos published, each with the document and line it stands in: `models/published/*.csv`.

They are quoted as printed, errors included: `qc` names what is wrong with a latency, `conflicts` who disagrees.
"""

import csv
import functools
import re
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from bench.catalog import MODELS
from bench.errors import UsageError
from bench.schema import Frozen

FOLDER = MODELS / "published"
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

    `source` is document:line; `campaign` joins `campaigns`; `canonical` marks the one to take for its model, device,
    backend, precision, batch size and threads. `doc_kind` is zh, en, ref, hist, slim or ext.
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

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(filter(None, self.qc.replace(";", " ").split()))


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
    def interval(self) -> Literal["compute", "end_to_end"]:
        """What its times hold, in the words of our records: those of GPUs copy in and out."""
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


Line = TypeVar("Line", bound=Frozen)


def read(path: Path, type_: type[Line]) -> tuple[Line, ...]:
    """The lines of a table, empty cells left at their default. Raises UsageError that names the line in question."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {path.name}", str(error), f"mend {path}") from error
    whole = _plain(lines)
    try:
        return msgspec.convert(whole, tuple[type_, ...], strict=False)  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise UsageError(f"{path.name}:{_line(error)} is no {type_.__name__}", str(error), f"mend {path}") from error


def _plain(lines: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if value} for line in lines]


def _line(error: msgspec.ValidationError) -> int:
    """Of the file, header included: the message ends with a path such as `$[1047].value`."""
    found = re.search(r"\$\[(\d+)\]", str(error))
    return int(found[1]) + 2 if found else 1


@functools.cache
def models() -> dict[str, Model]:
    return {each.model: each for each in read(FOLDER / "models.csv", Model)}


@functools.cache
def latencies() -> tuple[Latency, ...]:
    return read(FOLDER / "latency.csv", Latency)


@functools.cache
def campaigns() -> dict[str, Campaign]:
    return {each.campaign: each for each in read(FOLDER / "campaigns.csv", Campaign)}


@functools.cache
def figures() -> tuple[Figure, ...]:
    return read(FOLDER / "figures.csv", Figure)


@functools.cache
def conflicts() -> tuple[Conflict, ...]:
    return read(FOLDER / "conflicts.csv", Conflict)


@functools.cache
def others() -> tuple[Other, ...]:
    return read(FOLDER / "other_figures.csv", Other)
