"""How a session on the GPU is opened: by which provider, on whose stream, and for TensorRT with which engines."""

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from bench import ort_api
from bench.backends import Setup
from bench.backends.onnxruntime import engines, opening
from bench.backends.onnxruntime.session import Opened, OrtGpuSession
from bench.backends.onnxruntime.streamed import Lane, StreamSession
from bench.errors import Unavailable, Unsupported


def opened(engine: Path, setup: Setup) -> OrtGpuSession:
    """Raises Stale for engines of TensorRT that are not those of the case."""
    # Besides the session itself, the time of opening holds this: for fp16, whether the weights are.
    _refuse_types(engine, setup)
    try:
        lane = Lane.make()
    except Unavailable as why:
        return OrtGpuSession(_opened(engine, setup, {}), why)
    with ExitStack() as owner:
        owner.push(lane.owner)
        made = StreamSession(_opened(engine, setup, lane.options()), lane)
        owner.pop_all()
    return made


def _refuse_types(engine: Path, setup: Setup) -> None:
    """fp16 is the TensorRT provider's own, or the model's: the CUDA provider keeps to the graph's types."""
    cuda_alone = opening.wanted(setup) == opening.CUDA
    if cuda_alone and setup.case.precision == "fp16" and not opening.carries_fp16(engine):
        raise Unsupported(
            "ONNX Runtime's CUDA provider computes in the types of the graph",
            f"{engine.name} is not known to have fp16 weights",
            "give a model converted to fp16 with fp32 inputs, or type: --set onnxruntime.provider=tensorrt",
        )


def _opened(engine: Path, setup: Setup, stream: dict[str, str]) -> Opened:
    """`stream` are the options by which a provider is given one."""
    session = _opener(engine, setup, stream)(opening.settings(setup))

    def placement() -> opening.Placement:
        return opening.nodes(session) or _profiled(engine, setup, stream)

    return Opened(session, engine, setup, placement)


def _opener(engine: Path, setup: Setup, stream: dict[str, str]) -> Callable[[ort_api.Options], ort_api.Session]:
    """What makes a session of some settings on the provider asked for."""
    cuda = (opening.CUDA, _cuda_options(setup) | stream)
    if opening.wanted(setup) == opening.CUDA:
        return lambda settings: opening.on_gpu(engine, settings, [cuda])
    place = engines.found(engine, setup)
    providers = [(opening.TENSORRT, engines.options(setup, place) | stream), cuda]
    return lambda settings: engines.taken(place, lambda: opening.on_gpu(engine, settings, providers, place.folders()))


def _cuda_options(setup: Setup) -> dict[str, str]:
    options = setup.options
    return {
        "device_id": str(opening.GPU),
        "cudnn_conv_algo_search": options["conv_search"].upper(),
        "cudnn_conv_use_max_workspace": "1",
        "use_tf32": _flag(options["tf32"]),
        "enable_cuda_graph": _flag(options["cuda_graph"] if options["provider"] == "cuda" else "off"),
    }


def _flag(choice: str) -> str:
    return "1" if choice == "on" else "0"


def _profiling(setup: Setup) -> ort_api.Options:
    settings = opening.settings(setup)
    settings.enable_profiling = True
    settings.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "nodes")
    return settings


def _profiled(engine: Path, setup: Setup, stream: dict[str, str]) -> opening.Placement:
    """Of each node that one inference executes: an older ONNX Runtime tells it of a session that is profiled, which
    therefore can't be the one that is timed. A CUDA graph is none of it, since that can't capture the copies of NumPy's
    arrays."""
    import numpy as np

    plain = msgspec.structs.replace(setup, options={**setup.options, "cuda_graph": "off"})
    session = _opener(engine, plain, stream)(_profiling(setup))
    image = np.zeros([setup.case.batch_size, *setup.input_shape], np.float32)
    session.run(None, {node.name: image for node in session.get_inputs()})
    file = Path(session.end_profiling())
    events = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    file.parent.rmdir()
    facts = [event.get("args", {}) for event in events if event.get("cat") == "Node"]
    return [(each["provider"], each["op_name"]) for each in facts if "provider" in each and "op_name" in each]
