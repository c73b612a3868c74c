"""What a report is: rows, and tables of rounded cells; every other file with a `render` here is a format of it."""

import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from bench import catalog, environment, published, store
from bench import formats as choices
from bench.catalog import ModelCard
from bench.errors import UsageError, unknown
from bench.published import Campaign, Latency
from bench.report import rows
from bench.report.rows import OWN, Machines, Row, family_of
from bench.schema import Case, Record
from bench.store import Header, Run, Unreadable
from bench.timing import quiet_collector

if TYPE_CHECKING:
    from bench.report.paddleclas import Origin

Source = Literal["measured", "published", "both"]
Layout = Literal["default", "paddleclas"]
Language = Literal["en", "zh"]

#: what a layout shows unless asked for something else
USUAL_SOURCES: dict[str, Source] = {"default": "measured", "paddleclas": "published"}

LIST_RESULTS = "see what there is with: bench list results"


@dataclass(frozen=True)
class Table:
    """Cells ready to print. `align` has an l or r for each column, `bold` names cells by (row, column) from 0.

    Any text may come from a foreign file: a format passes it through `one_line`, then escapes its own syntax.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    notes: tuple[str, ...] = ()
    bold: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Report:
    """What the records and the published figures say, in the order of the catalog.

    `notes` hold for all tables; `environment` has a line for each machine as it was; `command` is that which makes the
    report again, less its `--format`; `warnings` are for standard error. With `provenance` every figure of a table
    says where it is from. `results` is where the records are, `asked` what of them, by the name of the option.
    `machines` tells those of one name apart.
    """

    rows: list[Row]
    cards: Mapping[str, ModelCard]
    source: Source = "measured"
    layout: Layout = "default"
    language: Language = "en"
    provenance: bool = False
    results: Path = Path("results")
    notes: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    command: str = ""
    warnings: tuple[str, ...] = ()
    asked: Mapping[str, str] = field(default_factory=dict)
    machines: Machines = field(default_factory=dict)

    @cached_property
    def tables(self) -> list[Table]:
        """The tables of the layout. Raises UsageError without pandas, which formats of bare rows don't need."""
        if self.layout == "paddleclas":
            from bench.report import paddleclas

            return paddleclas.tables(self)
        from bench.report import tables

        return tables.default(self.rows, self.cards, self.provenance, self.machines)

    @cached_property
    def latency(self) -> list[Table]:
        """The one table that a terminal shows, or the published pages; neither needs pandas."""
        if self.layout == "paddleclas":
            return self.tables
        from bench.report import tables

        return tables.latency(self.rows, self.provenance, self.machines)

    @cached_property
    def origins(self) -> "list[Origin]":
        """Where each figure of the published pages is from, if asked for; other layouts have it in their rows."""
        from bench.report import paddleclas

        return paddleclas.origins(self) if self.provenance and self.layout == "paddleclas" else []


class Format(Protocol):
    """A file of this folder: syntax only. `suffix` is that of a file, with its dot."""

    suffix: str

    def render(self, report: Report) -> str: ...


def formats() -> list[str]:
    """The formats of this bench, which are the files of this folder that render."""
    return choices.names(__name__)


def get(name: str) -> Format:
    """The format of that name. Raises UsageError for an unknown one."""
    return cast(Format, choices.get(__name__, name))


def width(text: str) -> int:
    """How many columns of a terminal a printable text takes: East Asian characters two, combining ones none."""
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def build(
    results: Path,
    *,
    source: Source = "measured",
    layout: Layout = "default",
    language: Language = "en",
    provenance: bool = False,
    family: str | None = None,
    device: str | None = None,
    model: str | None = None,
    backend: str | None = None,
    run_id: str | None = None,
    interval: str | None = None,
) -> Report:
    """The report on the records below `results`, or in that file, and on published figures: what is asked for of them.

    `family` is spelt with any case and punctuation, `model` may be a glob. Of published figures the canonical ones
    count; a layout that regenerates pages picks its own. What can't be read of a folder (damaged lines, copies of
    records, files and lines of a newer bench) is left out with a warning, and the rest reported. Raises UsageError
    where nothing is left to report, and for a file asked for by itself that can't be read or is of a newer bench.
    """
    named = {
        "family": family,
        "device": device,
        "model": model,
        "backend": backend,
        "run": run_id,
        "interval": interval,
    }
    asked = {name: value for name, value in named.items() if value is not None}
    cards = catalog.cards()
    reading = Reading(asked, cards, layout)
    found = reading.rows(results, interval) if source != "published" else []
    if source != "measured":
        quoted = rows.quoted(_quotable(layout, reading.asked.get("family")))
        found = sorted([*found, *filter(reading.wanted, quoted)], key=rows.order(cards))
        reading.warnings += published.troubles(all_tables=layout == "paddleclas")
    if not found and not _paged(source, layout, reading.asked):
        raise reading.nothing(results).after(reading.warnings)
    words = {"source": source, "layout": layout, "lang": language}
    machines = several_machines(found, reading.headers)
    return Report(
        rows=found,
        cards=cards,
        source=source,
        layout=layout,
        language=language,
        provenance=provenance,
        results=results,
        notes=strangers(machines),
        environment=_environments(found, reading.headers),
        command=_command(results, {**_changed(words), **asked}, provenance),
        warnings=tuple(reading.warnings),
        asked=reading.asked,
        machines=machines,
    )


def _quotable(layout: Layout, family: str | None) -> Iterable[Latency]:
    """The published latencies that a layout shows."""
    if layout == "default":
        return (each for each in published.latencies() if each.canonical)
    from bench.report import paddleclas

    return paddleclas.latencies(family)


def _on_page(layout: Layout, family: str | None) -> frozenset[str]:
    """The models on the page of a family; none where the layout has no pages or shows all of them."""
    if layout == "default" or family is None:
        return frozenset()
    from bench.report import paddleclas

    return paddleclas.models(family)


def _paged(source: Source, layout: Layout, asked: Mapping[str, str]) -> bool:
    """Whether there are tables without any latency: some published pages have none."""
    if source == "measured" or layout == "default":
        return False
    from bench.report import paddleclas

    return paddleclas.shows(asked)


def _changed(words: Mapping[str, str]) -> dict[str, str]:
    usual = {"source": USUAL_SOURCES[words["layout"]], "layout": "default", "lang": "en"}
    return {name: word for name, word in words.items() if word != usual[name]}


def _command(results: Path, asked: Mapping[str, str], provenance: bool) -> str:
    place = [] if results == Path("results") else ["--results", str(results)]
    words = (word for name in asked for word in (f"--{name}", asked[name]))
    return shlex.join(["bench", "report", *place, *words, *["--provenance"] * provenance])


# Reading


class Reading:
    """Runs as they are read: records that are asked for go on; what there was is kept for messages and notes.

    A layout that regenerates pages asks with a family for its page: for the models beside it there as well.
    """

    def __init__(self, asked: Mapping[str, str], cards: Mapping[str, ModelCard], layout: Layout = "default") -> None:
        self.asked = {**asked, **({"family": _spelt(asked["family"])} if "family" in asked else {})}
        self.cards = cards
        self._on_page = _on_page(layout, self.asked.get("family"))
        self.seen: dict[str, set[str]] = {
            name: set() for name in ("family", "device", "model", "backend", "run", "interval")
        }
        self.headers: list[Header] = []
        self.warnings: list[str] = []
        self.refusals: list[UsageError] = []
        self._read_before: set[int] = set()
        self._fitting: dict[tuple[Case, str], bool] = {}

    def rows(self, results: Path, interval: str | None = None) -> list[Row]:
        """Of the newest records that are asked for, as `runs` reads them."""
        # Records hold no cycles, and the collector would walk through all of them time and again.
        with quiet_collector():
            return rows.rows(self.runs(results), self.cards, interval)

    def runs(self, results: Path) -> Iterator[Run]:
        """The runs below `results`; what can't be read of a folder is left out with a warning.

        Where `results` is the file itself that can't be read, or a newer bench wrote it, that raises UsageError.
        """
        for path in store.paths(results):
            try:
                run = self._read(path, alone=path == results)
            except UsageError as error:
                if path == results:
                    raise
                # A run that was killed while it wrote its header must not hide the others.
                self._refuse(error)
                continue
            self.headers += run.headers
            yield run

    def _read(self, path: Path, alone: bool) -> Run:
        troubles = Troubles(path)
        headers: list[Header] = []
        records: list[Record] = []
        some = False
        for number, line in store.lines(path):
            if isinstance(line, Unreadable):
                if line.newer and alone:
                    raise store.refusal(path, number, line)
                troubles.note(number, line)
            elif isinstance(line, Header):
                headers.append(line)
            elif isinstance(line, Record):
                some = True
                if not self._is_new(line):
                    troubles.repeated.append(number)
                elif self._wanted(line):
                    records.append(rows.lean(line))
        if not headers and not some:
            raise troubles.newer or store.no_run(path)
        if troubles.newer:
            self._refuse(troubles.newer)
        self.warnings += troubles.lines(headers=bool(headers))
        return Run(path=path, headers=tuple(headers), records=tuple(records))

    def _refuse(self, error: UsageError) -> None:
        self.refusals.append(error)
        self.warnings.append(f"left out: {error}")

    def _is_new(self, record: Record) -> bool:
        """Whether it is no copy of one that was read before, as files that were put together have them.

        One that has more against it is none: the session drifted, say, which shows at its end.
        """
        identity = hash((record.run_id, record.case, record.repetition, record.started_at, len(record.validity)))
        known = identity in self._read_before
        self._read_before.add(identity)
        return not known

    def _wanted(self, record: Record) -> bool:
        intervals = record.measurement.intervals if record.measurement else record.settings.intervals
        self.seen["interval"].update(intervals)
        case, run_id = record.case, record.run_id
        if (case, run_id) not in self._fitting:
            family = self._family(case.model, family_of(case.model, self.cards))
            self._fitting[case, run_id] = self._fits(
                {"family": family, "device": case.device, "model": case.model, "backend": case.backend, "run": run_id}
            )
        return self._fitting[case, run_id]

    def wanted(self, row: Row) -> bool:
        """Whether a row of published figures is asked for; it belongs to no run."""
        found = {name: getattr(row, name) for name in ("device", "model", "backend", "interval")}
        return "run" not in self.asked and self._fits({"family": self._family(row.model, row.family), **found})

    def _family(self, model: str, family: str) -> str:
        """The family that a model counts for: on the page of the one asked for, that one."""
        return self.asked["family"] if model in self._on_page else family

    def _fits(self, found: Mapping[str, str]) -> bool:
        for name, value in found.items():
            self.seen[name].add(value)
        return all(_fits(name, value, self.asked[name]) for name, value in found.items() if name in self.asked)

    def nothing(self, results: Path) -> UsageError:
        """Why there is no row, and what there is instead."""
        if self.refusals and not self.seen["model"]:
            return self.refusals[0]
        if not self.seen["model"]:
            found = "no case in it has been tried yet" if self.headers else "it holds no run"
            found = found if results.exists() else "there is no such file or folder"
            return UsageError(
                f"no results in {results}", found, "measure with: bench run, or name others with --results"
            )
        for name, wanted in self.asked.items():
            there = self.seen[name]
            if not any(_fits(name, value, wanted) for value in there):
                return unknown(f"results of {name}", wanted, sorted(there), LIST_RESULTS)
        wanted = ", ".join(f"{name} {value}" for name, value in self.asked.items())
        return UsageError(f"no results of {wanted} together", "there are some of each", LIST_RESULTS)


@dataclass
class Troubles:
    """What is wrong with a file that is read nevertheless: the numbers of the lines that were left out."""

    path: Path
    damaged: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    newer: UsageError | None = None

    def note(self, number: int, line: Unreadable) -> None:
        if not line.newer:
            self.damaged.append(number)
        elif not self.newer:
            self.newer = store.refusal(self.path, number, line)

    def lines(self, headers: bool) -> Iterator[str]:
        if self.damaged:
            yield f"{self.path}: {_numbered(self.damaged)} left out; damaged, or cut off in the middle"
        if self.repeated:
            yield f"{self.path}: {_numbered(self.repeated)} left out; the same records were read before"
        if not headers:
            yield f"{self.path}: no header line can be read; its records are reported, their machine is unknown"


def _numbered(numbers: list[int]) -> str:
    """`2 lines (7, 12)`; of many the first ones."""
    shown = ", ".join(map(str, numbers[:MOST_NUMBERS])) + ", …" * (len(numbers) > MOST_NUMBERS)
    return f"{len(numbers)} line{'s' * (len(numbers) > 1)} ({shown})"


MOST_NUMBERS = 5


def _spelt(family: str) -> str:
    """A family as the catalog or the published figures spell it. Raises UsageError for an unknown one."""
    known = published.family_spellings()
    return known.get(catalog.fold(family)) or (OWN if family == OWN else catalog.of_family(family)[0].family)


def _fits(name: str, value: str, wanted: str) -> bool:
    return value == wanted or (name == "model" and fnmatchcase(value, wanted))


# Where it was measured


def several_machines(found: Iterable[Row], headers: Iterable[Header]) -> Machines:
    """Tells machines apart that have one name: `cpu` is whatever machine it was. Empty where no device is several."""
    classes = {header.environment_id: environment.machine_class(header.environment) for header in headers}
    runs: dict[str, dict[str, str]] = {}
    for row in found:
        if row.environment_id in classes:
            runs.setdefault(row.device, {})[classes[row.environment_id]] = row.run_id
    return {
        (device, environment_id): named[machine]
        for device, named in runs.items()
        for environment_id, machine in classes.items()
        if len(named) > 1 and machine in named
    }


def strangers(machines: Machines) -> tuple[str, ...]:
    """A note on each device whose rows come from different machines."""
    runs: dict[str, set[str]] = {}
    for (device, _), run_id in machines.items():
        runs.setdefault(device, set()).add(run_id)
    return tuple(
        f"{device} is {len(named)} different machines here (runs {', '.join(sorted(named))}): "
        "compare rows of one run only"
        for device, named in runs.items()
    )


def _environments(found: Iterable[Row], headers: Iterable[Header]) -> tuple[str, ...]:
    """A line for each environment that rows come from: the machine, its software, and the runs; or the campaign."""
    shown = dict.fromkeys((row.environment_id, row.run_id) for row in found if row.source == "measured")
    known = {(header.environment_id, header.run_id): header for header in headers}
    lines: dict[str, list[str]] = {}
    for environment_id, run_id in sorted(shown, key=lambda pair: pair[1]):
        header = known.get((environment_id, run_id))
        machine = machine_line(header.environment) if header else "unknown environment"
        lines.setdefault(machine, []).append(_run_line(run_id, header))
    measured = (f"{machine}; {', '.join(runs)}" for machine, runs in lines.items())
    named = dict.fromkeys(row.campaign for row in found if row.campaign)
    return (*measured, *(campaign_line(published.campaigns()[name]) for name in named))


def campaign_line(campaign: Campaign) -> str:
    """How published figures were measured, in the words of their documents."""
    said = {
        "engine": campaign.engine,
        "version": campaign.engine_version,
        "runs": campaign.runs,
        "warm-up": campaign.warmup,
        "statistic": campaign.statistic,
        "timed": campaign.timing_scope + ("" if campaign.scope_stated else f" (taken for {campaign.interval})"),
        "published": campaign.published,
    }
    words = "; ".join(f"{name}: {text}" for name, text in said.items() if text)
    name = f"{campaign.device} as published, measured by its publisher ({campaign.campaign})"
    return f"{name}: {campaign.hardware}; {words}"


def _phone_line(phone: str, description: Mapping[str, Any]) -> str:
    hardware = description["device"]["hardware"]
    parts = [
        phone,
        f"Android {hardware['android']}" if hardware.get("android") else "",
        f"kernel {hardware['kernel']}" if hardware.get("kernel") else "",
        *_homes(description),
    ]
    return ", ".join(part for part in parts if part)


def _homes(description: Mapping[str, Any]) -> Iterator[str]:
    """What runs in Pythons of their own."""
    for held in (description.get("homes") or {}).values():
        yield from (f"{name} {version}" for name, version in held.items())


def _run_line(run_id: str, header: Header | None) -> str:
    if not header:
        return f"run {run_id}"
    sha, dirty, _ = (header.commit or "").partition("-dirty")
    commit = f", commit {sha[:12]}{dirty}" if sha else ""
    return f"run {run_id} ({header.started_at[:19]}Z, bench {header.bench_version}{commit})"


def machine_line(description: Mapping[str, Any]) -> str:
    """The facts of `environment.describe` that one wants beside a table; of a phone, its own and not this machine's."""
    if phone := environment.phone_words(description):
        return _phone_line(phone, description)
    hardware, system, limits = (description.get(part) or {} for part in ("hardware", "system", "limits"))
    processor = (hardware.get("cpu") or {}).get("name") or "unknown CPU"
    parts = [
        f"{processor}, {limits.get('usable_cpus') or hardware.get('logical_cpus') or '?'} usable CPUs",
        *(hardware.get("gpus") or ()),
        f"driver {gpu['driver']}" if (gpu := (description.get("device") or {}).get("gpu")) else "",
        f"virtual machine ({hardware.get('hypervisor') or 'unknown kind'})" if hardware.get("virtual_machine") else "",
        system.get("distribution") or system.get("os") or "",
        f"kernel {system['kernel']}" if system.get("kernel") else "",
        system.get("python") or "",
        *(f"{name} {version}" for name, version in (description.get("packages") or {}).items() if version),
        *_homes(description),
        *(f"{name}={value}" for name, value in (description.get("variables") or {}).items()),
    ]
    return ", ".join(part for part in parts if part)
