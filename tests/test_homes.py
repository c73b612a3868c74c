import shutil
import subprocess
import sys
import zipfile

import pytest

from bench import backends, homes
from bench.backends import BaseBackend, Home
from bench.errors import Failed, Unavailable, UsageError

HERE = "{}.{}".format(*sys.version_info[:2])
METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.5\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def wheel(tmp_path):
    """A package that installs without a network."""
    path = tmp_path / "tiny-1.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny.py", "")
        file.writestr("tiny-1.5.dist-info/METADATA", METADATA)
        file.writestr("tiny-1.5.dist-info/WHEEL", WHEEL)
        file.writestr("tiny-1.5.dist-info/RECORD", "")
    return path


@pytest.fixture
def backend(monkeypatch, tmp_path, wheel):
    """`tiny`, which lives in a home of its own made with this Python."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(homes, "NEEDED", ())

    class Tiny(BaseBackend):
        name = "tiny"
        requires = ("tiny",)
        home = Home(HERE, (str(wheel),))

    get = backends.get
    monkeypatch.setattr(backends, "get", lambda name: Tiny() if name == "tiny" else get(name))
    return Tiny()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_backend_of_ours_needs_none():
    assert homes.python("simulated") == ""
    assert homes.python("") == ""
    with pytest.raises(UsageError, match=r"openvino needs no environment of its own; .*pip install openvino"):
        homes.set_up("openvino", print)


def test_what_is_not_set_up_says_what_to_type(backend):
    assert homes.sealed(backend.home) is None
    assert homes.missing(backend).endswith("which is not set up; type: bench setup tiny")
    with pytest.raises(Unavailable, match="bench setup tiny"):
        homes.python("tiny")


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_setting_up_makes_it_once(backend, monkeypatch, tool):
    if tool == "pip":
        which = shutil.which
        monkeypatch.setattr(shutil, "which", lambda name: None if name == "uv" else which(name))
    elif not shutil.which("uv"):
        monkeypatch.setattr(homes, "_without_pip", list)
    said = []
    folder = homes.set_up("tiny", said.append)
    assert len(said) == 2
    assert homes.missing(backend) == ""
    assert homes.sealed(backend.home).python.startswith(HERE + ".")
    assert homes.sealed(backend.home).packages["tiny"] == "1.5"
    where = subprocess.run([homes.python("tiny"), "-c", "import tiny; print(tiny.__file__)"], capture_output=True)
    assert where.stdout.decode().startswith(str(folder))
    assert homes.set_up("tiny", said.append) == folder
    assert len(said) == 2


def test_what_a_killed_setup_left_is_no_home_and_is_replaced(backend):
    folder = homes.place(backend.home)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("half")
    assert homes.sealed(backend.home) is None
    homes.set_up("tiny", print)
    assert homes.sealed(backend.home)


def test_a_home_whose_python_has_gone_is_none(backend):
    folder = homes.set_up("tiny", print)
    (folder / "bin" / "python").unlink()
    assert "bench setup tiny" in homes.missing(backend)


def test_without_the_interpreter_it_says_so_and_leaves_nothing(backend, monkeypatch):
    monkeypatch.setattr(homes, "_candidates", lambda version: iter([sys.executable + "x"]))
    assert f"no CPython {HERE} was found" in homes.missing(backend)
    with pytest.raises(Unavailable, match=f"no CPython {HERE}, .*; then: bench setup tiny"):
        homes.set_up("tiny", print)
    assert names(homes.place(backend.home).parent) == [homes.place(backend.home).name + ".lock"]


def test_another_version_is_not_taken_for_it(backend, monkeypatch):
    monkeypatch.setattr(homes, "_candidates", lambda version: iter([sys.executable]))
    assert homes._interpreter(HERE) == sys.executable
    assert homes._interpreter("3.1") == ""


def test_packages_that_cannot_be_installed_leave_nothing(backend, wheel):
    wheel.write_bytes(b"no wheel")
    with pytest.raises(Failed, match=r"cannot set up tiny; .+; mend that"):
        homes.set_up("tiny", print)
    assert not homes.place(backend.home).exists()


def test_packages_that_do_not_load_leave_nothing(backend, wheel):
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tiny.py", "raise ImportError('libgone.so.1')")
        file.writestr("tiny-1.5.dist-info/METADATA", METADATA)
        file.writestr("tiny-1.5.dist-info/WHEEL", WHEEL)
        file.writestr("tiny-1.5.dist-info/RECORD", "")
    with pytest.raises(Failed, match=r"libgone.so.1"):
        homes.set_up("tiny", print)
    assert not homes.place(backend.home).exists()


def test_other_packages_make_another_home(backend):
    other = Home(HERE, ("other",))
    assert homes.place(other) != homes.place(backend.home)
    assert homes.versions(other) == {}
