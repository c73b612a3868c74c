"""What engines of GPUs depend on, with workers that answer as they are told."""

from pathlib import Path

import pytest

from bench import backends, catalog
from bench.artifacts import Cache, Made
from bench.backends import Setup
from bench.catalog import ModelCard
from bench.errors import Unavailable
from bench.jobs import Build, Folder, Probe, Problem, Version
from bench.prepare import Workshop
from bench.schema import Artifact, Case, Settings

CARD = ModelCard("m", "F", file="m.onnx", format="onnx")
SOURCE = Artifact(format="onnx", path="m.onnx", sha256="5" * 64, size_bytes=1)


class Posed(Workshop):
    """Workers have the TensorRT of `version` and build engines of its name; `asked` are their jobs."""

    def __init__(self, root, version="10.4.0"):
        super().__init__(Cache(root), Settings(), (0,), lambda _: None)
        self.version = version
        self.asked = []

    def source(self, card, backend):
        return SOURCE

    def ask(self, job, environ, cpus=()):
        self.asked.append(type(job))
        if isinstance(job, Probe):
            return Version(self.version) if self.version else Problem("unavailable", "no NVIDIA driver")
        (Path(job.folder) / "model.plan").write_text(self.version)
        (Path(job.folder) / "model.json").write_text("{}")
        return Folder(Made(format="tensorrt", file="model.plan"), took_ns=1)


def setup(device="t4", driver="535.1", **options):
    profile = catalog.profile(device)
    settled = backends.settle(backends.get("tensorrt"), options, profile.kind)
    case = Case("m", "tensorrt", device, "fp32", 1, 1)
    return Setup(case, profile, settled, (3, 8, 8), {"gpu": {"name": "Tesla T4", "driver": driver}})


def test_the_runtimes_own_version_decides_and_is_asked_once_a_run(tmp_path):
    workshop = Posed(tmp_path)
    old = workshop.engine(CARD, setup())
    assert workshop.engine(CARD, setup()) == old
    workshop.engine(CARD, setup(build="2"))
    assert workshop.asked == [Probe, Build, Build]
    assert old.made_by["runtime"] == "10.4.0"
    newer = Posed(tmp_path, "10.16.1")
    assert Path(newer.engine(CARD, setup()).path).read_text() == "10.16.1"
    assert Path(old.path).read_text() == "10.4.0"
    again = Posed(tmp_path)
    assert again.engine(CARD, setup()) == old
    assert again.asked == [Probe]


@pytest.mark.parametrize("change", [{"driver": "580.2"}, {"tf32": "on"}, {"level": "5"}, {"build": "1"}], ids=str)
def test_an_engine_is_of_one_gpu_and_one_set_of_options(tmp_path, change):
    workshop = Posed(tmp_path)
    assert workshop.engine(CARD, setup()).path != workshop.engine(CARD, setup(**change)).path


def test_a_runtime_that_cannot_serve_the_gpu_is_unavailable(tmp_path):
    with pytest.raises(Unavailable, match="no NVIDIA driver"):
        Posed(tmp_path, "").engine(CARD, setup())


def test_a_discarded_engine_is_made_again(tmp_path):
    workshop = Posed(tmp_path)
    made = workshop.engine(CARD, setup())
    workshop.discard(made.path)
    assert workshop.engine(CARD, setup()) == made
    assert workshop.asked == [Probe, Build, Build]
