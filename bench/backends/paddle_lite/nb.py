"""What a .nb, Paddle Lite's model file, says of itself. The runtime aborts on a damaged one, and runs another CPU's.

The layout is that of lite/model_parser/model_parser.cc and flatbuffers/io.cc of Paddle Lite 2.13, little-endian:
version of the format (2 bytes), version of opt (16, NUL-terminated), length of the program (8), the program;
then version of the parameters (2), length of more facts (2) and these, length of a header (2) and this: how many
tensors (2), size of the largest (4); then for each tensor its length (4), which counts what follows it, and that.
"""

import os
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bench.errors import Failed

FORMAT = 2
TENSORS = struct.Struct("<HI")
#: as a program names the kernel chosen for an operator: conv2d/def/4/1/1 is operator, alias, target, precision, layout
KERNEL = re.compile(rb"(\w+)/[^/\0]*/(\d+)/(\d+)/\d+\0")
# From lite/api/paddle_place.h. "host" are kernels in plain C++ that go with every target.
TARGETS = {1: "host", 2: "x86", 4: "arm", 5: "opencl"}
PRECISIONS = {1: "fp32", 2: "int8", 5: "fp16"}
COMPUTING = frozenset({"conv2d", "depthwise_conv2d", "fc", "mul", "matmul", "matmul_v2"})


class Kernel(NamedTuple):
    operator: str
    target: str
    precision: str


class Nb(NamedTuple):
    """The version of opt that wrote the file, and the kernels that it chose, in no order."""

    opt: str
    kernels: tuple[Kernel, ...]

    @property
    def targets(self) -> set[str]:
        """ "arm", "x86" or whatever else it runs on, besides the host."""
        return {kernel.target for kernel in self.kernels} - {"host"}

    @property
    def precisions(self) -> list[str]:
        """Those of convolutions and matrix products."""
        return sorted({kernel.precision for kernel in self.kernels if kernel.operator in COMPUTING})


def read(file: Path) -> Nb:
    """The facts, once it is clear that the file is whole. Weights are passed over. Raises Failed otherwise."""
    try:
        with file.open("rb") as stream:
            format_, opt, length = _unpack(stream, struct.Struct("<H16sQ"))
            if format_ != FORMAT:
                raise Failed(f"{file.name} is damaged or of another format", f"it says {format_}, known is {FORMAT}")
            kernels = _kernels(_exactly(stream, length))
            _pass_tensors(stream)
            rest = _size(stream) - stream.tell()
    except OSError as error:
        raise Failed(f"cannot read {file.name}", error.strerror or str(error)) from error
    except EOFError:
        rest = -1
    if rest:
        fault = f"{rest} bytes follow its last tensor" if rest > 0 else "it ends too early"
        raise Failed(f"{file.name} is damaged", fault)
    if not kernels:
        raise Failed(f"{file.name} is damaged", "its program names no kernel")
    return Nb(opt.partition(b"\0")[0].decode(errors="replace"), kernels)


def _kernels(program: bytes) -> tuple[Kernel, ...]:
    return tuple(
        Kernel(operator.decode(), TARGETS.get(int(target), "other"), PRECISIONS.get(int(precision), "other"))
        for operator, target, precision in KERNEL.findall(program)
    )


def _pass_tensors(stream: BinaryIO) -> None:
    """Leaves `stream` after the last tensor, which is beyond the end of a file that ends inside it."""
    _, facts = _unpack(stream, struct.Struct("<HH"))
    stream.seek(facts, os.SEEK_CUR)
    (header,) = _unpack(stream, struct.Struct("<H"))
    count, _ = TENSORS.unpack_from(_exactly(stream, max(header, TENSORS.size)))
    for _ in range(count):
        (length,) = _unpack(stream, struct.Struct("<I"))
        stream.seek(length, os.SEEK_CUR)


def _unpack(stream: BinaryIO, layout: struct.Struct) -> tuple[Any, ...]:
    return layout.unpack(_exactly(stream, layout.size))


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """The next bytes. Raises EOFError before it reads more than there is, whatever length a damaged file claims."""
    if size > _size(stream) - stream.tell():
        raise EOFError
    return stream.read(size)


def _size(stream: BinaryIO) -> int:
    return os.fstat(stream.fileno()).st_size
