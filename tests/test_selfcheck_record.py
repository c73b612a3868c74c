"""A machine's own traces: the file that grows, what goes into it, and what a replay makes of it."""

import itertools
import json
import os
from importlib.resources import files
from pathlib import Path

import pytest
import stored
from command import tiny_onnx

np = pytest.importorskip("numpy")

from bench.errors import Failed, Unavailable, UsageError  # noqa: E402
from bench.jobs import Measured  # noqa: E402
from bench.live_worker import Done  # noqa: E402
from bench.progress import Quiet  # noqa: E402
from bench.schema import Case, Measurement, Samples, Telemetry  # noqa: E402
from bench.selfcheck import record, replay, targets, traces  # noqa: E402
from bench.selfcheck.record import Recorded, Wanted  # noqa: E402
from bench.subjects import Match  # noqa: E402

MS = 1_000_000
BUNDLED = Path(str(files("bench.selfcheck") / "traces.npz"))


def table(ms=5.0, probe_ms=0.3, seed=0):
    """A process of log-normal latencies, with the other counters it would have."""
    draw = np.random.default_rng(seed)
    wall, probe = (draw.lognormal(np.log(centre * MS), 0.004, 350).astype(int) for centre in (ms, probe_ms))
    zeros = np.zeros(350, int)
    return np.column_stack([np.cumsum(wall) // 1000, wall, wall, zeros, zeros, probe, zeros])


def unit(mode="solo", setting="quiet", seed=0, **meta):
    usual = {"mode": mode, "setting": setting, "dur": 2.0, "setup_s": [0.5], "other": 0.0, "steal": 0.0}
    count = 1 if mode == "solo" else 2
    return Recorded({**usual, **meta}, [table(seed=count * seed + number) for number in range(count)])


def recorded(file, *units):
    for one in units:
        record.append(file, one)
    return file


# The file


def test_units_are_added_behind_those_that_are_there(tmp_path):
    units = [unit(seed=1), unit("pin", seed=2), unit(seed=3, setting="busy")]
    file = recorded(tmp_path / "new" / "traces.npz", *units)
    samples, described = traces.contents(file)
    assert samples.dtype == np.int32
    assert [meta["idx"] for meta in described] == [[0], [1, 2], [3]]
    assert (samples == np.stack([one for each in units for one in each.tables])).all()
    found = traces.read(file)
    assert [(one.condition, one.number, one.seconds) for one in found] == [
        ("solo quiet", 1, 2.5),
        ("pinned quiet", 1, 2.5),
        ("solo busy", 1, 2.5),
    ]
    assert (found[1].processes[1].wall == units[1].tables[1][50:, 1]).all()
    assert list(file.parent.iterdir()) == [file]


def test_a_file_may_be_the_bundled_one_and_go_on(tmp_path):
    file = tmp_path / "copy.npz"
    file.write_bytes(BUNDLED.read_bytes())
    bundled = traces.load()
    for one, other in zip(traces.read(file), bundled, strict=True):
        assert one.condition == other.condition
        assert all((a.wall == b.wall).all() for a, b in zip(one.processes, other.processes, strict=True))
    last = traces.read(recorded(file, unit("pin")))[-1]
    assert (last.condition, last.number) == ("pinned quiet", 13)


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_what_is_there_survives_a_full_disk(tmp_path, monkeypatch, place):
    file = recorded(tmp_path / "traces.npz", unit())
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync", full), "replace": (Path, "replace", full)}[place])
    with pytest.raises(UsageError, match=r"^cannot write .*traces.npz; No space left on device; name another with --o"):
        record.append(file, unit(seed=1))
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def archive(**arrays):
    def write(file):
        np.savez(file.open("wb"), **arrays)

    return write


def meta(*units):
    return np.frombuffer(json.dumps(units).encode(), np.uint8)


GOOD = {"mode": "solo", "setting": "quiet", "dur": 1.0, "setup_s": [0.1], "idx": [0]}
ONE = np.zeros((1, 350, 7), np.int32)
STRANGE = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("traces"),
    "cut off": lambda file: file.write_bytes(BUNDLED.read_bytes()[:100_000]),
    "another archive": archive(x=np.zeros(3)),
    "objects": archive(A=np.array([{}], dtype=object), meta=meta()),
    "another shape": archive(A=np.zeros((1, 300, 7), np.int32), meta=meta()),
    "no JSON": archive(A=ONE, meta=np.zeros(4, np.uint8)),
    "no list": archive(A=ONE, meta=np.frombuffer(b"7", np.uint8)),
    "no such row": archive(A=ONE, meta=meta({**GOOD, "idx": [1]})),
    "no such mode": archive(A=ONE, meta=meta({**GOOD, "mode": "x"})),
    "half a pair": archive(A=ONE, meta=meta({**GOOD, "mode": "pin"})),
    "no duration": archive(A=ONE, meta=meta({**GOOD, "dur": None})),
    "a folder": lambda file: file.mkdir(),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_of_traces_is_refused_in_a_line_and_left_alone(tmp_path, kind):
    file = tmp_path / "odd.npz"
    STRANGE[kind](file)
    before = file.read_bytes() if file.is_file() else None
    for words in (("replay", "--traces", file), ("record", "--output", file, "--backend", "onnxruntime")):
        code, out, err = stored.bench("selfcheck", *words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert str(file) in err
    assert (file.read_bytes() if file.is_file() else None) == before


def test_several_programs_are_not_replayed_as_one(tmp_path):
    units = meta({**GOOD, "model": "M", "backend": "openvino"}, {**GOOD, "model": "M", "backend": "paddle"})
    np.savez(tmp_path / "both.npz", A=ONE, meta=units)
    code, _, err = stored.bench("selfcheck", "replay", "--traces", tmp_path / "both.npz")
    assert (code, err.count("\n")) == (2, 1)
    assert "both.npz holds several programs; M on openvino, M on paddle; record each" in err


def test_a_missing_file_cannot_be_replayed(tmp_path):
    code, _, err = stored.bench("selfcheck", "replay", "--traces", tmp_path / "none.npz")
    assert (code, err.count("\n")) == (2, 1)
    assert "No such file or directory; name one that bench selfcheck record wrote" in err


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("x")
    code, _, err = stored.bench(
        "selfcheck", "record", "--backend", "onnxruntime", "--output", tmp_path / "file" / "a.npz"
    )
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"bench: cannot write {tmp_path}/file/a.npz; ")


# What is recorded


class Recorder:
    """Units of two matches; each takes as long as the clock says."""

    def __init__(self, wanted, progress):
        cases = [Case("M", name, "cpu", "fp32", 1, 1) for name in wanted.backends]
        self.matches = [Match(key=case.key, label_a="", label_b="", case_a=case, case_b=case) for case in cases]

    turns = record.Recorder.turns

    def unit(self, match, load, alone, number):
        return unit("solo" if alone else "pin", load, seed=number, backend=match.case_a.backend)


def test_everything_has_its_turn_until_the_time_is_spent(tmp_path, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(record, "Recorder", Recorder)
    monkeypatch.setattr(record.time, "monotonic", lambda: float(next(ticks)))
    # The clock ticks at the start and twice a unit: of nine seconds, the last is too little for a further one.
    wanted = Wanted(model="M", backends=("a", "b"), loads=("none", "busy"), budget_s=9)
    assert record.record(wanted, tmp_path / "traces.npz", Quiet()) == 4
    _, described = traces.contents(tmp_path / "traces.npz")
    assert [(one["backend"], one["setting"], one["mode"]) for one in described] == [
        ("a", "none", "solo"),
        ("a", "none", "pin"),
        ("b", "none", "solo"),
        ("b", "none", "pin"),
    ]


@pytest.mark.parametrize(
    ("load", "others", "setting"),
    [
        ("none", 0.2, "quiet"),
        ("none", None, "quiet"),
        ("none", 0.9, "wild"),
        ("busy", 1.1, "busy"),
        ("busy", 1.6, "wild+busy"),
        ("burst", 1.9, "burst"),
    ],
)
def test_a_setting_is_what_ran_besides(load, others, setting):
    assert record._setting(load, others) == setting


def test_a_process_alone_is_a_table(monkeypatch):
    wall = tuple(range(1000, 1350))
    counted = Telemetry(cpu_ns=wall[::-1], minor_faults=(1,) * 350)
    answer = Measured(
        measurement=Measurement({"compute": Samples(samples_ns=wall, telemetry=counted)}, load_ns=1, first_ns=1),
        parity=None,
        effective={},
        telemetry={"probe_ns": {"compute": [7, 8]}},
        validity=(),
    )
    found = record.solo_table(answer)
    assert found.shape == traces.SHAPE
    assert [tuple(found[row]) for row in (0, 2, 349)] == [
        (0, 1000, 1349, 0, 1, 7, 0),
        (2, 1002, 1347, 0, 1, 7, 0),
        (sum(wall[:-1]) // 1000, 1349, 1000, 0, 1, 8, 0),
    ]


class Player:
    """A side that takes 1000 ns longer with each block, and keeps the order in which both were asked."""

    def __init__(self, log, side):
        self.log, self.side = log, side

    def block(self, iterations, latency_ns):
        self.log.append(self.side)
        wall = (MS + 1000 * self.log.count(self.side),) * iterations
        return Done(wall_ns=wall, telemetry=Telemetry(involuntary_switches=(2,) * iterations), probe_ns=len(self.log))


def test_a_pair_is_two_tables_of_blocks_in_turn():
    log = []
    blocks = record.alternate({side: Player(log, side) for side in "AB"}, ("B", "A"))
    assert log[:8] == list("BAABBAAB")
    assert (log.count("A"), log.count("B")) == (70, 70)
    found = record.pair_table(blocks["A"])
    assert found.shape == traces.SHAPE
    assert list(found[:6, 1]) == [MS + 1000] * 5 + [MS + 2000]
    assert list(found[:11, 5]) == [2] * 5 + [3] * 5 + [6]
    assert set(found[:, 3]) == {2}
    assert set(found[:, 2]) == {0}
    assert list(np.diff(found[:5, 0])) == [1001] * 4
    assert (np.diff(found[::5, 0]) >= 0).all()


def test_without_a_runtime_there_is_nothing_to_record(tmp_path):
    with pytest.raises(Unavailable, match=r"^there is no runtime to record; none is installed; pip install"):
        record.record(Wanted(model="MobileNetV2", backends=()), tmp_path / "traces.npz", Quiet())


def test_a_simulation_is_not_recorded(tmp_path):
    code, _, err = stored.bench("selfcheck", "record", "--backend", "simulated", "--output", tmp_path / "traces.npz")
    assert (code, err) == (
        2,
        "bench: simulated has nothing of the machine's to record; name a runtime with --backend\n",
    )
    assert not (tmp_path / "traces.npz").exists()


@pytest.mark.runtime
def test_real_processes_are_recorded_alone_and_in_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    model, file = tmp_path / "tiny.onnx", tmp_path / "traces.npz"
    model.write_bytes(tiny_onnx())
    recorder = record.Recorder(Wanted(model=str(model), backends=("onnxruntime",)), Quiet())
    turns = recorder.turns(("none",))
    assert [alone for *_, alone in turns] == [True, False]
    for number, turn in enumerate(turns):
        record.append(file, recorder.unit(*turn, number))
    solo, pin = traces.read(file)
    assert [one.mode for one in (solo, pin)] == ["solo", "pinned"]
    for process in (*solo.processes, *pin.processes):
        assert process.wall.shape == (300,)
        assert (process.wall > 0).all()
        assert (process.probe > 10_000).all()
        assert 0 < np.median(process.cpu) < 10 * MS
    assert abs(traces.measured(pin).fastest) < 0.5
    _, described = traces.contents(file)
    assert {one["backend"] for one in described} == {"onnxruntime"}
    assert all(one["other"] >= 0 and one["dur"] > 0 for one in described)


@pytest.mark.runtime
def test_what_is_too_slow_for_the_file_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(record, "MOST_NS", 1000)
    model = tmp_path / "tiny.onnx"
    model.write_bytes(tiny_onnx())
    recorder = record.Recorder(Wanted(model=str(model), backends=("onnxruntime",)), Quiet())
    with pytest.raises(Failed, match=r"is too slow to record; one of its iterations took .*; take a smaller model"):
        recorder.unit(recorder.matches[0], "none", True, 0)


# What a replay makes of it


@pytest.fixture(scope="module")
def contributed(tmp_path_factory):
    """Eight processes alone and six pairs of a quiet machine, and a pair of a busy one."""
    units = [unit(seed=seed) for seed in range(8)] + [unit("pin", seed=seed) for seed in range(6)]
    return recorded(tmp_path_factory.mktemp("traces") / "traces.npz", *units, unit("pin", "busy", seed=9))


@pytest.fixture(scope="module")
def replayed(contributed):
    return replay.replay_file(contributed, jobs=20)


def test_all_units_of_a_contributed_file_are_replayed(replayed):
    assert replayed.even is None
    (pinned,) = replayed.pairs
    assert (pinned.condition, pinned.units, pinned.false_alarm, pinned.power[0.03]) == ("pinned quiet", 6, 0.0, 1.0)
    assert replayed.skipped == ("pinned busy",)
    assert {one.name for one in replayed.stored} == {"calm, then quiet", "any, then any"}
    assert {one.stored for one in replayed.histories} == {"raw", "normalised", "reference"}
    assert {one.condition for one in replayed.anchors} == {"quiet", "mixed"}


def test_a_report_says_what_there_is_too_little_for(replayed):
    text = targets.render(replayed)
    assert "Replay of all recorded units" in text
    assert "Too few units to judge: pinned busy." in text
    assert "A real slowdown: one more layer, 3.5 to 3.9 %. Too few units were recorded for it." in text
    assert "history, reference: alarms / 100" in text


@pytest.mark.parametrize("mode", ["solo", "pin"])
def test_a_single_unit_can_be_replayed(tmp_path, mode):
    code, out, err = stored.bench("selfcheck", "replay", "--traces", recorded(tmp_path / "one.npz", unit(mode)))
    assert (code, err) == (0, ""), "no target is asserted"
    assert "Histories: alarms per 100 looks without a step; steps found 3, 5 and 10 points after. Too few" in out
