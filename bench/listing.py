"""What there is: models, devices, backends and runs, and why something is not available here."""

from pathlib import Path
from typing import Any

import msgspec

from bench import backends, catalog, environment, homes, published, store
from bench.catalog import HardwareProfile, ModelCard
from bench.devices import find
from bench.errors import BenchError, UsageError
from bench.published import Model

Row = dict[str, Any]


def models() -> list[Row]:
    """A row a card, then one for each model of which there are published figures only.

    Counted parameters in millions, counted GMACs, published accuracies as fractions.
    """
    cards = catalog.cards()
    quoted = (model for name, model in published.models().items() if name not in cards)
    return [*map(_model, cards.values()), *map(_quoted, quoted)]


def _model(card: ModelCard) -> Row:
    published = card.published
    return {
        "name": card.name,
        "family": card.family,
        "input_shape": list(card.input_shape),
        "params_m": _scaled(card.params, 1e6),
        "gmacs": _scaled(card.macs, 1e9),
        "top1": published.top1,
        "top5": published.top5,
        "source": published.source,
        "measurable": card.measurable,
    }


def _quoted(model: Model) -> Row:
    return {
        "name": model.model,
        "family": model.family,
        "input_shape": [3, model.input_size, model.input_size] if model.input_size else [],
        "params_m": model.params_m_counted,
        "gmacs": model.gmacs_counted,
        "top1": model.top1,
        "top5": model.top5,
        "source": model.source,
        "measurable": False,
    }


def _scaled(count: int | None, unit: float) -> float | None:
    return None if count is None else round(count / unit, 6)


def devices() -> list[Row]:
    """A row a profile; `here` is "yes" or why this machine isn't that device."""
    description = environment.describe()
    return [
        {
            "name": profile.name,
            "label": profile.label,
            "kind": profile.kind,
            "backends": list(profile.backends),
            "batch_sizes": list(profile.batch_sizes),
            "threads": list(profile.threads),
            "here": here(profile, description),
        }
        for profile in catalog.profiles().values()
    ]


def here(profile: HardwareProfile, description: dict[str, Any]) -> str:
    try:
        find(profile, description)
    except BenchError as error:
        return str(error)
    return "yes"


def runtimes() -> list[Row]:
    """A row a backend that the project knows, with its options, the default first; `here` as for devices."""
    rows = []
    for name in backends.KNOWN:
        backend = backends.get(name)
        rows.append(
            {
                "name": name,
                "reads": backend.source,
                "precisions": sorted(backend.precisions),
                "options": {option: _admitted(allowed) for option, allowed in backend.options.items()},
                "here": homes.missing(backend) or "yes",
            }
        )
    return rows


def _admitted(allowed: tuple[str, ...] | str | Path) -> list[str]:
    if isinstance(allowed, Path):
        return ["PATH"]
    return [allowed] if isinstance(allowed, str) else list(allowed)


def results(folder: Path) -> tuple[list[Row], list[str]]:
    """A row a run, oldest first, and a line for each file that can't be read."""
    rows, troubles = [], []
    for path in store.paths(folder):
        try:
            rows.append(_run(store.read(path)))
        except UsageError as error:
            troubles.append(str(error))
    return sorted(rows, key=lambda row: str(row["started_at"])), troubles


def _run(run: store.Run) -> Row:
    statuses = {record.case: record.status for record in run.records}
    return {
        "run_id": run.run_id,
        "started_at": run.headers[0].started_at,
        "cases": len(statuses),
        "ok": list(statuses.values()).count("ok"),
        "failed": list(statuses.values()).count("failed"),
        "repetitions": sum(record.status == "ok" for record in run.records),
        "command": " ".join(run.headers[0].command),
        "path": str(run.path),
    }


def as_json(rows: list[Row]) -> str:
    return msgspec.json.format(msgspec.json.encode(rows)).decode() + "\n"


def as_text(rows: list[Row], hidden: frozenset[str] = frozenset()) -> str:
    """Aligned columns under their names, without those in `hidden`."""
    if not rows:
        return "none\n"
    names = [name for name in rows[0] if name not in hidden]
    lines = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{name}={'|'.join(values)}" for name, values in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
