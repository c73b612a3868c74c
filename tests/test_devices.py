"""Which GPU a profile means, and what keeps a runtime from it. Phones: tests/phone."""

import pytest
from fakes import nvml as fake

from bench import backends, catalog, devices
from bench.backends import BaseBackend
from bench.errors import Unavailable, UsageError
from bench.gpu import nvml

HERE = {"hardware": {"cpu": {"name": "AMD EPYC"}, "gpus": ["Tesla T4"]}, "packages": {}}


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, a T4 and a V100, whose driver answers as the test likes."""
    library = fake.Nvml()
    opened = nvml.opened
    monkeypatch.setattr(nvml, "opened", lambda: opened(lambda: library))
    for name in (devices.GPU_VARIABLE, "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")
    return library


@pytest.mark.parametrize(("profile", "uuid", "capability"), [("t4", fake.T4, [7, 5]), ("v100", fake.V100, [7, 0])])
def test_the_gpu_of_that_name_is_found_and_shown_to_workers_alone(gpus, monkeypatch, profile, uuid, capability):
    found = devices.find(catalog.profile(profile), HERE)
    assert found.found["gpu"]["uuid"] == uuid
    assert list(found.found["gpu"]["capability"]) == capability
    devices.show(found)
    assert devices.os.environ["CUDA_VISIBLE_DEVICES"] == uuid
    assert "GPU-" not in str(found.description), "records get published"
    assert found.description["device"]["gpu"]["driver"] == "535.183.01"


def test_another_gpu_than_the_profiles_is_refused(gpus):
    gpus.answers["nvmlDeviceGetName"] = "NVIDIA A100-SXM4-40GB"
    with pytest.raises(Unavailable, match=r"looked for a GPU named like NVIDIA Tesla T4.*found 0: NVIDIA A100"):
        devices.find(catalog.profile("t4"), HERE)


def test_of_several_one_must_be_named(gpus, monkeypatch):
    gpus.answers["nvmlDeviceGetName"] = "Tesla T4"
    with pytest.raises(UsageError, match=r"several GPUs, and none was named; 0: Tesla T4 .*, 1: Tesla T4"):
        devices.find(catalog.profile("t4"), HERE)
    monkeypatch.setenv(devices.GPU_VARIABLE, "1")
    assert devices.find(catalog.profile("t4"), HERE).found["gpu"]["uuid"] == fake.V100


def test_a_slice_of_a_gpu_is_refused(gpus):
    gpus.answers["nvmlDeviceGetMigMode"] = [1, 1]
    with pytest.raises(Unavailable, match=r"MIG is enabled on 0: Tesla T4"):
        devices.find(catalog.profile("t4"), HERE)


def test_a_gpu_without_nvml_says_what_nvml_lacks(gpus):
    gpus.answers["nvmlInit"] = gpus.error("DriverNotLoaded")
    with pytest.raises(Unavailable, match="the NVIDIA driver is not loaded"):
        devices.find(catalog.profile("t4"), HERE)
    with pytest.raises(Unavailable, match="looked for a GPU named like NVIDIA Tesla V100"):
        devices.find(catalog.profile("v100"), HERE)


def test_a_gpu_without_a_driver_is_not_said_to_be_absent(gpus, monkeypatch):
    """On a fresh machine nothing but the bus knows it, and not by name."""
    fresh = {"hardware": {"cpu": {"name": "AMD EPYC"}, "gpus": []}, "packages": {}}
    gpus.answers["nvmlInit"] = gpus.error("LibraryNotFound")
    monkeypatch.setattr(devices, "_on_the_bus", lambda: True)
    with pytest.raises(Unavailable, match=r"^no NVIDIA driver; .* install one; nvidia-smi must then list the GPU"):
        devices.find(catalog.profile("t4"), fresh)
    monkeypatch.setattr(devices, "_on_the_bus", lambda: False)
    with pytest.raises(Unavailable, match=r"looked for a GPU named like NVIDIA Tesla T4 .*found no NVIDIA GPU"):
        devices.find(catalog.profile("t4"), fresh)


@pytest.mark.parametrize(
    ("vendor", "kind", "seen"),
    [
        ("0x10de", "0x030200", True),
        ("0x10de", "0x030000", True),
        ("0x10de", "0x040300", False),
        ("0x1002", "0x030000", False),
    ],
)
def test_what_is_on_the_bus(tmp_path, vendor, kind, seen):
    place = tmp_path / "sys/bus/pci/devices/0000:00:1e.0"
    place.mkdir(parents=True)
    (place / "vendor").write_text(f"{vendor}\n")
    (place / "class").write_text(f"{kind}\n")
    assert devices._on_the_bus(tmp_path) is seen
    assert not devices._on_the_bus(tmp_path / "nowhere")


class Engine(BaseBackend):
    name = "tensorrt"
    kinds = frozenset({"gpu"})


@pytest.fixture
def installed(monkeypatch):
    """Lets a test say which distributions there are, under a Python that all of them have wheels for."""
    monkeypatch.setattr(devices.platform, "python_version", lambda: "3.11.7")

    class Distribution:
        def __init__(self, name, version):
            self.name, self.version = name, version

    def install(**versions):
        found = [Distribution(name.replace("_", "-"), version) for name, version in versions.items()]
        monkeypatch.setattr(devices.metadata, "distributions", lambda: found)

    return install


def test_versions_that_do_not_go_with_the_gpu_are_refused_with_those_that_do(gpus, installed):
    profile = catalog.profile("v100")
    found = devices.find(profile, HERE)
    installed(tensorrt_cu12="11.4.0.1")
    reason = devices.lacking(profile, found, Engine(), {})
    assert reason.startswith(
        "Tesla V100-SXM2-16GB has compute capability 7.0; TensorRT 11.4.0.1 supports 7.5 and newer; "
    )
    assert "10.4.0" in reason
    installed(tensorrt_cu12="10.4.0")
    assert devices.lacking(profile, found, Engine(), {}) == ""


def test_they_are_refused_without_the_gpu_too(installed):
    installed(tensorrt_cu12="11.4.0.1")
    assert "compute capability 7.0" in devices.lacking(catalog.profile("v100"), None, Engine(), {})
    assert devices.lacking(catalog.profile("t4"), None, Engine(), {}) == ""


def test_the_recipe_is_for_gpus_alone():
    assert any("tensorrt-cu12==10.4.0" in line for line in devices.recipe(catalog.profile("v100"), None, Engine(), {}))
    assert devices.recipe(catalog.profile("cpu"), None, backends.get("openvino"), {}) == ()


def test_a_machine_is_its_own_device_and_needs_no_advice_of_another():
    found = devices.find(catalog.profile("cpu"), HERE)
    assert found.found == {}
    assert devices.about(found) == devices.advice(found) == []


@pytest.mark.parametrize("shown", ["1", fake.V100, "GPU-bbbb", " 1 ,5"])
def test_what_a_scheduler_has_given_us_is_all_there_is(gpus, monkeypatch, shown):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert devices.find(catalog.profile("v100"), HERE).found["gpu"]["uuid"] == fake.V100
    with pytest.raises(Unavailable, match=r"found 1: Tesla V100.* in CUDA_VISIBLE_DEVICES="):
        devices.find(catalog.profile("t4"), HERE)
