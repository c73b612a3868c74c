"""What the runner asks of a worker, and what a worker answers: one file each way."""

from typing import Any, Literal

from bench.artifacts import Made
from bench.backends import Setup
from bench.catalog import HardwareProfile, ModelCard
from bench.schema import Frozen, Input, Measurement, Parity, Settings, Validity


class Job(Frozen, frozen=True, tag_field="kind"):
    """One piece of work for a fresh process."""

    @property
    def done_by(self) -> str:
        """The backend in whose environment it is done, or "" for ours."""
        return str(getattr(self, "backend", ""))


class PaddleFromNetwork(Job, frozen=True, tag="paddle_from_network"):
    """Export a card's network, with `weights` ("random" or a .pdparams file), into `folder`.

    The Paddle that does it decides the format: up to 2.6 it writes `.pdmodel`, from 3 on `.json`.
    """

    card: ModelCard
    weights: str
    folder: str
    backend: str = ""


class OnnxFromPaddle(Job, frozen=True, tag="onnx_from_paddle"):
    """`input_shape` is of one image: (channels, height, width)."""

    source: str
    opset: int
    input_shape: tuple[int, ...]
    folder: str


class Build(Job, frozen=True, tag="build"):
    setup: Setup
    source: str
    folder: str

    @property
    def done_by(self) -> str:
        return self.setup.case.backend


class Inspect(Job, frozen=True, tag="inspect"):
    """What inputs a model file takes."""

    backend: str
    source: str


class Reference(Job, frozen=True, tag="reference"):
    """Seeded inputs of `input_shape` and the outputs that `backend`, run plainly, gives for them."""

    backend: str
    source: str
    input_shape: tuple[int, ...]
    batch_size: int
    folder: str


class Probe(Job, frozen=True, tag="probe"):
    backend: str
    device: HardwareProfile


class Measure(Job, frozen=True, tag="measure"):
    """One repetition of a case. `reference` is "" for a backend that computes nothing."""

    setup: Setup
    settings: Settings
    engine: str
    reference: str

    @property
    def done_by(self) -> str:
        return self.setup.case.backend


AnyJob = PaddleFromNetwork | OnnxFromPaddle | Build | Inspect | Reference | Probe | Measure


class Order(Frozen, frozen=True):
    """A job with what must hold in its process before it starts."""

    job: AnyJob
    cpus: tuple[int, ...] = ()
    memory_limit_bytes: int | None = None


class Answer(Frozen, frozen=True, tag_field="kind"):
    """What came of a job."""


class Problem(Answer, frozen=True, tag="problem"):
    """The job could not be done. `status` says in which way, "refused" for unusable input, "stale" for an engine that
    is to be made again; `reason` is one line."""

    status: Literal["failed", "stale", "unsupported", "unavailable", "refused"]
    reason: str
    log: str = ""


class Folder(Answer, frozen=True, tag="folder"):
    """The job's folder is filled."""

    made: Made
    took_ns: int


class Inspected(Answer, frozen=True, tag="inspected"):
    """`facts` are counts over the graph, where its format has a counter."""

    inputs: tuple[Input, ...]
    facts: dict[str, Any] = {}


class Version(Answer, frozen=True, tag="version"):
    version: str


class Measured(Answer, frozen=True, tag="measured"):
    measurement: Measurement
    parity: Parity | None
    effective: dict[str, Any]
    telemetry: dict[str, Any]
    validity: tuple[Validity, ...]
    requested: dict[str, Any] = {}
    semantics: dict[str, str] = {}


AnyAnswer = Problem | Folder | Inspected | Version | Measured
