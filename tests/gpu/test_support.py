"""The support matrix both ways, row by row; what is refused, with the words; recipes; and which GPU is meant."""

import ast
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import recipes

from bench import catalog, devices, doctor, process
from bench.errors import Unavailable, UsageError
from bench.gpu import matrix, selection, support
from bench.gpu.selection import Gpu, select

ROOT = Path(__file__).parents[2]
VOLTA, TURING, AMPERE, HOPPER = (7, 0), (7, 5), (8, 6), (9, 0)
V100 = Gpu(index=0, name="V100", uuid="GPU-v", capability=VOLTA)
T4 = Gpu(index=1, name="T4", uuid="GPU-t", capability=TURING)
RUNTIMES = list(matrix.MAIN)


# The matrix


@pytest.mark.parametrize(
    ("component", "version", "on_v100", "on_t4"),
    [
        ("tensorrt", "8.6.1", True, True),
        ("tensorrt", "8.6.1.post1", True, True),
        ("tensorrt", "10.0.1", True, True),
        ("tensorrt", "10.4.0", True, True),
        ("tensorrt", "10.5.0", False, True),
        ("tensorrt", "10.14.1.48.post1", False, True),
        ("tensorrt", "10.16.1.11", False, True),
        ("tensorrt", "11.0.0.114", False, True),
        ("tensorrt", "11.4.0.106", False, True),
        ("tensorrt_rtx", "1.7.1.116", False, True),
        ("cuda", "11.8", True, True),
        ("cuda", "12.9", True, True),
        ("cuda", "13.0", False, True),
        ("cudnn", "8.6.0.163", True, True),
        ("cudnn", "9.10.2.21", True, True),
        ("cudnn", "9.11.0.98", False, True),
        ("cudnn", "9.28.0.42", False, True),
        ("onnxruntime", "1.17.1", True, True),
        ("onnxruntime", "1.26.0", True, True),
        ("onnxruntime", "1.27.0", False, True),
        ("onnxruntime", "1.31.1", False, True),
        ("paddle", "2.6.2", True, True),
        ("driver", "535.183.01", True, True),
        ("driver", "580.95.05", True, True),
        ("driver", "590.44.01", False, True),
        # Nobody has looked into these.
        ("paddle", "3.3.1", None, None),
        ("tensorrt", "9.2.0", None, None),
        ("tensorrt", "", None, None),
    ],
)
def test_matrix(component, version, on_v100, on_t4):
    assert support.runs(component, version, VOLTA) is on_v100
    assert support.runs(component, version, TURING) is on_t4
    assert support.runs(component, version, AMPERE) is on_t4


def test_paddle_2_has_no_code_for_hopper():
    assert support.runs("paddle", "2.6.2", (8, 9)) is True
    assert support.runs("paddle", "2.6.2", HOPPER) is False


def test_every_row_says_where_it_is_known_from():
    rows = (*matrix.MATRIX, *matrix.PAIRINGS, *matrix.PYTHONS, *matrix.DRIVERS)
    assert [row for row in rows if len(row.source) < 15] == []


def test_no_two_rows_claim_one_release():
    pins = {row.install.partition("==")[2] for row in matrix.MATRIX} | {"10.4.9", "10.5", "12.9", "13.0", "580", "581"}
    for component in matrix.WORDS:
        for version in filter(None, pins):
            rows = [r for r in matrix.MATRIX if r.component == component and support.covers(r.first, r.last, version)]
            assert len(rows) <= 1, (component, version)


@pytest.mark.parametrize(
    ("first", "last", "version", "covered"),
    [
        ("10.0", "10.4", "10.4.0.26", True),
        ("10.0", "10.4", "10", True),
        ("10.0", "10.4", "10.40.0", False),
        ("10.5", "10", "10.16.1.11", True),
        ("10.5", "10", "11.0", False),
        ("", "12", "12.9", True),
        ("", "12", "13", False),
        ("13", "", "13.4", True),
        ("13", "", "", False),
        ("13", "", "unknown", False),
        ("10.14", "10.14", "10.14.1.48.post1", True),
        ("1.26", "1.26", "1.26.0+cu12", True),
    ],
)
def test_versions_compare_as_far_as_both_go(first, last, version, covered):
    assert support.covers(first, last, version) is covered


# Obstacles


def test_the_gpu_is_too_old_for_tensorrt():
    assert support.obstacle(V100, "tensorrt", {"tensorrt": "11.4"}) == (
        "V100 has compute capability 7.0; TensorRT 11.4 supports 7.5 and newer; "
        "install tensorrt==10.4.0 or tensorrt==8.6.1"
    )


@pytest.mark.parametrize(
    ("runtime", "versions", "expected"),
    [
        ("tensorrt", {"tensorrt_cu12": "10.5.0"}, "TensorRT 10.5.0 supports 7.5 and newer; install tensorrt==10.4.0"),
        (
            "onnxruntime",
            {"onnxruntime-gpu": "1.31.1"},
            "onnxruntime-gpu 1.31.1 supports 7.5 and newer; install onnxruntime-gpu==1.26.0",
        ),
        (
            "onnxruntime",
            {"onnxruntime-gpu": "1.26.0", "nvidia-cudnn-cu12": "9.28.0.42"},
            "cuDNN 9.28.0.42 supports 7.5 and newer; install nvidia-cudnn-cu12==9.10.2.21",
        ),
        ("tensorrt", {"cuda": "13.0"}, "CUDA 13.0 supports 7.5 and newer; install the packages for CUDA 12"),
        (
            "onnxruntime",
            {"onnxruntime-gpu": "1.20.2", "driver": "590.44.01"},
            "driver 590.44.01 supports 7.5 and newer; install a driver of branch R580",
        ),
        (
            "onnxruntime_tensorrt",
            {"onnxruntime-gpu": "1.26.0", "tensorrt": "10.4.0"},
            "onnxruntime-gpu 1.26.0 is built for TensorRT 10.9, which supports 7.5 and newer; "
            "install onnxruntime-gpu==1.20.2 with tensorrt==10.4.0",
        ),
        (
            "paddle_tensorrt",
            {"paddlepaddle-gpu": "3.0.0", "nvidia-cuda-runtime-cu12": "12.6.77", "tensorrt-cu12": "10.16.1"},
            "is built for TensorRT 10.5.0.18, which supports 7.5 and newer; install paddlepaddle-gpu 3 for CUDA 11.8",
        ),
        (
            "paddle",
            {"paddlepaddle-gpu": "3.0.0", "nvidia-cuda-runtime-cu12": "12.6.77", "nvidia-cudnn-cu12": "9.11.0"},
            "cuDNN 9.11.0 supports 7.5 and newer; install nvidia-cudnn-cu12==9.10.2.21",
        ),
        (
            "paddle_tensorrt",
            {"paddlepaddle-gpu": "3.0.0", "cuda": "12.6"},
            "paddlepaddle-gpu 3.0.0 for CUDA 12.6 is built for TensorRT 10.5.0.18, which supports 7.5 and newer; "
            "install paddlepaddle-gpu 3 for CUDA 11.8 with TensorRT 8.6.1.6 or "
            "paddlepaddle-gpu==2.6.2 with TensorRT 8.5.3",
        ),
    ],
)
def test_refused_on_v100_and_not_on_t4(runtime, versions, expected):
    said = support.obstacle(V100, runtime, versions)
    assert said.startswith("V100 has compute capability 7.0; ")
    assert expected in said
    assert support.obstacle(T4, runtime, versions) == ""


@pytest.mark.parametrize(
    ("runtime", "versions"),
    [
        ("tensorrt", {"tensorrt": "10.4.0", "tensorrt-cu12": "10.4.0", "python": "3.11.9"}),
        ("tensorrt", {"tensorrt": "8.6.1", "python": "3.11"}),
        ("onnxruntime", {"onnxruntime-gpu": "1.26.0", "nvidia-cudnn-cu12": "9.10.2.21"}),
        # TensorRT is not asked for, so it may be any.
        ("onnxruntime", {"onnxruntime-gpu": "1.26.0", "tensorrt": "11.4"}),
        ("onnxruntime_tensorrt", {"onnxruntime-gpu": "1.20.2", "tensorrt": "10.4.0"}),
        ("paddle", {"paddlepaddle-gpu": "2.6.2", "cuda": "11.8", "cudnn": "8.6.0"}),
        ("paddle_tensorrt", {"paddlepaddle-gpu": "2.6.2", "tensorrt": "8.5.3"}),
        ("paddle_tensorrt", {"paddlepaddle-gpu": "3.0.0", "cuda": "11.8", "tensorrt": "8.6.1.6"}),
        ("paddle_tensorrt", {"paddlepaddle-gpu": "3.0.0"}),
        ("paddle", {}),
    ],
)
@pytest.mark.parametrize("gpu", [V100, T4], ids=["v100", "t4"])
def test_what_can_work_is_not_refused(gpu, runtime, versions):
    assert support.obstacle(gpu, runtime, versions) == ""


def test_a_profile_is_enough():
    said = support.obstacle(catalog.profile("v100"), "tensorrt", {"tensorrt": "11.4.0.106"})
    assert "V100 has compute capability 7.0; TensorRT 11.4.0.106 supports 7.5 and newer; install tensorrt==" in said
    assert support.obstacle(catalog.profile("t4"), "tensorrt", {"tensorrt": "11.4.0.106"}) == ""
    assert support.obstacle(catalog.profile("cpu"), "tensorrt", {"tensorrt": "11.4.0.106"}) == ""


def test_a_gpu_newer_than_the_wheel():
    h100 = Gpu(index=0, name="H100", capability=HOPPER)
    assert support.obstacle(h100, "paddle", {"paddlepaddle-gpu": "2.6.2"}) == (
        "H100 has compute capability 9.0; paddlepaddle-gpu 2.6.2 supports 6.1 to 8.9; no release on record supports it"
    )


@pytest.mark.parametrize(
    ("runtime", "versions", "expected"),
    [
        (
            "onnxruntime_tensorrt",
            {"onnxruntime-gpu": "1.31.1", "tensorrt-cu13": "11.4.0.106"},
            "onnxruntime-gpu 1.31.1 loads libnvinfer.so.10; found TensorRT 11.4.0.106, which has libnvinfer.so.11; "
            "install tensorrt-cu13==10.16.1.11",
        ),
        (
            "onnxruntime_tensorrt",
            {"onnxruntime-gpu": "1.17.1", "tensorrt": "10.4.0"},
            "onnxruntime-gpu 1.17.1 loads libnvinfer.so.8; found TensorRT 10.4.0, which has libnvinfer.so.10; "
            "install TensorRT 8.6",
        ),
        (
            "paddle_tensorrt",
            {"paddlepaddle-gpu": "2.6.2", "tensorrt": "10.4.0"},
            "paddlepaddle-gpu 2.6.2 loads libnvinfer.so.8; found TensorRT 10.4.0, which has libnvinfer.so.10; "
            "install TensorRT 8.5.3",
        ),
        (
            "onnxruntime",
            {"onnxruntime-gpu": "1.26.0", "cuda": "13.0"},
            "onnxruntime-gpu 1.26.0 is built for CUDA 12; found CUDA 13.0; install onnxruntime-gpu==1.26.0 in an "
            "environment of its own with CUDA 12",
        ),
        (
            "paddle",
            {"paddlepaddle-gpu": "2.6.2", "cuda": "12.9"},
            "paddlepaddle-gpu 2.6.2 is built for CUDA 11.8; found CUDA 12.9; install paddlepaddle-gpu==2.6.2 in an "
            "environment of its own with CUDA 11.8",
        ),
        (
            "onnxruntime",
            {"onnxruntime-gpu": "1.26.0", "cudnn": "8.9.7"},
            "onnxruntime-gpu 1.26.0 needs cuDNN 9; found cuDNN 8.9.7; "
            "install nvidia-cudnn-cu12==9.28.0.42 or nvidia-cudnn-cu12==9.10.2.21",
        ),
        (
            "onnxruntime",
            {"onnxruntime-gpu": "1.18.1", "cudnn": "9.1.0"},
            "onnxruntime-gpu 1.18.1 needs cuDNN 8; found cuDNN 9.1.0; install cuDNN 8 for CUDA 11",
        ),
        (
            "tensorrt",
            {"tensorrt": "10.4.0", "python": "3.13.1"},
            "TensorRT 10.4.0 has no wheel for Python 3.13; it has them for 3.8 to 3.12; "
            "make the environment with: python3.12 -m venv",
        ),
        (
            "onnxruntime",
            {"onnxruntime-gpu": "1.26.0", "python": "3.10.14"},
            "onnxruntime-gpu 1.26.0 has no wheel for Python 3.10; it has them for 3.11 to 3.14; "
            "make the environment with: python3.11 -m venv",
        ),
    ],
)
def test_what_does_not_fit_together(runtime, versions, expected):
    assert support.obstacle(T4, runtime, versions) == expected


def test_cudnn_advice_is_for_this_gpu():
    said = support.obstacle(V100, "onnxruntime", {"onnxruntime-gpu": "1.26.0", "cudnn": "8.9.7"})
    assert said.endswith("; install nvidia-cudnn-cu12==9.10.2.21")


@pytest.mark.parametrize(
    ("wheels", "inside", "outside"),
    [(row, row.newest, f"3.{int(row.newest[2:]) + 1}") for row in matrix.PYTHONS]
    + [(row, row.oldest, f"3.{int(row.oldest[2:]) - 1}") for row in matrix.PYTHONS],
)
def test_pythons(wheels, inside, outside):
    runtime, name = wheels.component, matrix.WORDS[wheels.component].lower()
    assert support.obstacle(T4, runtime, {name: wheels.last, "python": inside}) == ""
    assert f"no wheel for Python {outside};" in support.obstacle(T4, runtime, {name: wheels.last, "python": outside})


@pytest.mark.parametrize(
    ("runtime", "versions", "enough", "too_old"),
    [
        ("paddle", {"paddlepaddle-gpu": "2.6.2"}, "450.80.02", "450.51.06"),
        ("onnxruntime", {"onnxruntime-gpu": "1.26.0"}, "525.60.13", "525.53"),
        ("onnxruntime", {"onnxruntime-gpu": "1.31.1"}, "580.65.06", "575.57.08"),
        ("tensorrt", {"tensorrt-cu12": "10.4.0"}, "525.60.13", "520.61.05"),
        ("tensorrt", {"tensorrt-cu12": "10.16.1.11"}, "535.54.03", "530.30.02"),
        ("tensorrt", {"tensorrt-cu13": "11.4.0.106"}, "580.65.06", "575.57.08"),
    ],
)
def test_driver_floors(runtime, versions, enough, too_old):
    assert support.obstacle(T4, runtime, {**versions, "driver": enough}) == ""
    refused = support.obstacle(T4, runtime, {**versions, "driver": too_old})
    assert re.search(rf"needs a driver of version [\d.]+ or newer; found driver {re.escape(too_old)}; install", refused)
    of_gpu = Gpu(index=0, name="T4", capability=TURING, driver=too_old)
    assert support.obstacle(of_gpu, runtime, versions) == refused


def test_cuda_of_the_driver():
    gpu = Gpu(index=0, name="T4", capability=TURING, driver="535.183.01", cuda_driver=(12, 2))
    assert support.obstacle(gpu, "onnxruntime", {"onnxruntime-gpu": "1.31.1"}) == (
        "onnxruntime-gpu 1.31.1 for CUDA 13 needs CUDA 13; the driver 535.183.01 of T4 has CUDA 12.2; "
        "install a driver of version 580 or newer"
    )
    # The package cuda-compat gives an older driver a newer CUDA.
    compat = Gpu(index=0, name="T4", capability=TURING, driver="535.183.01", cuda_driver=(13, 0))
    assert support.obstacle(compat, "onnxruntime", {"onnxruntime-gpu": "1.31.1"}) == ""


def test_bindings_are_no_newer_than_the_driver():
    gpu = Gpu(index=0, name="T4", capability=TURING, driver="535.183.01", cuda_driver=(12, 2))
    versions = {"tensorrt-cu12": "10.16.1.11", "cuda-bindings": "13.4.4"}
    assert support.obstacle(gpu, "tensorrt", versions) == (
        "cuda-bindings 13.4.4 holds a runtime of CUDA 13; the driver of T4 has CUDA 12.2; install 'cuda-bindings==12.*'"
    )
    assert support.obstacle(gpu, "tensorrt", {**versions, "cuda-bindings": "12.9.10"}) == ""
    # Older bindings don't help where the driver is too old for all of it.
    old = Gpu(index=0, name="T4", capability=TURING, driver="470.57", cuda_driver=(11, 4))
    found = support.obstacle(old, "tensorrt", {**versions, "cuda-bindings": "12.9.10"})
    assert "install a driver of version 525.60.13 or newer" in found
    assert support.obstacle(gpu, "onnxruntime", {"onnxruntime-gpu": "1.26.0", "cuda-bindings": "13.4.4"}) == ""


def test_a_new_driver_for_an_old_gpu_has_an_upper_end_too():
    said = support.obstacle(V100, "onnxruntime", {"onnxruntime-gpu": "1.26.0", "driver": "470.57.02"})
    assert said.endswith("install a newer NVIDIA driver, but none newer than branch R580, the last for 7.0")


def test_a_slice_is_refused():
    sliced = Gpu(index=2, name="A100", uuid="GPU-s", capability=(8, 0), mig=True)
    said = support.obstacle(sliced, "onnxruntime", {})
    assert said.startswith("MIG is enabled on 2: A100 (GPU-s); a slice of a GPU is not the GPU")
    assert said.endswith("as root: nvidia-smi -i GPU-s -mig 0")


def test_answers_come_at_once():
    def spent():
        start = time.perf_counter()
        support.obstacle(V100, "onnxruntime_tensorrt", {"onnxruntime-gpu": "1.31.1", "tensorrt": "11.4"})
        return time.perf_counter() - start

    assert min(spent() for _ in range(5)) < 0.05


def test_nothing_heavy_is_loaded():
    script = "import sys, bench.gpu.support, bench.gpu.hygiene, bench.gpu.nvml; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"pynvml", "cuda", "tensorrt", "numpy", "onnxruntime", "paddle", "psutil"} & set(done.stdout.split())


# Recipes


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("gpu", "name"),
    [(V100, "v100"), (T4, "t4"), (Gpu(index=0, name="A100", capability=(8, 0)), "newer")],
    ids=["v100", "t4", "newer"],
)
def test_a_recipe_begins_with_an_environment_and_ends_with_the_doctor(gpu, name, runtime):
    lines = support.recipe(gpu, runtime)
    typed = [line for line in lines if not line.startswith("#")]
    environment = re.fullmatch(r"python3\.11 -m venv (\.venv-[\w-]+)", typed[0])[1]
    assert environment.startswith(f".venv-{name}")
    assert all(environment in line for line in typed)
    assert typed[-1].startswith(f"{environment}/bin/bench doctor")


def test_profiles_have_their_recipe():
    assert support.recipe(catalog.profile("v100"), "tensorrt") == support.recipe(V100, "tensorrt")
    assert support.recipe(catalog.profile("t4"), "tensorrt") == support.recipe(T4, "tensorrt")
    assert support.recipe(catalog.profile("cpu"), "tensorrt") == ()
    assert support.recipe(Gpu(index=0, name="P100", capability=(6, 0)), "tensorrt") == ()


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FOR_GPUS = ("gpu", "v100", "t4", "newer", "paddle2")
EXACT = re.compile(r"[\w-]+(\[[\w,]+\])?==[\w.]+")


@pytest.mark.parametrize("name", FOR_GPUS)
def test_an_extra_for_gpus_is_exact(name):
    loose = {each for each in EXTRAS[name] if not EXACT.fullmatch(each)}
    assert loose == (set() if name == "gpu" else {"bench[gpu]"})


@pytest.mark.parametrize(("family", "runtime"), [(each, runtime) for each in matrix.RECIPES for runtime in RUNTIMES])
def test_a_recipe_is_exact(family, runtime):
    lines = matrix.RECIPES[family][runtime]
    installed = [line for line in lines if "install" in line and not line.startswith("#")]
    asked = recipes.asked(lines, elsewhere=True)
    assert len(installed) >= 1
    assert all(re.fullmatch(r"\.venv-[\w-]+/bin/pip install [^<>~*]+", line) for line in installed)
    extras = [each[2:-1] for each in asked if each.startswith(".")]
    assert len(extras) == 1
    assert set(extras) <= set(FOR_GPUS)
    assert [each for each in asked if not each.startswith(".") and not EXACT.fullmatch(each)] == []


def test_only_paddle_3_is_not_resolved():
    """`nox -s recipes` resolves all else, of TensorRT the bindings."""
    lines = [line for recipe in matrix.RECIPES.values() for lines in recipe.values() for line in lines]
    resolved = {*recipes.asked(lines)}
    assert {*recipes.asked(lines, elsewhere=True)} - resolved == {"paddlepaddle-gpu==3.3.1"}
    changed = {each for each in resolved if recipes.public(each) != each}
    assert changed == {each for each in resolved if each.startswith("tensorrt")}
    assert recipes.public("tensorrt-cu12==10.4.0") == "tensorrt-cu12-bindings==10.4.0"


def test_what_the_wheels_session_installs_is_exact():
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    (wheels,) = (ast.literal_eval(each.value) for each in assigned if ast.unparse(each.targets[0]) == "GPU_WHEELS")
    assert [each for listed in wheels.values() for each in listed if not EXACT.fullmatch(each)] == []


def test_the_doctor_says_what_a_gpu_needs_and_how_to_get_it(monkeypatch):
    """Not what a CPU needs, though that is missing, too."""

    def nowhere(*_):
        raise Unavailable("no NVIDIA driver")

    monkeypatch.setattr(devices, "find", nowhere)
    monkeypatch.setattr(devices, "metadata", SimpleNamespace(distributions=list))
    lines, usable = doctor.examine(catalog.profile("t4"))
    assert not usable
    wanted = {
        "onnxruntime": "onnxruntime-gpu",
        "tensorrt": "TensorRT",
        "paddle_tensorrt": "paddlepaddle-gpu",
        "paddle": "paddlepaddle-gpu",
    }
    for name, needed in wanted.items():
        start = next(i for i, line in enumerate(lines) if line.startswith(f"backend {name}: {needed} is not installed"))
        recipe = [f"    {line}" for line in support.recipe(catalog.profile("t4"), name)]
        assert lines[start + 1 : start + 1 + len(recipe)] == recipe
    start = lines.index(next(line for line in lines if line.startswith("backend onnxruntime with provider=tensorrt: ")))
    assert lines[start + 1] == "    install it as tensorrt"


def pins(text):
    """What a command or a list of requirements pins, by name, without extras."""
    return dict(re.findall(r"([\w-]+)(?:\[[\w,]+\])?==([\w.]+)", text))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ["v100", "t4"])
def test_what_a_recipe_installs_is_not_refused(name, runtime):
    lines = " ".join(support.recipe(catalog.profile(name), runtime))
    asked = " ".join(requirement for extra in re.findall(r"'\.\[(\w+)\]'", lines) for requirement in EXTRAS[extra])
    versions = {**pins(asked), **pins(lines), "python": "3.11"}
    assert set(versions) & {"tensorrt", "tensorrt-cu12", "onnxruntime-gpu", "paddlepaddle-gpu"}
    assert support.obstacle(catalog.profile(name), runtime, versions) == ""


def test_the_recipes_of_newer_gpus_are_not_refused_either():
    gpu = Gpu(index=0, name="A10", capability=AMPERE, driver="580.95.05", cuda_driver=(13, 0))
    for runtime in ("tensorrt", "onnxruntime", "onnxruntime_tensorrt"):
        versions = pins(" ".join((*EXTRAS["newer"], *support.recipe(gpu, runtime))))
        assert support.obstacle(gpu, runtime, {**versions, "python": "3.11"}) == ""


def test_the_libraries_line_is_shell(tmp_path):
    packages = tmp_path / ".venv-t4/lib/python3.11/site-packages"
    for folder in ("nvidia/cudnn/lib", "nvidia/cublas/lib", "tensorrt_libs"):
        (packages / folder).mkdir(parents=True)
    line = next(line for line in support.recipe(T4, "tensorrt") if line.startswith("export"))
    done = subprocess.run(
        ["sh", "-c", f'{line}; echo "$LD_LIBRARY_PATH"'], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = done.stdout.strip().strip(":").split(":")
    assert found == [str(packages / each) for each in ("nvidia/cublas/lib", "nvidia/cudnn/lib", "tensorrt_libs")]


@pytest.mark.parametrize(
    ("family", "runtime", "folder", "there", "made"),
    [
        ("t4", "paddle", "nvidia/cudnn/lib", "libcudnn.so.8", "libcudnn.so"),
        ("t4", "paddle", "nvidia/cuda_nvrtc/lib", "libnvrtc-builtins.so.11.8", "libnvrtc-builtins.so"),
        ("newer", "paddle_tensorrt", "tensorrt_libs", "libnvinfer.so.10", "libnvinfer.so"),
    ],
    ids=["cudnn", "nvrtc", "tensorrt"],
)
def test_libraries_get_the_names_that_paddle_asks_for(tmp_path, family, runtime, folder, there, made):
    lines = matrix.RECIPES[family][runtime]
    environment = lines[next(i for i, line in enumerate(lines) if line.startswith("python3.11"))].split()[-1]
    place = tmp_path / environment / "lib/python3.11/site-packages" / folder
    place.mkdir(parents=True)
    (place / there).write_text("it")
    line = next(line for line in lines if line.startswith("for "))
    for _ in range(2):
        subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    assert (place / made).read_text() == "it"
    assert sorted(path.name for path in place.iterdir()) == sorted([there, made])


def test_the_document_has_every_command():
    text = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    lines = {line for recipes in matrix.RECIPES.values() for recipe in recipes.values() for line in recipe}
    assert sorted(line for line in lines if line not in text.splitlines()) == []


# Which GPU

FOUR = (
    Gpu(index=0, name="Tesla T4", uuid="GPU-1a", pci_bus_id="0000:00:1E.0"),
    Gpu(index=1, name="Tesla V100-SXM2-16GB", uuid="GPU-1b"),
    Gpu(index=2, name="Tesla V100-SXM2-16GB", uuid="GPU-2c"),
    Gpu(index=3, name="NVIDIA A100-SXM4-40GB", uuid="GPU-3d", mig=True),
)


@pytest.mark.parametrize(
    ("wanted", "index"),
    [("0", 0), ("2", 2), ("GPU-1a", 0), ("gpu-1B", 1), ("GPU-2", 2), ("t4", 0), ("T4", 0), ("tesla t", 0)],
)
def test_one_is_meant(wanted, index):
    assert select(FOUR, wanted).index == index


def test_the_only_one_needs_no_name():
    assert select(FOUR[:1]) == FOUR[0]


@pytest.mark.parametrize("wanted", ["V100", "GPU-1", "tesla", ""])
def test_several_are_meant(wanted):
    with pytest.raises(UsageError, match=r"several GPUs.*1: Tesla V100-SXM2-16GB \(GPU-1b\).*by its index or UUID"):
        select(FOUR, wanted)


@pytest.mark.parametrize("wanted", ["4", "GPU-9", "H100", "T40"])
def test_none_is_meant(wanted):
    with pytest.raises(Unavailable, match=rf"no GPU '{wanted}'; there are 0: Tesla T4 \(GPU-1a\), 1: .*; name one by"):
        select(FOUR, wanted)


@pytest.mark.parametrize("wanted", ["3", "A100", "GPU-3d"])
def test_a_sliced_gpu_is_refused(wanted):
    with pytest.raises(Unavailable, match=r"MIG is enabled on 3: .* not the GPU.*nvidia-smi -i GPU-3d -mig 0"):
        select(FOUR, wanted)


def test_a_slice_is_refused_by_its_own_name():
    with pytest.raises(Unavailable, match="MIG-5c1a is a MIG slice; a slice of a GPU is not the GPU"):
        select(FOUR, "MIG-5c1a")


def test_no_gpu_at_all():
    with pytest.raises(Unavailable, match="no NVIDIA GPU; the driver lists none; list them with: nvidia-smi -L"):
        select((), "0")


def test_gpus_of_a_profile():
    assert [gpu.index for gpu in selection.of_profile(FOUR, catalog.profile("v100"))] == [1, 2]
    assert [gpu.index for gpu in selection.of_profile(FOUR, catalog.profile("t4"))] == [0]


def test_a_worker_sees_one_gpu_by_its_uuid():
    assert selection.visible_only(FOUR[2])["CUDA_VISIBLE_DEVICES"] == "GPU-2c"


@pytest.mark.parametrize(("uuid", "shown"), [("GPU-2c", "GPU-2c"), ("", "2")])
def test_an_index_means_to_a_worker_what_it_means_to_the_driver(monkeypatch, uuid, shown):
    """CUDA counts by speed, or as the user says; where a driver tells no UUID, that decides which GPU is measured."""
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpu = msgspec.structs.replace(FOUR[2], uuid=uuid)
    devices.show(devices.Device({}, 1, {"gpu": msgspec.to_builtins(gpu)}))
    environ = process.worker_environment({})
    assert (environ["CUDA_VISIBLE_DEVICES"], environ["CUDA_DEVICE_ORDER"]) == (shown, "PCI_BUS_ID")
