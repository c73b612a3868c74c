"""The cache: made once, whole or not at all, whoever is killed or writes over it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import little_room

from bench.artifacts import Cache, Made, default_root, file_sha256, files_sha256, key_of, model_files
from bench.errors import BenchError, Failed, UsageError

PARTS = {"source": "a1", "opset": 17, "versions": {"onnx": "1.17"}}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


class Maker:
    """Writes a model and its parameters, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "model.xml").write_text("<net/>")
        (folder / "model.bin").write_bytes(bytes(range(256)))
        return Made(format="openvino", file="model.xml", facts={"macs": 7})


@pytest.fixture
def maker():
    return Maker()


def entry(cache):
    """The folder of the only entry."""
    (card,) = cache.root.glob("*/*/*/artifact.json")
    return card.parent


def leftovers(cache):
    return [path.name for path in (cache.root / "tmp").iterdir() if path.name != "gate"]


# Keys


def test_a_key_stays_what_it_was():
    """Pinned: another one would have every user export everything anew."""
    assert key_of(PARTS) == "862b637640bbdff837e211f719722a292ea7ac28658105f89a226e24e08d817e"


def test_a_key_does_not_depend_on_order():
    assert key_of(dict(reversed(PARTS.items()))) == key_of(PARTS)


@pytest.mark.parametrize(
    "other", [{"source": "a2"}, {"opset": 18}, {"opset": "17"}, {"versions": {}}, {"more": None}], ids=str
)
def test_a_key_depends_on_every_part(other):
    assert key_of({**PARTS, **other}) != key_of(PARTS)


def test_kinds_do_not_share_entries(cache, maker):
    assert cache.get("onnx", PARTS, maker).path != cache.get("paddle", PARTS, maker).path
    assert maker.calls == 2


# Made once


def test_a_miss_makes_and_a_hit_does_not(cache, maker):
    made, found = cache.get("openvino", PARTS, maker), cache.get("openvino", PARTS, maker)
    assert made == found
    assert maker.calls == 1
    assert Path(made.path).is_absolute()
    assert Path(made.path).read_text() == "<net/>"
    assert made.format == "openvino"
    assert made.size_bytes == len("<net/>") + 256
    assert made.sha256 == files_sha256(*model_files(Path(made.path)))
    assert made.made_by == {**PARTS, "macs": 7}
    assert not leftovers(cache)


def test_another_process_finds_it(cache, maker):
    made = cache.get("openvino", PARTS, maker)
    assert Cache(cache.root).get("openvino", PARTS, pytest.fail) == made


@pytest.mark.parametrize("files", [("a.onnx", "a.onnx.data"), ("a.onnx", "a.onnx_data"), ("a.xml", "a.bin")], ids=str)
def test_parameters_travel_with_the_model(tmp_path, files):
    paths = [tmp_path / name for name in files]
    for path in paths:
        path.write_text(path.name)
    assert model_files(paths[0]) == paths


def test_a_stranger_beside_a_model_is_not_part_of_it(tmp_path):
    for name in ("a.onnx", "a.bin", "a.pdiparams", "b.onnx.data"):
        (tmp_path / name).touch()
    assert model_files(tmp_path / "a.onnx") == [tmp_path / "a.onnx"]


def test_one_hash_covers_names_and_contents(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    before = files_sha256(one, two)
    assert files_sha256(two, one) == before
    assert file_sha256(one) != file_sha256(two)
    one.write_text("2")
    two.write_text("1")
    assert files_sha256(one, two) != before


# Damage


def edit(path):
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def garble(path):
    path.write_bytes(b"\xff\x00{")


@pytest.mark.parametrize("damage", [edit, truncate, empty, garble, Path.unlink], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", ["model.xml", "model.bin", "artifact.json"])
def test_a_damaged_entry_is_made_again(cache, maker, file, damage):
    made = cache.get("openvino", PARTS, maker)
    damage(entry(cache) / file)
    assert cache.get("openvino", PARTS, maker) == made
    assert maker.calls == 2
    assert Path(made.path).with_suffix(".bin").read_bytes() == bytes(range(256))


@pytest.mark.parametrize("path", ["../../../../secret", "a\0b", "", ".", "x" * 5000], ids=lambda path: path[:9])
def test_a_card_that_lies_is_made_again(cache, maker, path):
    made = cache.get("openvino", PARTS, maker)
    card = entry(cache) / "artifact.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "path": path}))
    assert cache.get("openvino", PARTS, maker) == made
    assert maker.calls == 2


@pytest.mark.parametrize("card", ["null", "[]", "[" * 100_000, '{"format": 1}', '{"made_by": ' + '{"a":' * 100_000])
def test_a_card_that_is_none_is_made_again(cache, maker, card):
    cache.get("openvino", PARTS, maker)
    (entry(cache) / "artifact.json").write_text(card)
    cache.get("openvino", PARTS, maker)
    assert maker.calls == 2


@pytest.mark.parametrize("file", ["stranger", "engines/one.engine"])
def test_an_entry_with_a_file_more_is_made_again(cache, maker, file):
    """Such as an engine that a runtime has put beside those that were sealed."""
    made = cache.get("openvino", PARTS, maker)
    (entry(cache) / file).parent.mkdir(exist_ok=True)
    (entry(cache) / file).touch()
    assert cache.get("openvino", PARTS, maker) == made
    assert maker.calls == 2
    assert not (entry(cache) / file).exists()


@pytest.mark.parametrize("damage", [edit, truncate, empty, Path.unlink], ids=lambda damage: damage.__name__)
def test_files_in_folders_of_an_entry_are_sealed_too(cache, damage):
    def make(folder):
        (folder / "engines").mkdir()
        (folder / "engines" / "one.engine").write_bytes(b"engine")
        (folder / "model.onnx").write_bytes(b"model")
        return Made(format="onnx", file="model.onnx")

    made = cache.get("onnx", PARTS, make)
    assert made.size_bytes == len(b"enginemodel")
    assert cache.get("onnx", PARTS, pytest.fail) == made
    damage(entry(cache) / "engines" / "one.engine")
    assert cache.get("onnx", PARTS, make) == made


def test_what_is_discarded_is_made_again_and_strangers_files_stay(cache, maker, tmp_path):
    made = cache.get("openvino", PARTS, maker)
    cache.discard(Path(made.path))
    assert not Path(made.path).exists()
    assert cache.get("openvino", PARTS, maker) == made
    assert maker.calls == 2
    (tmp_path / "mine.onnx").touch()
    cache.discard(tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").exists()


def test_a_whole_folder_gone_is_made_again(cache, maker):
    made = cache.get("openvino", PARTS, maker)
    folder = entry(cache)
    folder.rename(cache.root / "elsewhere")
    assert cache.get("openvino", PARTS, maker) == made


# Several processes


def _get(root, barrier, log):
    def make(folder):
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        for number in range(64):
            (folder / f"part{number}").write_bytes(bytes(1 << 16))
        (folder / "model.onnx").write_text("made")
        return Made(format="onnx", file="model.onnx")

    cache = Cache(Path(root))
    barrier.wait(60)
    artifact = cache.get("onnx", PARTS, make)
    assert Path(artifact.path).read_text() == "made"


def test_processes_at_once_make_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, log = context.Barrier(3), tmp_path / "log"
    asked = [context.Process(target=_get, args=(str(tmp_path / "cache"), barrier, str(log))) for _ in range(3)]
    for process in asked:
        process.start()
    for process in asked:
        process.join(60)
    assert [process.exitcode for process in asked] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1
    assert not leftovers(Cache(tmp_path / "cache"))


IN_MAKE = """
import os, signal, sys
from pathlib import Path
from bench.artifacts import Cache, Made

def make(folder):
    (folder / "model.xml").write_text("<ne")
    print("making", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)

Cache(Path(sys.argv[1])).get("openvino", {parts!r}, make)
"""


@pytest.fixture
def making(cache):
    """A process that is in the middle of making the entry; it kills itself once its input is closed."""
    command = [sys.executable, "-c", IN_MAKE.format(parts=PARTS), str(cache.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "making\n"
        yield process
        process.kill()


def die(process):
    process.stdin.close()
    assert process.wait(30) == -signal.SIGKILL


def test_a_killed_maker_is_not_in_the_way(cache, maker, making):
    die(making)
    assert leftovers(cache) == [key_of({"kind": "openvino", **PARTS})]
    assert Path(cache.get("openvino", PARTS, maker).path).read_text() == "<net/>"
    assert not leftovers(cache)


def test_what_a_killed_maker_left_is_swept_away(cache, making):
    die(making)
    Cache(cache.root)
    assert not leftovers(cache)


def test_what_a_living_maker_writes_is_let_alone(cache, making):
    Cache(cache.root)
    assert leftovers(cache) == [key_of({"kind": "openvino", **PARTS})]


# What goes wrong


@pytest.mark.parametrize("error", [Failed("conversion failed"), ValueError("bug"), KeyboardInterrupt()], ids=repr)
def test_nothing_is_kept_of_a_failure(cache, maker, error):
    def fail(folder):
        maker(folder)
        raise error

    with pytest.raises(type(error)) as caught:
        cache.get("openvino", PARTS, fail)
    assert caught.value is error
    assert not leftovers(cache)
    assert not list(cache.root.glob("*/*/*/*"))
    cache.get("openvino", PARTS, maker)
    assert maker.calls == 2


@pytest.mark.parametrize("place", ["file/cache", "/proc/cache", "/dev/null/cache"])
def test_a_cache_that_cannot_be_written_is_said_in_one_line(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        Cache(tmp_path / place)
    assert str(tmp_path / place) in str(caught.value)
    assert "set BENCH_CACHE to a folder you own" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_disk_that_is_full_as_an_artifact_is_made(tmp_path, maker):
    folder = tmp_path / "disk"
    folder.mkdir()

    def large(folder):
        (folder / "model.bin").write_bytes(bytes(1 << 20))
        return maker(folder)

    with little_room(folder, 1 << 17) as room:
        cache = Cache(folder)
        with pytest.raises(BenchError, match=f"{os.strerror(room.error)}; make room") as caught:
            cache.get("openvino", PARTS, large)
        assert caught.value.exit_code == 1
        assert not leftovers(cache)
        room.relieve()
        cache.get("openvino", PARTS, large)
        assert maker.calls == 1


@pytest.mark.parametrize("name", ["mkdir", "rename", "write_bytes"])
def test_a_disk_that_is_full_before_and_after(cache, maker, monkeypatch, name):
    """Folder, card and renaming need room, too."""
    real = getattr(Path, name)

    def full(self, *arguments, **options):
        if self.is_relative_to(cache.root) and self.name != "model.bin":
            raise OSError(28, os.strerror(28))
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, name, full)
        with pytest.raises(BenchError, match="No space left on device"):
            cache.get("openvino", PARTS, maker)
    assert not leftovers(cache)
    assert cache.get("openvino", PARTS, maker)


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("BENCH_CACHE")
    assert default_root().name == "bench"


@pytest.mark.parametrize("name", ["a b", "naïve 模型", "line\nbreak", "x" * 200])
def test_a_cache_of_any_name(tmp_path, maker, name):
    cache = Cache(tmp_path / name)
    assert Path(cache.get("openvino", PARTS, maker).path).is_file()


def test_a_cache_behind_a_link(tmp_path, maker):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    made = Cache(tmp_path / "link").get("openvino", PARTS, maker)
    assert Path(made.path).is_relative_to(tmp_path / "link")
    Cache(tmp_path / "real").get("openvino", PARTS, maker)
    assert maker.calls == 1
