"""An engine on disk: the plan that TensorRT made, and beside it what it was made from and for.

To load a plan is to run code out of it, so only those are loaded whose facts lie beside them and fit.
"""

from hashlib import sha256
from pathlib import Path

import msgspec

from bench.backends import Setup, system
from bench.backends.tensorrt.api import Trt
from bench.cuda import Gpu
from bench.errors import BUILD_AGAIN, Stale
from bench.schema import Frozen, Precision

PLAN = "model.plan"


class Facts(Frozen, frozen=True):
    """All that decides what a plan is. `input_shapes` are in force, batch included; `timings_sha256` is of the timing
    cache that the build began with, "" for none. `plan_sha256` is of the plan itself, `source_sha256` of the model."""

    plan_sha256: str
    source_sha256: str
    tensorrt: str
    cuda: str
    driver: str
    gpu: str
    capability: str
    system: str
    precision: Precision
    typing: str
    tf32: bool
    level: int
    workspace_bytes: int
    input_shapes: dict[str, tuple[int, ...]]
    build: int
    timings_sha256: str


def digest(data: bytes) -> str:
    return sha256(data).hexdigest() if data else ""


def facts_file(plan: Path) -> Path:
    """Where the facts of a plan lie; `bench.artifacts.model_files` knows that name, too."""
    return plan.with_suffix(".json")


def save(folder: Path, plan: bytes, facts: Facts) -> Path:
    file = folder / PLAN
    file.write_bytes(plan)
    facts_file(file).write_bytes(msgspec.json.format(msgspec.json.encode(facts)))
    return file


def load(file: Path, trt: Trt, gpu: Gpu, setup: Setup) -> tuple[bytes, Facts]:
    """The plan and its facts. Raises Stale for a file that is not ours or damaged, and for one that fits something
    else than this TensorRT, this GPU and this case."""
    beside = facts_file(file)
    try:
        facts = msgspec.json.decode(beside.read_bytes(), type=Facts)
        plan = file.read_bytes()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = f"{beside.name} beside it is missing or damaged"
        raise Stale(f"{file.name} is no engine of bench", found, BUILD_AGAIN) from error
    if digest(plan) != facts.plan_sha256:
        raise Stale(f"{file.name} is damaged", f"it is not what {beside.name} tells of", BUILD_AGAIN)
    for what, there, here in _conditions(facts, trt, gpu, setup):
        if there != here:
            raise Stale(f"{file.name} was built for {what} {there}", f"here it is {here}", BUILD_AGAIN)
    return plan, facts


def _conditions(facts: Facts, trt: Trt, gpu: Gpu, setup: Setup) -> tuple[tuple[str, object, object], ...]:
    shapes = {(setup.case.batch_size, *setup.input_shape)}
    return (
        ("TensorRT", facts.tensorrt, trt.__version__),
        ("the GPU", facts.gpu, gpu.name),
        ("compute capability", facts.capability, gpu.capability),
        ("the system", facts.system, system()),
        ("precision", facts.precision, setup.case.precision),
        ("inputs of", set(facts.input_shapes.values()), shapes),
    )
