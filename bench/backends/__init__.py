"""What a backend is, and which there are: every other file of this folder is one.

Facts are class attributes, so that a plan can be made without loading a runtime; verbs are few; the timed
region is exactly `Session.run`.
"""

import importlib
import importlib.util
import pkgutil
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench import stats
from bench.catalog import HardwareProfile
from bench.errors import Unavailable, Unsupported, UsageError, last_line, unknown
from bench.schema import Case, Frozen, Input, Interval, Measurement, Precision, Samples, Settings, Validity
from bench.timing import Clock, measure

if TYPE_CHECKING:
    import numpy as np

    Arrays = list[np.ndarray[Any, Any]]

#: how many engines of TensorRT are made of a case: between kernels of nearly one speed the noise of the builder's own
#: timing decides
BUILDS = 3
KNOWN = ("paddle", "paddle_tensorrt", "onnxruntime", "openvino", "tensorrt", "paddle_lite", "simulated")


class Account(Frozen, frozen=True):
    """What a device that computes elsewhere says of a measurement, in place of what this process would see of itself.

    `requested`, `effective` and `telemetry` are added to the record's.
    """

    requested: dict[str, Any] = {}
    effective: dict[str, Any] = {}
    telemetry: dict[str, Any] = {}
    validity: tuple[Validity, ...] = ()


class Session:
    """An engine, opened. `feed`, then `run` as often as wanted, then `fetch`; `close` frees it all.

    `run` is one synchronous inference on inputs that are where the runtime wants them (`compute`);
    `end_to_end` copies the inputs fed in, runs and returns the outputs, copied out.
    """

    clock: Clock = staticmethod(time.perf_counter_ns)
    #: how long warm-up takes at least
    steady_ns: float = stats.STEADY_NS
    #: from when to when each interval of the last `measure` was sampled, on the monotonic clock
    sampled_ns: tuple[tuple[int, int], ...] = ()
    _began_ns: int = 0

    def feed(self, inputs: "Arrays") -> None:
        raise NotImplementedError

    def run(self) -> None:
        raise NotImplementedError

    def fetch(self) -> "Arrays":
        """The outputs of the last `run`, as arrays that later ones leave alone."""
        raise NotImplementedError

    def end_to_end(self) -> "Arrays":
        raise NotImplementedError

    def effective(self) -> dict[str, Any]:
        """What the runtime says it does: threads, precision, providers; read back, never what was asked.

        What can't be proven is left out; the worker adds the number of threads that it saw at work.
        """
        return {}

    def _begin(self) -> None:
        """Notes when warm-up was over."""
        self._began_ns = time.monotonic_ns()

    def account(self) -> Account | None:
        """Of the last `measure`, where another device did it; None where this process did."""
        return None

    def validity(self) -> tuple[Validity, ...]:
        """Reasons to distrust the last `measure` that only the runtime could see."""
        return ()

    def semantics(self) -> dict[str, str]:
        """What an interval is of here, where that differs from what it is everywhere else."""
        return {}

    def beside(self) -> dict[str, Any]:
        """What else goes on record of the last `measure`, such as figures by another tool's definitions."""
        return {}

    def close(self) -> None:
        """Frees the engine; the session is of no use afterwards."""

    def prepare(self, intervals: Sequence[Interval]) -> None:
        """Comes before these are timed. Raises what keeps one of them from being timed rightly."""

    def intervals(self) -> dict[Interval, Callable[[], object]]:
        return {"compute": self.run, "end_to_end": self.end_to_end}

    def clocks(self) -> dict[Interval, Clock]:
        """Those of intervals that are not timed by the host's clock."""
        return {}

    def measure(
        self, settings: Settings, clock: Clock | None = None, shoot: Callable[[Interval], object] | None = None
    ) -> Measurement:
        """The latencies of every interval asked for; `load_ns` and `first_ns` are the worker's to add.

        `shoot` fires the compute probe beside an interval, and is no part of its latencies.
        """
        known = self.intervals()
        if strange := [interval for interval in settings.intervals if interval not in known]:
            raise Unsupported(f"no interval {', '.join(strange)} here", f"there are {', '.join(known)}")
        self.prepare(settings.intervals)
        clocks = self.clocks()
        samples: dict[Interval, Samples] = {}
        windows: list[tuple[int, int]] = []
        for interval in settings.intervals:
            beside = shoot and partial(shoot, interval)
            chosen = clocks.get(interval) or clock or self.clock
            samples[interval] = measure(known[interval], settings, chosen, beside, self.steady_ns, self._begin)
            windows.append((self._began_ns, time.monotonic_ns()))
        self.sampled_ns = tuple(windows)
        return Measurement(intervals=samples, load_ns=0, first_ns=0)


class Setup(Frozen, frozen=True):
    """All that an engine is made and opened for. `input_shape` is of one image, `options` are all of the backend's,
    `found` is what was found out about a device that is not this machine."""

    case: Case
    device: HardwareProfile
    options: dict[str, str]
    input_shape: tuple[int, ...]
    found: dict[str, Any] = {}


class Home(Frozen, frozen=True):
    """The Python environment that a backend's workers run in, where its packages can't live beside ours.

    `python` is a version such as "3.10", `packages` are requirements as pip writes them.
    """

    python: str
    packages: tuple[str, ...]


class BaseBackend:
    """Facts on a runtime, and how to make and open its engines."""

    name: ClassVar[str]
    #: import names that must be found for the backend to work, and what to type if they aren't
    requires: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = ""
    #: distributions whose versions an engine depends on
    distributions: ClassVar[tuple[str, ...]] = ()
    #: where all of its work is done, if not in this Python; made by `bench setup`
    home: ClassVar[Home | None] = None
    #: modules of ours, besides its own, that decide what it builds and computes
    code: ClassVar[tuple[str, ...]] = ()
    #: the artifact that engines are made from: "paddle", "onnx", "pdmodel" (Paddle's older format), or "" for none
    source: ClassVar[str] = ""
    #: the format of the engine where `build` makes one, else ""
    engine: ClassVar[str] = ""
    kinds: ClassVar[frozenset[str]] = frozenset()
    precisions: ClassVar[frozenset[str]] = frozenset()
    #: a backend that is no runtime never enters a plan unasked
    default: ClassVar[bool] = True
    #: whether outputs are real, so that parity can be checked
    computes: ClassVar[bool] = True
    #: option → what it admits: choices, of which the first is the default, a number given as text, or a path
    options: ClassVar[Mapping[str, tuple[str, ...] | str | Path]] = {}
    #: options that mean something on one kind of device alone, and which
    only: ClassVar[Mapping[str, str]] = {}
    #: the options of a plain, unoptimised run, for use as the reference of its own format
    plain: ClassVar[Mapping[str, str]] = {}

    def environment(self, options: Mapping[str, str]) -> dict[str, str]:  # noqa: ARG002 - for those that override it
        """Environment variables that the worker must have before it imports the runtime."""
        return {}

    def probe(self, device: HardwareProfile) -> str:
        """The runtime's version. Raises Unavailable with what to type where it can't serve `device`."""
        raise NotImplementedError

    def intervals_on(self, kind: str) -> frozenset[Interval]:  # noqa: ARG002 - for those that override it
        """What can be timed on a kind of device."""
        return frozenset({"compute", "end_to_end"})

    def rounding(self, setup: Setup) -> Precision:
        """The precision whose tolerance outputs are held to: TF32 rounds products to as many digits as fp16 has."""
        coarse = setup.case.precision == "fp32" and setup.options.get("tf32") == "on"
        return "fp16" if coarse else setup.case.precision

    def stack(self, options: Mapping[str, str]) -> str:  # noqa: ARG002 - for those that override it
        """What `bench/gpu/matrix.py` calls the runtime with these options."""
        return self.name

    def lacking(self, device: HardwareProfile, options: Mapping[str, str], found: Mapping[str, Any]) -> str:  # noqa: ARG002
        """What the user must still bring for this device, told before anything is made; "" for nothing."""
        return ""

    def obstacle(self, case: Case, options: Mapping[str, str], found: Mapping[str, Any]) -> str:  # noqa: ARG002
        """Why the device that was found would not run the case as asked; "" for no reason that is known."""
        return ""

    def inspect(self, source: Path) -> tuple[Input, ...]:
        """What a model of the backend's source format takes. Raises UsageError for a file that can't be read."""
        raise NotImplementedError

    def engine_with(self, options: Mapping[str, str]) -> str:  # noqa: ARG002 - for those that override it
        """The format of the engine that is made with these options; "" where the source itself is run."""
        return self.engine

    def builds_with(self, options: Mapping[str, str]) -> int:  # noqa: ARG002 - for those that override it
        """How many engines are made of a case, numbered by its option `build`: where two builds of one differ,
        repetitions take turns with them, so that their spread is seen."""
        return 1

    def variant(self, setup: Setup) -> dict[str, str]:  # noqa: ARG002 - for those that override it
        """What of `setup` an engine depends on, besides its source."""
        return {}

    def build(self, source: Path, folder: Path, setup: Setup) -> Path:  # noqa: ARG002 - for those that override it
        """Makes the engine from `source` in `folder`; where there is nothing to make, the engine is the source."""
        return source

    def open(self, engine: Path, setup: Setup) -> Session:
        """Raises Unsupported where the runtime can't do the case, Failed where the engine is damaged, Stale for one
        that it would make anew."""
        raise NotImplementedError

    def runtime(self, device: HardwareProfile) -> Any:
        """The runtime, imported, for `probe`. Raises Unavailable where it is absent or does not load."""
        if device.kind not in self.kinds:
            raise Unsupported(f"{self.name} here runs on {', '.join(sorted(self.kinds))}", f"not on a {device.kind}")
        if absent := missing(self):
            raise Unavailable(absent)
        try:
            for name in reversed(self.requires):
                module = importlib.import_module(name)
        except Exception as error:  # a library that it lacks, or one that it clashes with
            raise Unavailable(f"{name} does not load", last_line(error), f"mend it with: {self.install}") from error
        return module

    def precisions_on(self, kind: str) -> frozenset[str]:  # noqa: ARG002 - for those that override it
        """Those of its precisions that it runs on a kind of device."""
        return self.precisions

    def refuse_precision(self, case: Case) -> None:
        """Raises Unsupported for a precision that the backend never runs; `open` calls it first."""
        if case.precision not in self.precisions:
            raise Unsupported(f"{self.name} runs {', '.join(sorted(self.precisions))}", f"not {case.precision}")


def names() -> list[str]:
    """The backends of this bench, which are the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> BaseBackend:
    """The backend of that name; importing it loads no runtime. Raises UsageError for an unknown one."""
    if name not in names():
        raise unknown("backend", name, names(), "list them with: bench list backends")
    backend: BaseBackend = importlib.import_module(f"bench.backends.{name}").Backend()
    return backend


def missing(backend: BaseBackend) -> str:
    """Why the backend can't work in this Python, or "" where everything that it imports can be found."""
    absent = [module for module in backend.requires if importlib.util.find_spec(module) is None]
    return f"{', '.join(absent)} is not installed; install it with: {backend.install}" if absent else ""


def complaint(error: Exception, file: Path) -> str:
    """What a vendor's error says of `file`, without the folder that it lies in: records get published."""
    return last_line(error).replace(str(file), file.name)


def settle(backend: BaseBackend, asked: Mapping[str, str], kind: str = "") -> dict[str, str]:
    """All options of a backend that a device of `kind` has: those asked for, checked, and the defaults of the rest."""
    elsewhere = {option: its for option, its in backend.only.items() if kind and its != kind}
    for option, value in asked.items():
        if option not in backend.options:
            raise unknown(f"option of {backend.name}", option, list(backend.options), "see: bench list backends")
        if option in elsewhere:
            only = f"the device is a {kind}, and it is for a {elsewhere[option]}"
            raise UsageError(f"{backend.name}.{option} means nothing here", only, "leave it out")
        allowed = backend.options[option]
        good = value in allowed if isinstance(allowed, tuple) else isinstance(allowed, Path) or _is_number(value)
        if not good:
            wanted = ", ".join(allowed) if isinstance(allowed, tuple) else "a number"
            raise UsageError(f"{backend.name}.{option} cannot be {value!r}", f"it takes {wanted}", "correct --set")
    here = {option: allowed for option, allowed in backend.options.items() if option not in elsewhere}
    return {**{option: _default(allowed) for option, allowed in here.items()}, **asked}


def _default(allowed: tuple[str, ...] | str | Path) -> str:
    if isinstance(allowed, Path):
        return ""  # no path at all
    return allowed if isinstance(allowed, str) else allowed[0]


def whole(backend: BaseBackend, option: str, options: Mapping[str, str]) -> int:
    """The value of an option that counts something. Raises UsageError for a fraction or a negative number."""
    value = options[option]
    if not value.isdecimal():
        raise UsageError(f"{backend.name}.{option} takes a whole number", f"found {value!r}", "correct --set")
    return int(value)


def on_this_gpu(setup: Setup) -> dict[str, str]:
    """What each engine that TensorRT makes depends on, besides its source, its options and what is installed."""
    gpu = setup.found.get("gpu", {})
    return {
        "precision": setup.case.precision,
        "batch_size": str(setup.case.batch_size),
        "input_shape": "x".join(map(str, setup.input_shape)),
        "gpu": str(gpu.get("name") or setup.device.name),
        "capability": ".".join(map(str, gpu.get("capability") or ())) or setup.device.capability,
        "driver": str(gpu.get("driver", "")),
        "system": system(),
    }


def system() -> str:
    """Engines are tied to it, too: for example "Linux x86_64"."""
    return f"{platform.system()} {platform.machine()}"


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of the last change, in ns, of each file, by its place in the folder."""
    facts = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (fact.st_size, fact.st_mtime_ns) for name, fact in facts.items()}


def as_published(backend: BaseBackend, options: Mapping[str, str]) -> dict[str, str]:
    """Options for a record, which gets published: of a path its last part."""
    return {
        option: Path(value).name if isinstance(backend.options[option], Path) else value
        for option, value in options.items()
    }


def deviations(case: Case, options: Mapping[str, str], effective: Mapping[str, Any]) -> tuple[str, ...]:
    """Threads, precision and switches that are not as asked, as far as the runtime tells (`Session.effective`)."""
    numbers = (("threads", case.threads), ("threads_used", case.threads), ("precision", case.precision))
    found = [
        f"{name.removesuffix('_used')}: {asked} asked, {effective[name]} in effect"
        for name, asked in numbers
        if name in effective and effective[name] != asked
    ]
    found += [
        f"{option}: {value} asked, {'on' if effective[option] else 'off'} in effect"
        for option, value in options.items()
        if isinstance(effective.get(option), bool) and effective[option] != (value == "on")
    ]
    return tuple(found)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
