"""What crosses a process boundary or goes to disk: immutable, typed, with the unit in the name.

Records are JSON Lines. `SCHEMA` counts their versions: a reader upgrades older ones (`store.py`) and
refuses newer ones by name.
"""

from typing import Any, Literal

import msgspec

SCHEMA = 1
#: the environment variable that tells a worker whose child it is
PARENT_VARIABLE = "BENCH_PARENT"

Status = Literal["ok", "failed", "unsupported", "unavailable"]
Interval = Literal["compute", "end_to_end", "device"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Immutable, and deaf to no misspelt field."""


class Case(Frozen, frozen=True):
    """One point of the matrix: a question fully asked."""

    model: str
    backend: str
    device: str
    precision: Precision
    batch_size: int
    threads: int

    @property
    def key(self) -> str:
        """For example `DPN92/tensorrt/t4/fp16/bs4/t1`."""
        return f"{self.model}/{self.backend}/{self.device}/{self.precision}/bs{self.batch_size}/t{self.threads}"


class Settings(Frozen, frozen=True):
    """How a case is sampled. Times in seconds; `options` are the backend's own, as they take effect."""

    intervals: tuple[Interval, ...] = ("compute",)
    warmup: int | None = None
    iterations: int | None = None
    repetitions: int | None = None
    budget_s: float = 20.0
    precision_target: float = 0.01
    timeout_s: float = 600.0
    memory_limit_bytes: int | None = None
    weights: str = "random"
    options: dict[str, str] = {}


class Input(Frozen, frozen=True):
    """One input of a model; None where the file leaves a dimension open. `type` is NumPy's name."""

    name: str
    shape: tuple[int | None, ...]
    type: str


class Artifact(Frozen, frozen=True):
    """A file of the cache, and what made it. `sha256` covers all that was made with it."""

    format: str
    path: str
    sha256: str
    size_bytes: int
    made_by: dict[str, Any] = {}

    @property
    def engine(self) -> bool:
        """Whether a backend built it, so that each build of one model is another file."""
        return "backend" in self.made_by

    @property
    def model(self) -> str:
        """The hash of the model that is run, of which an engine was built."""
        return self.origin if self.engine else self.sha256

    @property
    def origin(self) -> str:
        """The hash of what was converted, or of what is run as it is: two builds of one engine have one."""
        return str(self.made_by.get("source", self.sha256))


class Telemetry(Frozen, frozen=True):
    """What happened beside the wall clock, one entry an iteration; times in integer nanoseconds."""

    cpu_ns: tuple[int, ...] = ()
    involuntary_switches: tuple[int, ...] = ()
    minor_faults: tuple[int, ...] = ()
    major_faults: tuple[int, ...] = ()


class Samples(Frozen, frozen=True):
    """The latencies of one interval in one process, in integer nanoseconds for the whole batch."""

    samples_ns: tuple[int, ...]
    warmup_ns: tuple[int, ...] = ()
    steady: bool = True
    loops: int = 1
    telemetry: Telemetry = Telemetry()


class Measurement(Frozen, frozen=True):
    """One repetition. `build_ns` makes the engine, `load_ns` opens it, `first_ns` is the first inference.

    What a process does once before it can open any engine, such as importing the runtime and making the context of a
    GPU, is in neither. The last two are 0 where nobody measured them.
    """

    intervals: dict[Interval, Samples]
    load_ns: int
    first_ns: int
    build_ns: int | None = None
    peak_memory_bytes: int | None = None
    timer: str = "host"


class Parity(Frozen, frozen=True):
    """The output against the reference's, over all images of the reference input.

    `max_error` is the largest absolute difference over the reference's range (its maximum less its
    minimum); `top1_agreement` the share of images whose largest logit is at the same place.
    """

    max_error: float
    cosine: float
    top1_agreement: float
    tolerance: float
    reference: str
    images: int
    denormals: int = 0


class Validity(Frozen, frozen=True):
    """A reason to distrust a number, with its evidence."""

    reason: str
    evidence: str


class Record(Frozen, frozen=True, kw_only=True):
    """One repetition of a case, or why there is none."""

    schema: int = SCHEMA
    run_id: str
    case: Case
    repetition: int
    started_at: str
    status: Status
    reason: str = ""
    log: str = ""
    validity: tuple[Validity, ...] = ()
    settings: Settings = Settings()
    semantics: dict[str, str] = {}
    measurement: Measurement | None = None
    parity: Parity | None = None
    artifact: Artifact | None = None
    requested: dict[str, Any] = {}
    effective: dict[str, Any] = {}
    telemetry: dict[str, Any] = {}
    environment_id: str = ""
