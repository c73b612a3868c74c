"""What the phone's tools print is read whole and exactly, or refused; nothing in between."""

import os
import random
import re
import zlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lite_tool_main
import pytest

from bench.backends.paddle_lite import report
from bench.backends.paddle_lite.tool import Asked
from bench.errors import Failed

RECORDED = Path(__file__).parent / "data" / "lite-output"
MS = 1_000_000
# model, threads, warm-ups, repeats, then init, first, min, max and avg in nanoseconds
FIGURES = {
    "mobilenet_v1_threads1": (1, 1, 3, 79_690_000, 5098_758_000, 4312_819_000, 4613_824_000, 4474_696_000),
    "mobilenet_v1_threads2": (2, 1, 3, 83_369_000, 2514_069_000, 2386_206_000, 2703_774_000, 2531_170_000),
    "mobilenet_v1_threads4": (4, 1, 3, 56_860_000, 2725_334_000, 2608_944_000, 2724_317_000, 2668_680_000),
    "mobilenet_v2_threads1": (1, 1, 3, 75_084_000, 3500_892_000, 2275_271_000, 2880_436_000, 2515_705_000),
    "mobilenet_v2_threads2": (2, 1, 3, 82_288_000, 1778_619_000, 1635_056_000, 1747_120_000, 1705_637_000),
    "mobilenet_v2_threads4": (4, 1, 3, 75_388_000, 1673_504_000, 1417_129_000, 1765_192_000, 1585_147_000),
    "mobilenet_v3_small_threads1": (1, 1, 3, 70_678_000, 502_084_000, 458_843_000, 574_848_000, 505_984_000),
    "mobilenet_v3_small_threads2": (2, 1, 3, 78_952_000, 338_619_000, 280_272_000, 362_743_000, 333_105_000),
    "mobilenet_v3_small_threads4": (4, 1, 3, 88_978_000, 408_935_000, 292_570_000, 333_331_000, 307_255_000),
    "combined_model": (2, 1, 2, 99_632_000, 426_768_000, 345_803_000, 369_271_000, 357_537_000),
    "memory_profile": (1, 1, 2, 111_891_000, 737_168_000, 690_826_000, 696_626_000, 693_726_000),
    "profile_stdout": (1, 2, 12, 191_819_000, 806_033_000, 425_583_000, 783_222_000, 618_418_000),
}
# mean and standard deviation of the output, by the model's file
OUTPUTS = {
    "/data/local/tmp/plbench/mobilenet_v1_arm.nb": (0.0147419, 0.50176),
    "/data/local/tmp/plbench/mobilenet_v2_arm.nb": (-0.00406309, 0.608502),
    "/data/local/tmp/plbench/mobilenet_v3_small_arm.nb": (-0.00838707, 0.0928007),
    "./opt.nb": (-0.00838707, 0.0928007),
    "MobileNetV3_small.nb": (-0.00838707, 0.0928007),
    "nb/mobilenet_v3_small_arm.nb": (-0.00838707, 0.0928007),
}
PHONE = """
======= Device Info =======
Brand: Xiaomi
Device: cepheus
Model: MI 9
Android Version: 10
Android API Level: 29
"""


def recorded(name):
    return (RECORDED / f"{name}.txt").read_text()


def of_2_13(name="mobilenet_v2_threads4"):
    return recorded(f"2.13_{name}")


def result_file_of(stdout):
    """As upstream writes it: the same report without the newline that standard output has more."""
    return stdout[:-1]


def summed(figures):
    return (
        figures.threads,
        figures.warmup,
        figures.repeats,
        figures.init_ns,
        figures.first_ns,
        figures.min_ns,
        figures.max_ns,
        figures.avg_ns,
    )


@pytest.mark.parametrize("name", FIGURES)
def test_every_recorded_report_gives_the_figures_that_it_shows(name):
    read = report.parse(of_2_13(name))
    assert summed(read) == FIGURES[name]
    assert (read.version, read.power_mode, read.backend, read.precision) == ("cd09a8e010", 0, "arm", "fp32")
    assert (read.input_shape, read.input_data) == ("1,3,224,224", "All 1.f")
    assert [(output.shape, output.elements) for output in read.outputs] == [((1, 1000), 1000)]
    assert (read.outputs[0].mean, read.outputs[0].deviation) == OUTPUTS[read.model]


def test_memory_is_read_where_it_was_watched():
    assert report.parse(of_2_13("memory_profile")).memory == report.Memory(31926 * 2**20 // 1000, 54168 * 2**20 // 1000)
    assert report.parse(of_2_13()).memory is None


def test_the_stand_in_says_what_its_phone_is(tmp_path, monkeypatch):
    """As builds for Android do, so that runs on the loopback phone parse it."""
    getprop = tmp_path / "getprop"
    getprop.write_text("#!/bin/sh\necho the value of $1\n")
    getprop.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    given = lite_tool_main.FLAGS | {"optimized_model_file": "/d/m.nb", "input_shape": "1,2", "backend": "x86"}
    output = SimpleNamespace(shape=(1, 2), size=2, mean=lambda: 1.5, std=lambda: 0.5)
    printed = lite_tool_main.report(given, output, 3.0, [1.5]) + "\n"
    assert report.parse(printed).phone == {name: f"the value of {key}" for name, key in lite_tool_main.PHONE.items()}


def test_2_11_says_that_it_cannot_watch_memory():
    section = "\nMemory Usage(unit: kB):\ninit  = Not supported yet\navg   = Not supported yet\n\n"
    assert report.parse(of_2_13()[:-1] + section).memory is None


def test_a_phone_says_what_it_is():
    read = report.parse(PHONE + of_2_13())
    assert read.phone == {
        "Brand": "Xiaomi",
        "Device": "cepheus",
        "Model": "MI 9",
        "Android Version": "10",
        "Android API Level": "29",
    }
    assert summed(read) == FIGURES["mobilenet_v2_threads4"]


def test_several_outputs_are_told_apart():
    second = """output tensor num: 2
--- output tensor 0 ---
output shape(NCHW): 1 2 3\x20
output tensor 0 elem num: 6
output tensor 0 mean value: 1e-05
output tensor 0 standard deviation: 0
--- output tensor 1 ---"""
    text = of_2_13().replace("output tensor num: 1\n--- output tensor 0 ---", second)
    text = re.sub("output tensor 0 (.*(?:1000|0.00406309|0.608502))", r"output tensor 1 \1", text)
    assert [(output.shape, output.mean) for output in report.parse(text).outputs] == [
        ((1, 2, 3), 1e-05),
        ((1, 1000), -0.00406309),
    ]


def test_a_terminal_between_adds_carriage_returns_that_do_not_matter():
    text = of_2_13()
    assert report.parse(text.replace("\n", "\r\n"), result_file_of(text)) == report.parse(text)


@pytest.mark.parametrize("name", ["2.13_errors", "2.13_missing_flags", "2.9_log", "2.6.1_result_file"])
def test_what_is_no_report_fails(name):
    with pytest.raises(Failed, match=r"^benchmark_bin's output is not understood; there is no report, it printed "):
        report.parse(recorded(name))


def test_a_profile_build_is_recognised():
    with pytest.raises(Failed, match=r"^this is a profile build; its times are not those of the plain tool; "):
        report.parse(of_2_13("profile_stdout"), stderr=recorded("2.13_profile_stderr"))
    with pytest.raises(Failed, match="profile build"):
        report.parse(recorded("2.13_profile_stderr") + of_2_13("profile_stdout"))


@pytest.mark.parametrize(
    ("was", "is_", "said"),
    [
        (
            "avg   = 1585.147",
            "avg   = 1785.147",
            "min 1417129000, avg 1785147000, max 1765192000 ns can't be of 3 runs",
        ),
        ("avg   = 1585.147", "avg   = 1420.147", "can't be of 3 runs"),  # one of three took 1765
        ("min   = 1417.129", "min   = 1917.129", "can't be of 3 runs"),
        ("min   = 1417.129    ", "min   = 0.000       ", "can't be of 3 runs"),
        ("min   = 1417.129    ", "min   = nan         ", "line 29 is 'min   = nan         ', where 'min   = ' is due"),
        ("max   = 1765.192    ", "max   = inf         ", "line 30 is 'max   = inf         '"),
        ("init  = 75.388      ", "init  = -75.388     ", "line 27 is 'init  = -75.388     '"),
        ("max   = 1765.192    ", "max   = 765.192    ", "not as wide as it is printed"),
        ("elem num: 1000", "elem num: 100", r"output 0 has 100 elements in \[1, 1000\]"),
        ("mean value: -0.00406309", "mean value: nan", "line 10 is 'output tensor 0 mean value: nan'"),
        ("deviation: 0.608502", "deviation: -0.608502", "output 0 has"),
        ("threads: 4\n", "", "line 15 is 'power_mode: 0', where 'threads: ' is due"),
        ("threads: 4\n", "threads: 4\nthreads: 4\n", "line 16 is 'threads: 4'"),
        (
            "threads: 4\npower_mode: 0\n",
            "power_mode: 0\nthreads: 4\n",
            "line 15 is 'power_mode: 0', where 'threads: ' is due",
        ),
        ("threads: 4", "threads: ٤", "line 15 is"),  # a digit, to Unicode
        ("backend: arm", "backend: opencl,arm", "line 22 is 'backend: opencl,arm', where 'backend: ' is due"),
        ("avg   = 1585.147    \n", "avg   = 1585.147    \nmore\n", "line 32 is 'more'"),
    ],
)
def test_a_report_that_cannot_be_fails_and_says_where(was, is_, said):
    assert was in of_2_13()
    with pytest.raises(Failed, match=f"^benchmark_bin's output is not understood; .*{said}") as caught:
        report.parse(of_2_13().replace(was, is_))
    assert "\n" not in str(caught.value)


def test_without_a_warmup_the_first_run_is_one_of_those_counted():
    text = of_2_13().replace("warmup: 1", "warmup: 0")
    assert report.parse(text).warmup == 0  # 1673 ms lie between 1417 and 1765
    with pytest.raises(Failed, match="the first of the counted runs took 2673504000 ns"):
        report.parse(text.replace("first = 1673.504", "first = 2673.504"))


def test_a_sum_in_float32_may_put_the_mean_of_equal_runs_beside_them():
    text = re.sub("(min   |max   )= .{12}", r"\1= 1585.146    ", of_2_13().replace("repeats: 3", "repeats: 1"))
    assert report.parse(text).avg_ns - report.parse(text).max_ns == 1000


def test_two_copies_that_differ_fail():
    text = of_2_13()
    assert report.parse(text, result_file_of(text)) == report.parse(text)
    with pytest.raises(Failed, match="what it printed and its result file differ"):
        report.parse(text, result_file_of(text).replace("first = 1673.504", "first = 1673.505"))
    with pytest.raises(Failed, match="there is no report, it printed 'nothing'"):
        report.parse(text, "")


# A disturbance of a text: what links, buffers, other programs and bad luck do to it.
def cut(text, rng):
    return text[: rng.randrange(len(text))]


def lose_a_line(text, rng):
    lines = text.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return "".join(lines)


def repeat_a_line(text, rng):
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return "".join([*lines[:at], lines[at], *lines[at:]])


def swap_lines(text, rng):
    lines = text.splitlines(keepends=True)
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return "".join(lines)


def flip_a_character(text, rng):
    at = rng.randrange(len(text))
    return text[:at] + chr(rng.randrange(32, 127)) + text[at + 1 :]


def flip_a_digit(text, rng):
    at = rng.choice([index for index, char in enumerate(text) if char.isdigit()] or [0])
    return text[:at] + rng.choice("0123456789") + text[at + 1 :]


def insert_noise(text, rng):
    noise = ["\n", "WARNING: linker: unsupported flags\n", "cpu usage ratio: 0.0%\n", "avg   = 1.000       \n", "\0"]
    at = rng.choice([0, 0, *(match.end() for match in re.finditer("\n", text))])
    return text[:at] + rng.choice(noise) + text[at:]


def merge_with_another(text, rng):
    at = rng.randrange(len(text))
    return rng.choice([text + text, text[:at] + text + text[at:], text[:at] + text])


def change_line_ends(text, rng):
    if rng.random() < 0.5:
        return text.replace("\n", "\r\n")
    lines = text.split("\n")
    return "".join(line + rng.choice(["\n", "\r\n"]) for line in lines[:-1])


STRUCTURAL = [cut, lose_a_line, repeat_a_line, swap_lines, insert_noise, merge_with_another, change_line_ends]
ALL = [*STRUCTURAL, flip_a_character, flip_a_digit]


def read_mutants(originals, disturbances, count=1000):
    """How many of `count` disturbed texts gave exactly what the originals do, and how many Failed; no more may happen.

    `originals` are pairs of a text and how it is read.
    """
    rng = random.Random(20240229)
    good = refused = 0
    for _ in range(count):
        text, read = rng.choice(originals)
        mutant = text
        for _ in range(rng.choice([1, 1, 2, 3])):
            mutant = rng.choice(disturbances)(mutant, rng) if mutant else mutant
        try:
            found = read(mutant)
        except Failed:
            refused += 1
        else:
            assert found == read(text), mutant
            good += 1
    return good, refused


REPORTS = [of_2_13(name) for name in FIGURES]


def test_of_a_thousand_disturbed_reports_none_gives_wrong_figures():
    originals = [(text, partial(report.parse, result_file=result_file_of(text))) for text in REPORTS]
    assert read_mutants(originals, ALL) == (51, 949)


def test_of_a_thousand_disturbed_result_files_none_gives_wrong_figures():
    originals = [(result_file_of(text), partial(report.parse, text)) for text in REPORTS]
    assert read_mutants(originals, ALL) == (50, 950)


def test_reports_alone_are_safe_from_all_but_changed_digits():
    assert read_mutants([(text, report.parse) for text in REPORTS], STRUCTURAL) == (70, 930)


# min, max, avg
ROWS = {
    "2.6.1_result_file": [
        (408_304_990, 723_810_970, 550_943_970, 1, 10, 30),
        (337_614_990, 397_808_990, 375_137_850, 2, 10, 30),
        (218_639_010, 377_074_010, 308_764_920, 4, 10, 30),
    ],
    "2.8_result_file": [
        (299_437_990, 344_290_010, 327_381_680, None, None, None),
        (211_565_000, 356_405_000, 273_420_320, None, None, None),
    ],
    "2.9_result_file": [
        (289_789_000, 349_571_010, 311_213_350, None, None, None),
        (658_494_020, 880_281_980, 767_596_680, None, None, None),
    ],
}


@pytest.mark.parametrize("name", ROWS)
def test_result_files_of_older_generations(name):
    rows = report.parse_result_file(recorded(name), swapped=name != "2.9_result_file")
    assert [(r.min_ns, r.max_ns, r.avg_ns, r.threads, r.warmup, r.repeats) for r in rows] == ROWS[name]
    assert {row.name for row in rows} == {"MobileNetV3_small"}


@pytest.mark.parametrize("name", ROWS)
def test_minimum_and_maximum_are_not_mistaken_for_each_other(name):
    with pytest.raises(Failed, match="can't be of"):
        report.parse_result_file(recorded(name), swapped=name == "2.9_result_file")


def test_a_name_of_thirty_characters_touches_the_minimum():
    line = recorded("2.8_result_file").splitlines()[0].replace("MobileNetV3_small             ", "M" * 30) + "\n"
    assert report.parse_result_file(line, swapped=True)[0].name == "M" * 30


def test_2_9_is_read_from_its_log_and_its_result_file():
    row = recorded("2.9_result_file").splitlines(keepends=True)[1]
    read = report.parse_older(row, swapped=False, log=recorded("2.9_log"))
    assert (read.threads, read.power_mode, read.warmup, read.repeats) == (2, 3, 10, 3)
    assert (read.min_ns, read.avg_ns, read.max_ns) == (658_494_020, 767_596_680, 880_281_980)
    assert (read.model, read.input_shape, read.init_ns) == ("./MobileNetV3_small.nb", "1,3,224,224", None)
    of_2_9_1 = recorded("2.9_log").replace("input_shape: 1,3,224,224", "input_shape: 1,3,224,224;1,2;")
    assert report.parse_older(row, swapped=False, log=of_2_9_1).input_shape == "1,3,224,224:1,2"


@pytest.mark.parametrize(
    ("rows", "log", "said"),
    [
        (slice(0, 1), "2.9_log", "the log says MobileNetV3_small, 767.597 ms, the result file MobileNetV3_small, 3112"),
        (slice(0, 2), "2.9_log", "the result file has 2 lines, one run makes one"),
        (slice(1, 2), "2.8_result_file", "line 1 is 'MobileNetV3"),
        (slice(0, 0), "2.9_log", "the result file is empty"),
    ],
)
def test_2_9_fails_where_its_two_accounts_differ(rows, log, said):
    text = "".join(recorded("2.9_result_file").splitlines(keepends=True)[rows])
    with pytest.raises(Failed, match=said):
        report.parse_older(text, swapped=False, log=recorded(log))


def test_up_to_2_8_only_the_line_is_known():
    read = report.parse_older(recorded("2.8_result_file").splitlines(keepends=True)[0], swapped=True)
    assert (read.name, read.avg_ns, read.threads, read.model) == ("MobileNetV3_small", 327_381_680, None, None)
    report.check(read, asked(model="/data/local/tmp/MobileNetV3_small.nb", threads=4))


def asked(**changes):
    facts = {
        "model": "/data/local/tmp/plbench/mobilenet_v2_arm.nb",
        "input_shape": (1, 3, 224, 224),
        "threads": 4,
        "warmup": 1,
        "repeats": 3,
        "power_mode": 0,
        "result_path": "/data/local/tmp/plbench/result_mobilenet_v2_4.txt",
    }
    return Asked(**{**facts, **changes})


def test_what_was_asked_is_what_ran():
    report.check(report.parse(of_2_13()), asked())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 2}, "threads 4, not 2"),
        ({"warmup": 2}, "warm-ups 1, not 2"),
        ({"repeats": 30}, "repeats 3, not 30"),
        ({"power_mode": 3}, "power mode 0, not 3"),
        ({"backend": "x86"}, "backend arm, not x86"),
        ({"input_shape": (1, 3, 192, 192)}, "input shape 1,3,224,224, not 1,3,192,192"),
        ({"input_path": "/x.txt"}, "input All 1.f, not /x.txt"),
        ({"result_path": None}, "result file /data/local/tmp/plbench/result_mobilenet_v2_4.txt, not $"),
        ({"model": "/data/mobilenet_v2_arm.nb"}, "model /data/local/tmp/plbench/mobilenet_v2_arm.nb, not /data/mob"),
    ],
)
def test_what_was_not_asked_fails(change, said):
    with pytest.raises(Failed, match=f"^benchmark_bin ran something else than it was asked to; {said}"):
        report.check(report.parse(of_2_13()), asked(**change))


LINE = (
    '{"bench_lite":1,"lite_version":"v2.13-rc","model":"m.nb","input_shape":"1,3,32,32","threads":2,"power_mode":3,'
    '"warmup":2,"iterations":4,"load_ns":151080,"first_ns":1059070,"warmup_ns":[1053840,1053580],'
    '"samples_ns":[1053260,1053480,1053230,1052980],"ticks_per_s":100,"tasks":[{"id":23770,"cpu":1,"allowed":"0-1",'
    '"ticks":3}],"outputs":[{"shape":[1,3],"elements":3,"mean":24,"deviation":9.79795897}]'
)


def signed(line):
    return f'{line},"crc32":"{zlib.crc32(line.encode()):08x}"}}\n'


def test_the_line_of_our_runner():
    run = report.parse_samples(signed(LINE))
    assert run.samples_ns == (1053260, 1053480, 1053230, 1052980)
    assert (run.load_ns, run.first_ns, run.warmup_ns) == (151080, 1059070, (1053840, 1053580))
    assert run.tasks == (report.Task(id=23770, cpu=1, allowed="0-1", ticks=3),)
    assert run.outputs == (report.Statistics((1, 3), 3, 24.0, 9.79795897),)
    assert report.parse_samples(signed(LINE).replace("\n", "\r\n")) == run
    line = asked(model="m.nb", input_shape=(1, 3, 32, 32), threads=2, warmup=2, repeats=4, power_mode=3)
    report.check_samples(run, line)
    with pytest.raises(Failed, match=r"^bench_lite ran something else than it was asked to; samples 4, not 5$"):
        report.check_samples(run, Asked(**{**{f: getattr(line, f) for f in line.__struct_fields__}, "repeats": 5}))


@pytest.mark.parametrize(
    ("was", "is_", "said"),
    [
        ('"bench_lite":1', '"bench_lite":2', "its schema is 2, 1 is known"),
        (",1052980", "", "3 samples of 4"),
        ("1053840,", "", "1 warm-ups of 2"),
        ("1052980", "0", "a time is not positive"),
        ("1052980", "-1", "a time is not positive"),
        ("1052980", "1.5", "Expected `int`"),
        ('"mean":24', '"mean":null', "an output is not finite"),
        ('"elements":3', '"elements":4', "an output's elements are not its shape's"),
        ('"ticks":3', '"ticks":3,"more":1', "unknown field `more`"),
        (',"threads":2', "", "missing required field `threads`"),
        ('[{"id":23770,"cpu":1,"allowed":"0-1","ticks":3}]', "[]", "no thread or no output"),
    ],
)
def test_a_line_that_cannot_be_fails_even_with_its_checksum(was, is_, said):
    assert was in LINE
    with pytest.raises(Failed, match=f"^bench_lite's output is not understood; .*{said}"):
        report.parse_samples(signed(LINE.replace(was, is_)))


def test_of_a_thousand_disturbed_lines_none_gives_wrong_figures():
    assert read_mutants([(signed(LINE), report.parse_samples)], ALL) == (142, 858)
