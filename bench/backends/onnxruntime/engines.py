"""Engines of the TensorRT provider: made once for one batch on the GPU at hand, kept beside a copy of the model.

ONNX Runtime looks its engines up by names that cover neither weights nor GPU, and makes anew what it doesn't find. So
they lie in folders of bench's cache that do cover them, and whoever opens them proves that they were taken as they lay.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import ort_api
from bench.backends import Setup, contents, on_this_gpu
from bench.backends.onnxruntime import opening
from bench.errors import BUILD_AGAIN, Failed, Stale
from bench.schema import Frozen, Precision

#: of an engine, as the cache and `bench/gpu/matrix.py` name it
FORMAT = "onnxruntime_tensorrt"
#: beside the model: what ONNX Runtime wrote, and what it was made for
ENGINES, FACTS = "engines", "engines.json"
WORKSPACE_BYTES = 1 << 30
#: options that decide what TensorRT makes
BUILT_BY = ("optimization", "tf32", "build")
#: what the provider says of an engine that is cut off or of another TensorRT, and of such a timing cache
UNREADABLE = "could not deserialize engine from cache"
UNUSABLE_TIMINGS = "could not create timing cache"


class Facts(Frozen, frozen=True):
    """What the engines of a folder are for. `shapes` are as the provider takes them: "x:4x3x224x224", "" where the
    model leaves none open."""

    onnxruntime: str
    tensorrt: tuple[int, ...]
    precision: Precision
    batch_size: int
    shapes: str


class Place(NamedTuple):
    """Where the provider finds engines, and where timings are kept while it makes them; None where it is to make
    none. `tensorrt` is the version that made those which are there."""

    engines: Path
    timings: Path | None
    shapes: str
    tensorrt: tuple[int, ...] = ()

    def folders(self) -> list[Path]:
        return [self.engines, *([self.timings] if self.timings else [])]


def variant(setup: Setup) -> dict[str, str]:
    """An engine is of one GPU, precision, shape and number of its build: that of another number is made anew."""
    return {**on_this_gpu(setup), **{name: setup.options[name] for name in BUILT_BY}}


def options(setup: Setup, place: Place) -> dict[str, str]:
    """One fixed shape, so that the engine is made for the very batch, and with the session.

    This provider takes True and False where that of CUDA takes 1 and 0, and refuses the other pair.
    """
    return {
        "device_id": str(opening.GPU),
        "trt_fp16_enable": str(setup.case.precision == "fp16"),
        "trt_max_workspace_size": str(WORKSPACE_BYTES),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(place.engines),
        "trt_timing_cache_enable": str(place.timings is not None),
        **({"trt_timing_cache_path": str(place.timings)} if place.timings else {}),
        "trt_cuda_graph_enable": str(setup.options["cuda_graph"] == "on"),
        **({f"trt_profile_{which}_shapes": place.shapes for which in ("min", "opt", "max")} if place.shapes else {}),
    }


def build(source: Path, folder: Path, setup: Setup) -> Path:
    """The model in `folder` and its engines beside it. Raises Failed where TensorRT takes no part of it."""
    from bench.artifacts import model_files  # with packages that other Pythons may lack

    model, engines = folder / source.name, folder / ENGINES
    for file in model_files(source):
        shutil.copyfile(file, folder / file.name)
    engines.mkdir()
    shapes = _shapes(model, setup)
    with timings(setup) as kept:
        place = Place(engines, kept, shapes)
        try:
            _make(model, setup, place)
        except Failed as error:
            if UNUSABLE_TIMINGS not in str(error):
                raise
            for file in (*kept.iterdir(), *engines.iterdir()):
                file.unlink()
            _make(model, setup, place)
    if not list(engines.glob("*.engine")):
        raise Failed(f"TensorRT takes no part of {model.name}", "ONNX Runtime wrote no engine of it")
    facts = msgspec.json.encode(_facts(shapes, setup))
    (folder / FACTS).write_bytes(msgspec.json.format(facts))
    return model


def _make(model: Path, setup: Setup, place: Place) -> None:
    """ONNX Runtime makes all engines while it makes a session, as all shapes are fixed."""
    providers = [(opening.TENSORRT, options(setup, place)), (opening.CUDA, {"device_id": str(opening.GPU)})]
    opening.on_gpu(model, opening.settings(setup), providers, place.folders())


def _shapes(model: Path, setup: Setup) -> str:
    sizes = "x".join(map(str, (setup.case.batch_size, *setup.input_shape)))
    return ",".join(f"{given.name}:{sizes}" for given in opening.inputs(model) if None in given.shape)


def _facts(shapes: str, setup: Setup) -> Facts:
    """In a process whose provider has loaded TensorRT."""
    return Facts(
        onnxruntime=opening.ort().__version__,
        tensorrt=opening.tensorrt_version(),
        precision=setup.case.precision,
        batch_size=setup.case.batch_size,
        shapes=shapes,
    )


@contextlib.contextmanager
def timings(setup: Setup) -> Iterator[Path]:
    """A folder for TensorRT's timing cache, which one build at a time has: how long each kernel took in earlier builds
    of one GPU, driver, ONNX Runtime and number. The next number measures anew."""
    from filelock import FileLock

    from bench.artifacts import default_root, key_of

    of_shapes = {"batch_size", "input_shape", "optimization"}
    parts = {name: value for name, value in variant(setup).items() if name not in of_shapes}
    key = key_of({"onnxruntime": opening.ort().__version__, **parts})
    folder = default_root() / FORMAT / f"{key[:32]}.timings"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        yield folder


def found(model: Path, setup: Setup) -> Place:
    """The engines beside a model. Raises Stale where there are none, or others than the case needs."""
    folder, file = model.parent / ENGINES, model.with_name(FACTS)
    try:
        facts = msgspec.json.decode(file.read_bytes(), type=Facts)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Stale(f"no engines of {model.name}", f"{FACTS} beside it is missing or damaged", BUILD_AGAIN) from error
    for what, there, here in (
        ("ONNX Runtime", facts.onnxruntime, opening.ort().__version__),
        ("precision", facts.precision, setup.case.precision),
        ("batches of", facts.batch_size, setup.case.batch_size),
    ):
        if there != here:
            raise Stale(f"the engines of {model.name} were built for {what} {there}", f"here it is {here}", BUILD_AGAIN)
    if not list(folder.glob("*.engine")):
        raise Stale(f"no engines of {model.name}", f"the folder {ENGINES} beside it holds none", BUILD_AGAIN)
    return Place(folder, None, facts.shapes, facts.tensorrt)


def taken(place: Place, open_: Callable[[], ort_api.Session]) -> ort_api.Session:
    """The session that `open_()` makes of the engines there. Raises Stale where another TensorRT made them, where it
    can't read one, or makes any anew: that writes it, in the same place or under another name."""
    before = contents(place.engines)
    try:
        session = open_()
    except Failed as error:
        if UNREADABLE not in str(error):
            raise
        raise Stale("ONNX Runtime can't read its engine", UNREADABLE, BUILD_AGAIN) from error
    after = contents(place.engines)
    if changed := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        raise Stale("ONNX Runtime did not take its engines as they were", f"changed: {', '.join(changed)}", BUILD_AGAIN)
    if (here := opening.tensorrt_version()) != place.tensorrt:
        there, found = (".".join(map(str, version)) or "unknown" for version in (place.tensorrt, here))
        raise Stale(f"the engines were built by TensorRT {there}", f"here it is {found}", BUILD_AGAIN)
    return session
