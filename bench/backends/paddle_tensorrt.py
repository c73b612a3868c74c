"""Paddle Inference with TensorRT: the path of the published V100 and T4 figures.

Parts of the graph become engines of TensorRT, the rest stays with Paddle; where nothing does, Paddle says so in its log
at most. So it is proved: for a `.pdmodel` by that log, for a `.json` (Paddle 3) by the operators of the program made.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.backends import BUILDS, BaseBackend, Session, Setup, contents, on_this_gpu, whole
from bench.catalog import HardwareProfile
from bench.errors import BUILD_AGAIN, EXPORT_AGAIN, BenchError, Failed, Stale, Unavailable, Unsupported, last_line
from bench.gpu import causes
from bench.overhear import standard_error
from bench.paddle_api import Configuration, Export, Paddle, Predictor
from bench.paddle_gpu import GpuPredictor, Lane, take_gpu
from bench.paddle_inference import (
    PLACE,
    broken_off,
    computes,
    config_of,
    executed,
    inference_api,
    predictor_of,
    require_gpu,
    said,
    use_gpu,
    versions_of,
)
from bench.schema import Frozen, Interval, Validity
from bench.streams import INFERENCE, REPLAY

if TYPE_CHECKING:
    from bench.backends import Arrays

#: networks are made without strong typing, so that TensorRT chooses types by itself where it may
TYPING = "weak"
#: options that an engine doesn't depend on
OF_SESSIONS = {"copies"}
WORKSPACE_BYTES = 1 << 30
#: the first version of TensorRT without networks of an implicit batch, which Paddle makes of fixed shapes
EXPLICIT_BATCH = 10
ENGINES = "engines"
FACTS = "tensorrt.json"
ENGINE_OPERATOR = "tensorrt_engine"
#: what a log holds where TensorRT works: a part of the graph with so many nodes, and that an engine was made of it
SUBGRAPH = r"detect a sub-graph with (\d+) nodes"
BUILT = "Prepare TRT engine"
#: what it says of fp16, and where the GPU has none
HALF, NO_HALF = r"[Rr]un Paddle-TRT FP16 mode", r"FP16.{,60}(?:use FP32 instead|run Paddle-TRT FP32 mode|in FP32 mode)"
#: of CUDA graphs: that one will be captured, which takes the whole network, and, in the first inference, that none was
WHOLE, NO_GRAPH = "The entire graph is offloaded to TensorRT", "flag has been ignored"
#: operators of a program that compute nothing
IDLE = {"data", "feed", "fetch", "full", "full_int_array", "p", "shadow_output"}


class Built(Frozen, frozen=True):
    """What the build of an engine showed: the nodes of each part that TensorRT took, and whether it took fp16.

    `operators` are those of the program before, `left` those that stayed with Paddle, by type; neither is known of a
    `.pdmodel`, and `nodes` not of a `.json`, which names its engines by `folder`, where they were made. With `graph` a
    CUDA graph is to be captured.
    """

    nodes: tuple[int, ...] = ()
    half: bool | None = None
    graph: bool = False
    operators: dict[str, int] = {}
    left: dict[str, int] = {}
    folder: str = ""


class TensorRtSession(GpuPredictor, Session):
    """`built` is what is known of the engine."""

    def __init__(self, predictor: Predictor, engine: Path, lane: Lane, built: Built) -> None:
        super().__init__(predictor, engine, lane)
        self._built = built
        self._replays = built.graph
        self._versions = _versions()

    def feed(self, inputs: "Arrays") -> None:
        """Where a CUDA graph is captured, the first call has that done, since a graph keeps to the addresses that the
        inputs had then; later ones copy there."""
        if not self._replays:
            super().feed(inputs)
            return
        if [array.shape for array in self._arrays] == [array.shape for array in inputs]:
            self._arrays = inputs
            try:
                self._copy_from_pageable()
                self._lane.wait_for_all()
            except Exception as error:  # it raises what its C++ side throws
                raise broken_off(error, self._engine) from error
            return
        super().feed(inputs)
        with standard_error() as log:
            self.run()
        self._replays = NO_GRAPH not in log.text

    def semantics(self) -> dict[str, str]:
        """A graph that is replayed is another experiment than enqueuing layer by layer."""
        meanings = super().semantics()
        if not self._replays:
            return meanings
        return {
            "compute": f"{REPLAY}, inputs and outputs on the GPU",
            "end_to_end": meanings["end_to_end"].replace(INFERENCE, REPLAY),
            "device": f"{REPLAY}, between two events on its stream, without copies",
        }

    def effective(self) -> dict[str, Any]:
        """The share of the graph by its nodes where the log counts them, else by what computes in the program."""
        left = self._left
        facts: dict[str, Any] = {
            "place": PLACE,
            "tensorrt_nodes": list(self._built.nodes),
            "operators_left": left,
            "tensorrt_share": _share(self._built, left),
            "own_stream": self._lane.stream is not None,
            "typing": TYPING,
            "cuda_graph": self._replays,
            **versions_of(self._paddle),
            **self._versions,
        }
        if self._built.half is not None:
            facts["precision"] = "fp16" if self._built.half else "fp32"
        return {name: value for name, value in facts.items() if value not in (None, [], {})}

    @cached_property
    def _left(self) -> dict[str, int] | None:
        """Operators that stay with Paddle; None where that is not known."""
        return self._built.left if self._built.operators else self._left_by_profile()

    def _left_by_profile(self) -> dict[str, int] | None:
        """What one inference executes besides engines; None where Paddle's profiler doesn't even see these."""
        counted: Counter[str] = Counter()
        with contextlib.suppress(Exception):  # a fact less, and no reason to fail
            counted.update(name for name in executed(self.run) if name not in IDLE)
        return dict(counted) if counted.pop(ENGINE_OPERATOR, 0) else None

    def validity(self) -> tuple[Validity, ...]:
        return (*self._doubts(), *super().validity())

    def _doubts(self) -> Iterator[Validity]:
        compiled, running = self._versions["tensorrt_compiled"], self._versions["tensorrt"]
        if compiled != running:
            yield Validity("misconfigured", f"TensorRT {running} found, Paddle was built with {compiled}")
        if self._built.half is None:
            yield Validity("unwatched", "Paddle doesn't tell whether TensorRT took fp16")
        if self._left is None:
            yield Validity("unwatched", "Paddle doesn't tell which operators it computes outside of TensorRT")
        elif outside := {name: count for name, count in sorted(self._left.items()) if computes(name)}:
            named = ", ".join(f"{count} {name}" for name, count in outside.items())
            yield Validity("misconfigured", f"computed outside of TensorRT: {named}")


def _share(built: Built, left: Mapping[str, int] | None) -> float | None:
    """Of the nodes, or for a converted program of the operators that compute, those in engines of TensorRT."""
    if left is None:
        return None
    if inside := sum(built.nodes):
        return round(inside / (inside + sum(left.values())), 3)
    before, after = _computing(built.operators), _computing(built.left)
    return round(1 - after / before, 3) if before else None


def _computing(operators: Mapping[str, int]) -> int:
    return sum(count for name, count in operators.items() if computes(name))


def _versions() -> dict[str, str]:
    """TensorRT's: compiled with, and found at run time."""
    inference = inference_api()
    compiled, running = inference.get_trt_compile_version(), inference.get_trt_runtime_version()
    return {"tensorrt_compiled": _dotted(compiled), "tensorrt": _dotted(running)}


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def operators(program: Path) -> dict[str, int]:
    """How often each type of operator stands in a program of Paddle 3. Raises Failed for a file that is none."""
    counted = Counter(map(_kind, _described(program)))
    return {kind: count for kind, count in sorted(counted.items()) if kind not in IDLE}


def understood(log: str) -> Built:
    """What Paddle's log says of a predictor that it made."""
    return Built(nodes=tuple(map(int, re.findall(SUBGRAPH, log))), half=_took_half(log), graph=WHOLE in log)


def _took_half(log: str) -> bool:
    return bool(re.search(HALF, log)) and not re.search(NO_HALF, log)


def captures(program: Path) -> bool:
    """Whether the engines of a converted program are to capture CUDA graphs, which Paddle writes into each.

    An attribute is {"N": "use_cuda_graph", "AT": {"#": "0.a_bool", "D": true}}. Raises Failed for a file that is none.
    """
    engines = [each for each in _described(program) if _kind(each) == ENGINE_OPERATOR]
    flags = [
        [attribute["AT"].get("D") for attribute in each.get("A", []) if attribute.get("N") == "use_cuda_graph"]
        for each in engines
    ]
    return bool(flags) and all(flag == [True] for flag in flags)


def _described(program: Path) -> list[dict[str, Any]]:
    """The operators of a program of Paddle 3, whose file is JSON. Raises Failed for a file that is none.

    They are {"#": "1.conv2d", …}, parameters {"#": "p", …}.
    """
    try:
        regions = msgspec.json.decode(program.read_bytes())["program"]["regions"]
        found = [each for region in regions for block in region["blocks"] for each in block["ops"]]
        list(map(_kind, found))
    except (OSError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise Failed(f"{program.name} is no program of Paddle 3", said(error, program), EXPORT_AGAIN) from error
    return found


def _kind(operator: Mapping[str, Any]) -> str:
    return str(operator["#"]).rpartition(".")[2]


class Backend(BaseBackend):
    name = "paddle_tensorrt"
    requires = ("paddle",)
    install = "pip install paddlepaddle-gpu==2.6.2 'numpy<2' setuptools"
    distributions = ("paddlepaddle-gpu", "tensorrt", "tensorrt-cu11", "tensorrt-cu12")
    code = ("paddle_gpu", "paddle_inference")
    source = "paddle"
    engine = "paddle_tensorrt"
    kinds = frozenset({"gpu"})
    precisions = frozenset({"fp32", "fp16"})
    # As PaddleClas sets them for its tables (deploy/utils/predictor.py): 30 nodes at least, no dynamic shapes.
    options = {
        "min_subgraph_size": "30",
        "shapes": ("fixed", "dynamic"),
        "memory_optim": ("on", "off"),
        "tf32": ("off", "on"),
        "copies": ("pageable", "pinned"),
        "cuda_graph": ("off", "on"),
        "build": "0",
    }

    def builds_with(self, options: Mapping[str, str]) -> int:  # noqa: ARG002 - whatever they are
        return BUILDS

    def intervals_on(self, kind: str) -> frozenset[Interval]:
        return super().intervals_on(kind) | {"device"}

    def environment(self, options: Mapping[str, str]) -> dict[str, str]:
        return {"NVIDIA_TF32_OVERRIDE": "0"} if options["tf32"] == "off" else {}

    def probe(self, device: HardwareProfile) -> str:
        paddle: Paddle = self.runtime(device)
        require_gpu(paddle)
        _require_tensorrt(paddle)
        take_gpu(paddle)
        version = _dotted(inference_api().get_trt_runtime_version())
        return f"{paddle.__version__} for CUDA {paddle.version.cuda()} with TensorRT {version}"

    def variant(self, setup: Setup) -> dict[str, str]:
        """Paddle's own cache looks at neither weights nor GPU nor versions, so every engine has a folder to itself."""
        whole(self, "build", setup.options)
        return {
            **on_this_gpu(setup),
            **{name: value for name, value in setup.options.items() if name not in OF_SESSIONS},
        }

    def build(self, source: Path, folder: Path, setup: Setup) -> Path:
        self.refuse_precision(setup.case)
        paddle: Paddle = self.runtime(setup.device)
        require_gpu(paddle)
        _require_tensorrt(paddle)
        if source.suffix == ".json":
            return _converted(source, folder, setup)
        return _prepared(source, folder, setup)

    def open(self, engine: Path, setup: Setup) -> Session:
        self.refuse_precision(setup.case)
        paddle: Paddle = self.runtime(setup.device)
        require_gpu(paddle)
        built = _facts(engine)
        if engine.suffix == ".json":
            predictor, lane = _of_converted(engine, setup, built)
        else:
            predictor, lane, log = _of_prepared(engine, setup)
            now = understood(log)
            # Modes are logged only where an engine is made, and that a graph is whole whether one is wanted or not.
            graph = now.graph and setup.options["cuda_graph"] == "on"
            built = msgspec.structs.replace(now, half=built.half, graph=graph)
        return TensorRtSession(predictor, engine, lane, built)


def _require_tensorrt(paddle: Paddle) -> None:
    """Raises Unavailable where the libraries, or for Paddle 3 the Python package, of TensorRT are missing."""
    inference = inference_api()
    try:
        inference.get_trt_runtime_version()
    except Exception as error:  # it raises what its C++ side throws
        otherwise = Unavailable("the libraries of TensorRT are not found", said(error, Path("-")), causes.TENSORRT)
        raise causes.explained(str(error), otherwise) from error
    if not any(inference.get_trt_compile_version()):
        raise Unavailable(f"this PaddlePaddle ({paddle.__version__}) was built without TensorRT", "", causes.PADDLE)
    if importlib.util.find_spec("paddle.tensorrt") and not importlib.util.find_spec("tensorrt"):
        raise Unavailable(
            f"Paddle {paddle.__version__} converts programs with TensorRT's Python package, which is not installed",
            f"it was built with TensorRT {_dotted(inference.get_trt_compile_version())}",
            "install that release of tensorrt",
        )


# .pdmodel: Paddle makes the engines when it opens a model, and keeps them in a folder


def _prepared(source: Path, folder: Path, setup: Setup) -> Path:
    """A copy of the model, with the engines of its first opening and what that logged beside it."""
    engine = folder / source.name
    for file in (source, source.with_suffix(".pdiparams")):
        shutil.copy(file, folder / file.name)
    (folder / ENGINES).mkdir()
    if setup.options["shapes"] == "dynamic":
        _collect_shapes(engine, setup)
    config = config_of(engine)
    use_gpu(config)
    predictor, log = _with_engines(config, engine, setup)
    with standard_error() as later:
        _infer_once(predictor, setup)
    (folder / FACTS).write_bytes(msgspec.json.encode(understood(log + later.text)))
    return engine


def _with_engines(config: Configuration, engine: Path, setup: Setup) -> tuple[Predictor, str]:
    """A predictor of which TensorRT computes a part, and what was logged. Raises Failed where it computes none."""
    inference = inference_api()
    if setup.options["shapes"] == "fixed" and inference.get_trt_runtime_version()[0] >= EXPLICIT_BATCH:
        raise Unsupported(
            f"TensorRT {_dotted(inference.get_trt_runtime_version())} takes no model without the range of its shapes",
            f"the last that does is {EXPLICIT_BATCH - 1}",
            "type: --set paddle_tensorrt.shapes=dynamic",
        )
    half = setup.case.precision == "fp16"
    config.enable_tensorrt_engine(
        workspace_size=WORKSPACE_BYTES,
        max_batch_size=setup.case.batch_size,
        min_subgraph_size=_least_nodes(setup),
        precision_mode=inference.PrecisionType.Half if half else inference.PrecisionType.Float32,
        use_static=True,
        use_calib_mode=False,
        use_cuda_graph=setup.options["cuda_graph"] == "on",
    )
    config.set_optim_cache_dir(str(engine.parent / ENGINES))
    shapes = engine.parent / "shapes.pbtxt"
    if setup.options["shapes"] == "dynamic":
        config.enable_tuned_tensorrt_dynamic_shape(str(shapes), True)
    if setup.options["memory_optim"] == "on":
        config.enable_memory_optim()
    predictor, log = predictor_of(config, engine)
    if not re.search(SUBGRAPH, log):
        raise _took_nothing(setup)
    return predictor, log


def _of_prepared(engine: Path, setup: Setup) -> tuple[Predictor, Lane, str]:
    """The predictor, its stream, and what was logged. Raises Stale where Paddle made an engine of its own again."""
    before = contents(engine.parent)
    config = config_of(engine)
    lane = Lane(config, setup.options["copies"])
    predictor, log = _with_engines(config, engine, setup)
    if BUILT in log or contents(engine.parent) != before:
        raise Stale(
            f"the engines of TensorRT beside {engine.name} are not for what is here",
            "Paddle made new ones",
            BUILD_AGAIN,
        )
    return predictor, lane, log


def _collect_shapes(engine: Path, setup: Setup) -> None:
    """Writes the shapes of all that an inference without TensorRT computes; the file is there once that ends."""
    config = config_of(engine)
    use_gpu(config)
    config.collect_shape_range_info(str(engine.parent / "shapes.pbtxt"))
    predictor, _ = predictor_of(config, engine)
    for _ in range(2):  # Paddle takes the more frequent ones as those to optimise for
        _infer_once(predictor, setup)
    del predictor


def _infer_once(predictor: Predictor, setup: Setup) -> None:
    import numpy as np

    image = np.zeros([setup.case.batch_size, *setup.input_shape], np.float32)
    for name in predictor.get_input_names():
        handle = predictor.get_input_handle(name)
        handle.reshape(image.shape)
        handle.copy_from_cpu(image)
    predictor.run()
    for name in predictor.get_output_names():
        predictor.get_output_handle(name).copy_to_cpu()


# .json: a converter makes the engines, and a program that runs them


def _converted(source: Path, folder: Path, setup: Setup) -> Path:
    import numpy as np
    from paddle.tensorrt import export

    converter: Export = export
    os.environ["HOME"] = str(folder)  # the converter keeps engines there
    np.random.seed(0)  # which it draws its inputs from
    config = _conversion(converter, folder, setup)
    try:
        with standard_error() as log:
            converter.convert(str(source.with_suffix("")), config)
    except Exception as error:  # it raises what its C++ side, or TensorRT, throws
        otherwise = Failed(f"Paddle cannot convert {source.name} for TensorRT", said(error, source))
        raise causes.explained(str(error), otherwise) from error
    engine = folder / "inference.json"
    left = operators(engine)
    if not left.pop(ENGINE_OPERATOR, 0):
        raise _took_nothing(setup)
    if _quoted(folder) not in engine.read_text(encoding="utf-8"):
        raise Failed("Paddle keeps the engines of TensorRT elsewhere than beside the program", "", "report this Paddle")
    half = _took_half(log.text)
    told = half or setup.case.precision != "fp16" or re.search(NO_HALF, log.text)
    built = Built(
        half=half if told else None,
        graph=captures(engine),
        operators=operators(source),
        left=left,
        folder=str(folder),
    )
    (folder / FACTS).write_bytes(msgspec.json.encode(built))
    return engine


def _conversion(converter: Export, folder: Path, setup: Setup) -> object:
    """The converter's configuration. Raises Unsupported where it knows no CUDA graphs, and one is asked for."""
    shape = (setup.case.batch_size, *setup.input_shape)
    modes = converter.PrecisionMode
    config_for = partial(
        converter.TensorRTConfig,
        inputs=[converter.Input(min_input_shape=shape, optim_input_shape=shape, max_input_shape=shape)],
        min_subgraph_size=_least_nodes(setup),
        save_model_dir=str(folder / "inference"),
        precision_mode=modes.FP16 if setup.case.precision == "fp16" else modes.FP32,
        workspace_size=WORKSPACE_BYTES,
    )
    if setup.options["cuda_graph"] == "off":
        return config_for()
    try:
        return config_for(use_cuda_graph=True)
    except TypeError as error:  # earlier ones don't know it
        raise Unsupported(
            "this Paddle converts programs without CUDA graphs",
            last_line(error),
            "leave out paddle_tensorrt.cuda_graph=on, or install a newer one",
        ) from error


def _of_converted(engine: Path, setup: Setup, built: Built) -> tuple[Predictor, Lane]:
    """From a copy of the program that names the engines by where they are now: releases differ in where else they look
    for one that isn't where it was made."""
    if not operators(engine).get(ENGINE_OPERATOR, 0):
        raise _took_nothing(setup)
    with tempfile.TemporaryDirectory() as place:
        program = Path(place, engine.name)
        text = engine.read_text(encoding="utf-8").replace(_quoted(Path(built.folder)), _quoted(engine.parent))
        program.write_text(text, encoding="utf-8")
        config = config_of(engine, program)
        lane = Lane(config, setup.options["copies"])
        if setup.options["memory_optim"] == "on":
            config.enable_memory_optim()
        return predictor_of(config, engine)[0], lane


def _quoted(folder: Path) -> str:
    """As it begins a text in JSON."""
    return msgspec.json.encode(f"{folder}{os.sep}").decode()[:-1]


def _least_nodes(setup: Setup) -> int:
    return int(float(setup.options["min_subgraph_size"]))


def _took_nothing(setup: Setup) -> BenchError:
    return Failed(
        "TensorRT took no part of the network",
        f"none has {_least_nodes(setup)} nodes that it can compute",
        "try smaller ones: --set paddle_tensorrt.min_subgraph_size=3",
    )


def _facts(engine: Path) -> Built:
    try:
        return msgspec.json.decode((engine.parent / FACTS).read_bytes(), type=Built)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        found = f"{FACTS} beside it is missing or damaged"
        raise Stale(f"{engine.name} is no engine of bench", found, BUILD_AGAIN) from error
