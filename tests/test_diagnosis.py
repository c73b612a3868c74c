import zipfile
from pathlib import Path

import pytest

from bench import catalog, diagnosis
from bench.errors import UsageError

SMI = """Driver Version                            : 535.183.01
GPU 00000000:00:1E.0
    Product Name                          : Tesla T4
    Serial Number                         : 1562520023146
    GPU UUID                              : GPU-4e5b3c1a-9f0e-1122-3344-5566778899aa
    GPU PDI                               : 0x7f3a9c55d1e20b48
    Board ID                              : 0x1e77
    Platform Info
        Chassis Serial Number             : 8811223344
        GPU Fabric GUID                   : 0x9a1b2c3d4e5f6071
    Processes
        Process ID                        : 4242
            Name                          : /home/annette/venv/bin/python
    Clocks
        SM                                : 585 MHz
"""


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosis, "_told", lambda command: SMI)
    results = tmp_path / "results" / "t4"
    results.mkdir(parents=True)
    (results / "20260101T000000Z-0000aaaa.jsonl").write_text(f'{{"log": "{Path.home()}/x"}}\n')
    file = tmp_path / "out.zip"
    diagnosis.pack(
        file, ["device t4: yes", "GPU-4e5b3c1a-9f0e-1122-3344-5566778899aa"], catalog.profile("t4"), results.parent
    )
    with zipfile.ZipFile(file) as packed:
        return {name: packed.read(name).decode() for name in packed.namelist()}


def test_it_holds_what_one_would_ask_for(packed):
    assert set(packed) == {
        "doctor.txt",
        "environment.json",
        "packages.txt",
        "system.txt",
        "nvidia-smi.txt",
        "results/20260101T000000Z-0000aaaa.jsonl",
    }
    assert packed["doctor.txt"].startswith("device t4: yes\n")
    assert "msgspec==" in packed["packages.txt"]
    assert "SM                                : 585 MHz" in packed["nvidia-smi.txt"]


def test_it_names_neither_the_user_nor_the_one_device(packed):
    everything = "".join(packed.values())
    names_one = ("1562520023146", "4e5b3c1a", "7f3a9c55", "0x1e77", "8811223344", "9a1b2c3d", "annette")
    for private in (*names_one, str(Path.home()) + "/"):
        assert private not in everything
    assert "Name                          : ~/venv/bin/python" in everything
    assert '{"log": "~/x"}' in everything


def test_a_file_that_is_there_is_left_alone(tmp_path):
    file = tmp_path / "mine.zip"
    file.write_text("mine")
    with pytest.raises(UsageError, match=r"cannot write .*mine\.zip; it is there already; name another with"):
        diagnosis.pack(file, [], catalog.profile("cpu"), tmp_path)
    assert file.read_text() == "mine"


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UsageError, match="No such file or directory"):
        diagnosis.pack(tmp_path / "no" / "x.zip", [], catalog.profile("cpu"), tmp_path)


def test_a_program_that_is_not_there_is_said():
    assert diagnosis._told(["no-such-program"]) == "there is no no-such-program\n"
    assert diagnosis._told(["echo", "here"]) == "here\n"
