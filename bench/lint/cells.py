"""What the rules read: printed figures with all that a table says of them, and what is known of a network besides."""

import functools
from typing import Literal

import msgspec

from bench import catalog, published
from bench.schema import Frozen

Severity = Literal["error", "warning", "info"]
ACCURACIES = ("top1", "top5", "ref_top1", "ref_top5")
GPUS = ("v100", "t4")


class Cell(Frozen, frozen=True, kw_only=True):
    """One printed figure. An empty text or a 0 among what qualifies it means that the table doesn't say.

    `value` is in ms, G (FLOPs), millions (parameters), MB, pixels, or a fraction (accuracy), `printed` the number as it
    stands, `step` half a unit of its last printed place in the unit of `value`; a figure that is no number has `text`
    alone. `statistic` is "min", "mean", "p90" and so on, empty for a median or where there is but one. `low` and
    `high` are the ends of its interval where one is known. `record` is shared by figures that were measured or
    printed together: one line of a wide table, all lines of a long one.
    """

    document: str
    line: int
    table: str
    record: str
    model: str
    column: str
    field: str
    text: str
    value: float | None = None
    printed: float = 0.0
    step: float = 0.0
    statistic: str = ""
    low: float | None = None
    high: float | None = None
    device: str = ""
    backend: str = ""
    precision: str = ""
    batch_size: int = 0
    threads: int = 0
    campaign: str = ""

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}" if self.line else self.document

    @property
    def number(self) -> float:
        return self.value or 0.0

    @property
    def least(self) -> float:
        return self.number if self.low is None else self.low

    @property
    def most(self) -> float:
        return self.number if self.high is None else self.high


class Finding(Frozen, frozen=True):
    """What a rule found: in which cell (the first of `cells`), which values, and why that can't be or is doubtful."""

    rule: str
    severity: Severity
    document: str
    line: int
    row: str
    column: str
    values: str
    why: str
    cells: tuple[Cell, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}" if self.line else self.document


class Facts(Frozen, frozen=True):
    """A network as we counted it: GMACs at its `input_size`, millions of parameters in each form that may be meant."""

    gmacs: float | None
    params_m: tuple[float, ...]
    architecture: str
    input_size: int | None = None


def facts(model: str) -> Facts | None:
    """What is known of a model, however its name is spelt."""
    return _facts().get(catalog.fold(model))


@functools.cache
def _facts() -> dict[str, Facts]:
    known: dict[str, Facts] = {}
    for name, model in published.models().items():
        params = tuple(filter(None, [model.params_m_counted]))
        known[catalog.fold(name)] = Facts(model.gmacs_counted, params, model.arch or name, model.input_size)
    for name, card in catalog.cards().items():
        before = known.get(catalog.fold(name), Facts(None, (), name))
        counts = (card.params, card.fused.params if card.fused else None)
        params = (*before.params_m, *(count / 1e6 for count in counts if count is not None))
        gmacs = before.gmacs if before.gmacs is not None else (card.macs / 1e9 if card.macs else None)
        known[catalog.fold(name)] = msgspec.structs.replace(before, gmacs=gmacs, params_m=params)
    return known


@functools.cache
def is_gpu(device: str) -> bool:
    """Threads mean nothing on one."""
    profile = catalog.profiles().get(device)
    return device in GPUS or bool(profile and profile.kind == "gpu")
