"""`bench run` as a list of named steps: plan it, start or resume its file, run it."""

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import __version__, backends, catalog, devices, environment, homes, plan, published, store
from bench.artifacts import Cache, default_root, model_files
from bench.backends import BaseBackend, Setup
from bench.catalog import HardwareProfile, ModelCard
from bench.devices import Device
from bench.errors import Failed, Unavailable, Unsupported, UsageError, unknown
from bench.formats import without_home
from bench.plan import Plan, Request
from bench.prepare import EXPORTERS, REFERENCES, Workshop, check_weights
from bench.runner import Progress, Runner
from bench.schema import Artifact, Case, Record, Settings
from bench.store import Header, NoRun, Run, RunFile

NO_MODEL = UsageError("no model was named", "", "name one with --model or --family; see: bench list models")


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to: its file, and the records of this session."""

    path: Path
    run_id: str
    records: list[Record]


def make_plan(request: Request) -> tuple[Plan, Device]:
    """The cases, and the device for them. Raises UsageError for names that nothing bears, Unavailable without the
    device."""
    profile = catalog.profile(request.device)
    cards = published.select(request.models, request.families, request.input_shape)
    if not cards:
        raise NO_MODEL
    asked = request.backends or profile.backends
    found = {name: backends.get(name) for name in asked}
    for name in request.options:
        if name not in found:
            raise unknown("backend in this plan", name, list(found), "--set takes BACKEND.OPTION=VALUE")
        backends.settle(found[name], request.options[name], profile.kind)
    _refuse_semantics(request, found)
    check_weights(request.settings.weights)
    device = devices.find(profile, environment.describe())
    devices.show(device)
    missing = {
        name: why_missing(backend, cards) or devices.lacking(profile, device, backend, _options(request, backend))
        for name, backend in found.items()
    }
    held = {name: homes.contents(backend.home) for name, backend in found.items() if backend.home}
    if held:
        device = msgspec.structs.replace(device, description={**device.description, "homes": held})
    return plan.make(request, cards, profile, found, missing, device.cpus, device.found), device


def _options(request: Request, backend: BaseBackend) -> dict[str, str]:
    kind = catalog.profile(request.device).kind
    wanted = {"semantics": request.semantics} if "semantics" in backend.options else {}
    return backends.settle(backend, {**wanted, **request.options.get(backend.name, {})}, kind)


def _refuse_semantics(request: Request, found: Mapping[str, BaseBackend]) -> None:
    able = [name for name in backends.names() if "semantics" in backends.get(name).options]
    if request.semantics != "bench" and not set(able) & set(found):
        raise UsageError(
            f"--semantics {request.semantics} is not for this plan",
            f"its backends are {', '.join(found)}",
            f"it is for --backend {', '.join(able)}",
        )


def why_missing(backend: BaseBackend, cards: list[ModelCard]) -> str:
    """Why the backend can't be used in this Python, its need of an exporter included; "" if it can."""
    if reason := homes.missing(backend):
        return reason
    exported = any(card.network or card.format != backend.source for card in cards)
    needed = EXPORTERS.get(backend.source, ()) if exported else ()
    absent = [module for module in needed if importlib.util.find_spec(module) is None]
    return (
        f"{', '.join(absent)} is not installed, with which models are exported and checked; pip install 'bench[cpu]'"
        if absent
        else ""
    )


def header_for(request: Request, description: dict[str, Any], command: tuple[str, ...], run_id: str) -> Header:
    return Header(
        run_id=run_id,
        started_at=store.now(),
        bench_version=__version__,
        command=command,
        request=_public(msgspec.to_builtins(request)),
        commit=environment.git_commit(),
        environment_id=environment.environment_id(description),
        environment=description,
    )


def _public(request: dict[str, Any]) -> dict[str, Any]:
    """With `~` for the home folder in options, as records get published; who reads a path of theirs expands it."""
    options = {
        backend: {option: without_home(value) for option, value in given.items()}
        for backend, given in request["options"].items()
    }
    return {**request, "options": options}


def start(request: Request, results: Path, command: tuple[str, ...], progress: Progress) -> Outcome:
    """A new run. Raises UsageError, or Unavailable, before anything is written where nothing could be measured."""
    planned, device = make_plan(request)
    workshop = _workshop(request, progress)
    _read_own_models(planned, workshop)
    header = header_for(request, device.description, command, store.new_run_id())
    with devices.held(device), RunFile.create(results / request.device, header) as file:
        try:
            return _run(planned, request, workshop, file, header, (), progress)
        except UsageError:
            if not any(record.status == "ok" for record in store.read(file.path).records):
                file.discard()
            raise


def resume(earlier: Run, command: tuple[str, ...], progress: Progress) -> Outcome:
    """Goes on with a run as it was asked for. Raises UsageError on another kind of machine than it started on."""
    first = earlier.headers[0]
    request = _request_of(first)
    planned, device = make_plan(request)
    _refuse_other_place(first, device.description)
    workshop = _workshop(request, progress)
    _read_own_models(planned, workshop)
    header = header_for(request, device.description, command, first.run_id)
    with devices.held(device), RunFile.reopen(earlier.path, header) as file:
        # Only now, under the file's lock, is it certain that nobody else is adding to it.
        return _run(planned, request, workshop, file, header, store.read(earlier.path).records, progress)


def _refuse_other_place(first: Header, description: Mapping[str, Any]) -> None:
    """Repetitions from another machine, or of another runtime, are not of the same case."""
    here, there = environment.machine_class(description), environment.machine_class(first.environment)
    if here != there:
        found = f"class {there}, this one is {here}"
        raise UsageError(f"run {first.run_id} was started on another machine", found, "start a new run")
    now, then = (
        (each.get("packages") or {}) | environment.in_homes(each) | _gpu(each)
        for each in (description, first.environment)
    )
    changed = [f"{name} {then.get(name)} then, {now[name]} now" for name in now if now[name] != then.get(name)]
    if changed:
        raise UsageError(f"run {first.run_id} was started with other packages", ", ".join(changed), "start a new run")


def _gpu(description: Mapping[str, Any]) -> dict[str, Any]:
    """Which GPU of the machine it was, and its driver."""
    gpu = environment.gpu_of(description)
    return {f"GPU {name}": gpu.get(name) for name in ("index", "name", "driver") if gpu}


def _request_of(header: Header) -> Request:
    try:
        return msgspec.convert(header.request, Request)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"cannot go on with run {header.run_id}", f"in the request of its header: {error}", "start a new run"
        ) from error


def find_run(results: Path, run_id: str) -> Run:
    """The run of that ID (its beginning will do) or file name below `results`, or the latest one for "latest".

    Raises UsageError where there is none, and where there are several.
    """
    if not run_id:
        raise UsageError("--resume names no run", "it is empty", "leave its value out for the latest, or give an ID")
    if run_id == "latest":
        runs = list(_begun(store.paths(results)))
    else:
        runs = [store.read(path) for path in store.paths(results) if _is_called(path, run_id)]
    if not runs:
        found = "there is none" if run_id == "latest" else f"none is {run_id}"
        raise UsageError(f"no run to resume in {results}", found, "see: bench list results")
    if run_id != "latest" and len(runs) > 1:
        found = ", ".join(run.path.stem for run in runs)
        raise UsageError(f"{len(runs)} runs in {results} are called {run_id}", found, "give more of the ID")
    return max(runs, key=lambda run: run.headers[0].started_at)


def _is_called(path: Path, run_id: str) -> bool:
    return path.stem == run_id or path.stem.rpartition("-")[2].startswith(run_id)


def _begun(paths: Iterable[Path]) -> Iterator[Run]:
    """Runs that can be gone on with: the file of a comparison holds no request."""
    for path in paths:
        with contextlib.suppress(NoRun):
            run = store.read(path)
            if run.headers[0].request:
                yield run


def _workshop(request: Request, progress: Progress) -> Workshop:
    return Workshop(Cache(default_root()), request.settings, environment.cpus_available(), progress.say)


def _read_own_models(planned: Plan, workshop: Workshop) -> None:
    """Opens every file of the user's once, so that an unusable one is refused before anything is measured.

    Any other trouble with one goes on record when its cases' turn comes.
    """
    for model in dict.fromkeys(case.model for case in planned.cases):
        if planned.cards[model].file:
            with contextlib.suppress(Unsupported, Unavailable, Failed):
                workshop.input_shape(planned.cards[model])


def _run(
    planned: Plan,
    request: Request,
    workshop: Workshop,
    file: RunFile,
    header: Header,
    earlier: tuple[Record, ...],
    progress: Progress,
) -> Outcome:
    options = {name: _options(request, backends.get(name)) for name in {case.backend for case in planned.cases}}
    runner = Runner(planned, request.settings, options, workshop, file, header, progress)
    return Outcome(path=file.path, run_id=header.run_id, records=runner.run(earlier))


def preview(request: Request) -> Plan:
    """The plan alone: nothing is exported, loaded or written."""
    return make_plan(request)[0]


def export(
    models: Sequence[str],
    families: Sequence[str],
    input_shape: tuple[int, ...],
    weights: str,
    formats: Sequence[str],
    output: Path,
    device: str,
    progress: Progress,
) -> Iterator[Path]:
    """Writes each model in each format to `<output>/<model>/`, and yields the files to open; engines are for `device`.

    Raises Unavailable for a format that this bench or this Python can't make, and what each conversion raises.
    """
    cards = published.select(models, families, input_shape)
    if not cards:
        raise NO_MODEL
    makers = [_maker(name, cards, device) for name in formats]
    request = Request(settings=Settings(weights=weights))
    workshop = _workshop(request, progress)
    for card in cards:
        for make in makers:
            artifact = make(workshop, card)
            yield _copy(Path(artifact.path), output / card.name)


def _maker(format_: str, cards: list[ModelCard], device: str) -> Callable[[Workshop, ModelCard], Artifact]:
    """How an artifact of `format_` is made: a conversion, or the engine of the backend that builds such."""
    if format_ in REFERENCES:
        source = backends.get(REFERENCES[format_])
        if missing := why_missing(source, cards):
            raise Unavailable(f"cannot export to {format_}", missing)
        return lambda workshop, card: workshop.model(card, format_)
    backend = next(filter(lambda backend: backend.engine == format_, map(backends.get, backends.names())))
    # A backend with a home converts there, and needs nothing of ours.
    if missing := homes.missing(backend) if backend.home else why_missing(backend, cards):
        raise Unavailable(f"cannot export to {format_}", missing)
    profile = _device_for(backend, device)
    found = _found_gpu(profile, backend) if profile.kind == "gpu" else {}
    return lambda workshop, card: workshop.engine(card, _plainest(workshop, card, backend, profile, found))


def _device_for(backend: BaseBackend, device: str) -> HardwareProfile:
    """That device, or for "" the first that lists the backend. Raises UsageError for one that it doesn't run on."""
    if not device:
        return next(profile for profile in catalog.profiles().values() if backend.name in profile.backends)
    profile = catalog.profile(device)
    if profile.kind not in backend.kinds:
        kinds = ", ".join(sorted(backend.kinds))
        raise UsageError(
            f"no {backend.engine} for {device}", f"{backend.name} runs on {kinds}", "name another --device"
        )
    return profile


def _found_gpu(profile: HardwareProfile, backend: BaseBackend) -> dict[str, Any]:
    """The GPU that an engine is for, which is the one that makes it. Raises Unavailable without it."""
    device = devices.find(profile, environment.describe())
    devices.show(device)
    if missing := devices.lacking(profile, device, backend, backends.settle(backend, {}, profile.kind)):
        raise Unavailable(f"cannot make an engine for {profile.name}", missing)
    return device.found


def _plainest(
    workshop: Workshop, card: ModelCard, backend: BaseBackend, profile: HardwareProfile, found: dict[str, Any]
) -> Setup:
    """What an engine is exported for: the first of each axis of the device, and the batch that the model names."""
    batch_size = workshop.fixed_batch(card) or profile.batch_sizes[0]
    case = Case(card.name, backend.name, profile.name, profile.precisions[0], batch_size, profile.threads[0])
    return Setup(case, profile, backends.settle(backend, {}, profile.kind), workshop.input_shape(card), found)


def _copy(file: Path, folder: Path) -> Path:
    """The model file and its parameters, copied into `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in model_files(file):
            shutil.copy2(path, folder / path.name)
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}", error.strerror or str(error), "name another with --output DIR"
        ) from error
    return folder / file.name
