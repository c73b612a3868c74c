"""What can't be read costs nothing else: one clear line each, the rest reported, and the contract's exit code."""

import errno
import json
from pathlib import Path

import pytest
from stored import bench

from bench import catalog, report
from bench.errors import UsageError

from . import CARDS, case, header, ok, write


@pytest.fixture(autouse=True)
def few_cards(monkeypatch):
    monkeypatch.setattr(catalog, "cards", lambda: CARDS)


@pytest.fixture
def sound(tmp_path):
    """A file that nothing is wrong with, beside which others are put."""
    return write(tmp_path, [ok(case(), i) for i in range(3)])


def append(path, *lines):
    with path.open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))


def aside(folder, content, run="run2"):
    path = folder / "cpu" / f"20260102T000000Z-{run}.jsonl"
    path.write_bytes(content)
    return path


def newer(line):
    return json.dumps(json.loads(line) | {"schema": 99}).encode()


def test_damaged_lines_are_named_and_left_out(tmp_path, sound):
    append(sound, b'{"kind":"record","run_id"', b"\xff")
    built = report.build(tmp_path)
    assert built.rows[0].repetitions == 3
    assert built.warnings == (f"{sound}: 2 lines (5, 6) left out; damaged, or cut off in the middle",)


def test_of_many_damaged_lines_the_first_are_named(tmp_path, sound):
    append(sound, *[b"{"] * 9)
    assert report.build(tmp_path).warnings[0].startswith(f"{sound}: 9 lines (5, 6, 7, 8, 9, …) left out")


def test_a_file_cut_anywhere_costs_at_most_its_last_line(tmp_path, sound):
    whole = sound.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(ends[1] + 2, len(whole), 97):
        sound.write_bytes(whole[:cut])
        built = report.build(tmp_path)
        assert built.rows[0].repetitions == sum(end <= cut for end in ends[1:])
        assert len(built.warnings) == (cut not in ends and cut - 1 not in ends)


def test_records_that_were_copied_count_once(tmp_path, sound):
    copied = sound.read_bytes()
    append(sound, *copied.splitlines()[1:3])
    again = aside(tmp_path, copied, "copy")
    built = report.build(tmp_path)
    assert (built.rows[0].repetitions, built.rows[0].samples) == (3, 300)
    assert built.warnings == (
        f"{sound}: 2 lines (5, 6) left out; the same records were read before",
        f"{again}: 3 lines (2, 3, 4) left out; the same records were read before",
    )


def test_a_newer_file_is_named_and_the_others_are_reported(tmp_path, sound):
    path = aside(tmp_path, b"\n".join(newer(line) for line in sound.read_bytes().splitlines()))
    built = report.build(tmp_path)
    assert built.rows[0].run_id == "run1"
    assert built.warnings == (
        f"left out: {path}:1 was written by a newer bench; schema 99, this bench reads up to 1; upgrade bench",
    )


def test_of_a_file_put_together_the_newer_lines_alone_are_left_out(tmp_path, sound):
    append(sound, newer(sound.read_bytes().splitlines()[1]))
    built = report.build(tmp_path)
    assert built.rows[0].repetitions == 3
    assert built.warnings[0].startswith(f"left out: {sound}:5 was written by a newer bench")


def test_a_newer_file_asked_for_is_refused(tmp_path, sound):
    append(sound, newer(sound.read_bytes().splitlines()[1]))
    with pytest.raises(UsageError, match=r"run1\.jsonl:5 was written by a newer bench; schema 99"):
        report.build(sound)


def test_where_all_is_newer_that_is_the_error(tmp_path, sound):
    sound.write_bytes(newer(sound.read_bytes().splitlines()[0]))
    with pytest.raises(UsageError, match=r"run1\.jsonl:1 was written by a newer bench"):
        report.build(tmp_path)


def test_a_file_that_never_began_is_named_and_left_out(tmp_path, sound):
    torn = aside(tmp_path, b'{"kind":"header","sch')
    empty = aside(tmp_path, b"", "run3")
    built = report.build(tmp_path)
    assert len(built.rows) == 1
    assert built.warnings == tuple(
        f"left out: {path} holds no run; no header line can be read; name a file that bench run wrote"
        for path in (torn, empty)
    )
    with pytest.raises(UsageError, match="holds no run"):
        report.build(torn)


def test_records_outlive_their_header(tmp_path, sound):
    lines = sound.read_bytes().splitlines(keepends=True)
    sound.write_bytes(b"".join([lines[0][:40] + b"\n", *lines[1:]]))
    built = report.build(tmp_path)
    assert built.rows[0].repetitions == 3
    assert built.environment == ("unknown environment; run run1",)
    assert built.warnings == (
        f"{sound}: 1 line (1) left out; damaged, or cut off in the middle",
        f"{sound}: no header line can be read; its records are reported, their machine is unknown",
    )


def test_a_file_that_cannot_be_opened_is_named_and_left_out(tmp_path, sound, monkeypatch):
    locked = write(tmp_path, [ok(case("DPN92"), day=2)], header(2))
    open_ = Path.open

    def refuse(path, *arguments, **options):
        if path == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    built = report.build(tmp_path)
    assert [row.model for row in built.rows] == ["MobileNetV1_x0_25"]
    assert built.warnings == (f"left out: cannot read {locked}; Permission denied; check the path",)
    with pytest.raises(UsageError, match="Permission denied"):
        report.build(locked)


def test_the_command_reports_the_rest_and_ends_well(tmp_path, sound):
    append(sound, b"{", newer(sound.read_bytes().splitlines()[1]), sound.read_bytes().splitlines()[1])
    aside(tmp_path, b"")
    code, out, err = bench("report", "--results", tmp_path, "--format", "csv")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert [line.startswith("bench: ") for line in err.splitlines()] == [True] * 4
    code, out, err = bench("report", "--results", sound, "--format", "csv")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_what_was_left_out_is_said_also_where_nothing_is_left(tmp_path, sound):
    append(sound, b"{")
    ended, _, complaints = bench("report", "--results", tmp_path, "--backend", "nobody")
    left_out, wrong = complaints.splitlines()
    assert ended == 2
    assert "1 line (5) left out" in left_out
    assert "no results of backend 'nobody'" in wrong


def test_the_command_names_a_source_that_is_not_the_layouts_own():
    words = {"source": "measured", "layout": "paddleclas", "lang": "en"}
    assert report._changed(words) == {"source": "measured", "layout": "paddleclas"}
    assert report._changed({**words, "source": "published"}) == {"layout": "paddleclas"}
    assert report._changed({**words, "layout": "default"}) == {}
