"""Machines that pose as ones with GPUs."""

import pytest
from command import tiny_onnx
from posed_gpu import PosedMachine


@pytest.fixture(scope="session")
def engines(tmp_path_factory):
    """A cache: machines that are the same share engines and references."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def pose(tmp_path, engines):
    """Makes a machine, with a model in its folder."""

    def pose(cache=engines, **traits):
        machine = PosedMachine(tmp_path / "machine", cache, **traits)
        (machine.folder / "net.onnx").write_bytes(tiny_onnx())
        return machine

    return pose
