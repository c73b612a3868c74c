"""TensorRT of the posed machine: the fake of tests/fakes, whose engines are ONNX models that ONNX Runtime computes.

A plan holds its model; the time that an inference takes is the posed GPU's, the numbers that come out are real.
"""

import base64
import functools
import json
import sys
import time

import numpy as np
from cuda.bindings import runtime
from fakes.trt import FakeTrt
from posed import MACHINE, load, next_build

load("tensorrt")

TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int8)": "INT8"}


@functools.cache
def session(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def sized(shape):
    return [size if isinstance(size, int) else -1 for size in shape]


class PosedTrt(FakeTrt):
    def __init__(self):
        says = {method: tuple(answer) for method, answer in MACHINE["says"].items()}
        super().__init__(MACHINE["generation"], runtime, says)

    def read(self, path):
        content = path.read_bytes()
        try:
            opened = session(content)
        except Exception as error:
            raise ValueError from error
        inputs, outputs = opened.get_inputs(), opened.get_outputs()
        return {
            "inputs": {each.name: sized(each.shape) for each in inputs},
            "outputs": {each.name: sized(each.shape) for each in outputs},
            "types": {each.name: TYPES[each.type] for each in (*inputs, *outputs)},
            "layers": [["CONVOLUTION", TYPES[inputs[0].type]]],
            "onnx": base64.b64encode(content).decode(),
        }

    def span(self, network, config):
        """As `span_ns` of `machine.json` says for one build after the other, for one image; of each further one half
        as much again."""
        time.sleep(MACHINE["build_s"])
        shapes = [shape for profile in config.profiles for shape in profile.values()]
        batch = (shapes or list(network.model["inputs"].values()))[0][0]
        spans = MACHINE["span_ns"]
        return spans[next_build() % len(spans)] * (1 + batch) // 2

    def unpacked(self, plan):
        try:
            made = json.loads(plan)
        except ValueError:
            if plan.startswith(b'{"magic"'):
                return {}, "assertion header.size == blobSize failed."
            return super().unpacked(plan)
        if made.get("version") != self.__version__:
            note = "Note: Current Version: 239, Serialized Engine Version: 236"
            return {}, f"assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. {note}"
        return made, ""

    def infer(self, made, images, outputs):
        """In fp16, of which a real GPU makes use where it may, at least inputs and outputs are rounded."""
        rounded = np.float16 if "FP16" in made["flags"] else np.float32
        given = {name: image.astype(rounded).astype(image.dtype) for name, image in images.items()}
        found = session(base64.b64decode(made["model"]["onnx"])).run(list(outputs), given)
        for out, computed in zip(outputs.values(), found, strict=True):
            out[:] = computed.astype(rounded)


library = PosedTrt()
library.__spec__ = __spec__
sys.modules[__name__] = library
