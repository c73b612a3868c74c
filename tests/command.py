"""For tests: `bench` as a user runs it, and a disk that is soon full."""

import contextlib
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

BENCH = (sys.executable, "-m", "bench.cli")
#: a case that takes a tenth of a second
QUICK = ("--backend", "simulated", "--batch-size", "1", "--warmup", "1", "--iterations", "5")


def environ(cache: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "BENCH_CACHE": str(cache), **more}


def start(cache: Path, *words: str, variables: Mapping[str, str] = {}, **options: object) -> "subprocess.Popen[str]":
    """`bench` with these words, left running."""
    command = [*BENCH, *words]
    return subprocess.Popen(
        command, env=environ(cache, **variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def bench(cache: Path, *words: str, cwd: Path | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
    """What `bench` with these words came to."""
    return subprocess.run(
        [*BENCH, *words],
        env=environ(cache, **variables),
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=120,
        check=False,
    )


def complaint(process: "subprocess.CompletedProcess[str]", code: int) -> str:
    """The one line of an error, which came with this exit code, no result and no traceback."""
    assert process.returncode == code, process.stderr
    assert process.stdout == ""
    assert process.stderr.startswith("bench: "), process.stderr
    assert process.stderr.count("\n") == 1, process.stderr
    return process.stderr.removeprefix("bench: ").rstrip("\n")


def tiny_onnx(seed: int = 0, batch: "int | str" = "n", inputs: int = 1, kind: str = "float") -> bytes:
    """A classifier of ten classes for images of 3 by 8 by 8; the others of its inputs are used, too."""
    import numpy as np
    from onnx import TensorProto, checker, helper, numpy_helper

    type_ = {"float": TensorProto.FLOAT, "double": TensorProto.DOUBLE}[kind]
    given = [helper.make_tensor_value_info(f"x{number}", type_, [batch, 3, 8, 8]) for number in range(inputs)]
    dtype = helper.tensor_dtype_to_np_dtype(type_)
    weights = np.random.default_rng(seed).standard_normal((192, 10)).astype(dtype)
    nodes = [helper.make_node("Sum", [value.name for value in given], ["sum"])]
    nodes += [helper.make_node("Flatten", ["sum"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    result = helper.make_tensor_value_info("y", type_, [batch, 10])
    graph = helper.make_graph(nodes, "tiny", given, [result], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


class LittleRoom:
    """A folder into which little can be written: a tiny tmpfs, or where we may not mount, a limit on files' size.

    Either way the system itself cuts writes short and then refuses them.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
        self.error = errno.ENOSPC if self.mounted else errno.EFBIG
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, self._limits[1]))

    def relieve(self) -> None:
        """Makes room."""
        if self.mounted:
            subprocess.run(["mount", "-o", f"remount,size={64 << 20}", str(self.folder)], check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)

    def close(self) -> None:
        self.relieve()
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)


@contextlib.contextmanager
def little_room(folder: Path, size: int) -> Iterator[LittleRoom]:
    with contextlib.closing(LittleRoom(folder, size)) as room:
        yield room
