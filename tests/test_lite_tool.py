"""The tool for the phone: found, known to run there before it is pushed, and told all that it is to do."""

import hashlib
import re
import struct
import sys
from pathlib import Path

import pytest

from bench.backends.paddle_lite import tool
from bench.backends.paddle_lite.tool import Asked
from bench.errors import Failed, Unavailable, Unsupported, UsageError

ARM64, ARM, X64, X86 = (2, 183), (1, 40), (2, 62), (1, 3)
LOADER = {1: b"/system/bin/linker\0", 2: b"/system/bin/linker64\0"}
BASE = 0x10000
NB = Path(__file__).parent / "data" / "tiny_x86.nb"


def elf(machine=ARM64, loader=None, needed=(b"libc.so", b"libm.so"), kind=3, mark=b""):
    """A program with no code: header, three program headers, loader's name, strings, dynamic section."""
    bits, number = machine
    wide = bits == 2
    header_size, entry_size = (64, 56) if wide else (52, 32)
    loader = LOADER[bits] if loader is None else loader
    at = header_size + 3 * entry_size
    strings = b"\0" + b"".join(name + b"\0" for name in needed)
    strings_at = at + len(loader)
    dynamic_at = strings_at + len(strings)
    offsets = [1 + sum(len(name) + 1 for name in needed[:index]) for index in range(len(needed))]
    tags = [(1, offset) for offset in offsets] + [(5, BASE + strings_at), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ" if wide else "<II", *tag) for tag in tags)
    size = dynamic_at + len(dynamic)
    segments = [
        (3 if loader else 4, at, len(loader)),
        (2, dynamic_at, len(dynamic)),
        (1, 0, size),
    ]
    ident = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9) + struct.pack("<HHI", kind, number, 1)
    if wide:
        header = ident + struct.pack("<QQQIHHHHHH", 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
        table = [struct.pack("<IIQQQQQQ", t, 0, o, BASE + o, 0, n, n, 1) for t, o, n in segments]
    else:
        header = ident + struct.pack("<IIIIHHHHHH", 0, 52, 0, 0, 52, 32, 3, 0, 0, 0)
        table = [struct.pack("<IIIIIIII", t, o, BASE + o, 0, n, n, 0, 1) for t, o, n in segments]
    return header + b"".join(table) + loader + strings + dynamic + mark


@pytest.fixture
def put(tmp_path):
    def write(name, data):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    return write


@pytest.mark.parametrize(
    ("machine", "abilist", "abi"),
    [
        (ARM64, "arm64-v8a,armeabi-v7a,armeabi", "arm64-v8a"),
        (ARM, "arm64-v8a,armeabi-v7a,armeabi", "armeabi-v7a"),
        (X64, "x86_64,arm64-v8a", "x86_64"),
        (X86, "x86", "x86"),
    ],
)
def test_the_program_itself(put, machine, abilist, abi):
    data = elf(machine)
    file = put("benchmark_bin", data)
    assert tool.find(file, abilist) == tool.Tool(
        path=str(file),
        kind="benchmark_bin",
        abi=abi,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
    )


def test_a_static_program_needs_no_loader(put):
    assert tool.find(put("benchmark_bin", elf(loader=b"", needed=())), "arm64-v8a").libraries == ()


def test_our_runner_is_known_by_what_it_holds(put):
    assert tool.find(put("renamed", elf(mark=tool.MARK)), "arm64-v8a").kind == "bench_lite"


def test_libraries_that_no_phone_has_go_with_it(put):
    file = put("bench_lite", elf(needed=(b"libc.so", b"libpaddle_light_api_shared.so", b"libc++_shared.so")))
    with pytest.raises(
        UsageError, match=r"^bench_lite needs libpaddle_light_api_shared.so, libc\+\+_shared.so; not in"
    ):
        tool.find(file, "arm64-v8a")
    beside = [put(name, b"") for name in ("libpaddle_light_api_shared.so", "libc++_shared.so")]
    assert tool.find(file, "arm64-v8a").libraries == tuple(map(str, beside))


@pytest.mark.parametrize("name", ["stdc++", "EGL", "GLESv3", "OpenSLES", "neuralnetworks", "vulkan", "binder_ndk"])
def test_the_ndks_public_libraries_are_on_every_phone(put, name):
    assert tool.find(put("bench_lite", elf(needed=(f"lib{name}.so".encode(),))), "arm64-v8a").libraries == ()


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (elf(X64), Unavailable, "is for x86_64; the phone runs arm64-v8a, armeabi-v7a; no build of a current version"),
        (elf((2, 243)), Unavailable, "is for ELF machine 243; the phone runs"),
        (
            elf(loader=b"/lib/ld-linux-aarch64.so.1\0"),
            Unavailable,
            "is no build for Android; it asks for /lib/ld-linux-aarch64.so.1, not /system/bin/linker64; no build",
        ),
        (elf(loader=b""), UsageError, "is no program; it is a library or an object file; name the executable"),
        (elf(kind=1), UsageError, "is no program; it is a library"),
        (b"#!/bin/sh\n", UsageError, "is no program of Android; it begins with b'#!/b'; name the executable"),
        (b"", UsageError, "is no program of Android; it begins with b''"),
        (elf()[:5] + b"\2" + elf()[6:], UsageError, "is no program of Android; it is not little-endian"),
        *((elf()[:size], UsageError, "is damaged; its ELF header leads nowhere") for size in (4, 40, 100, 230, 260)),
    ],
)
def test_what_cannot_run_on_the_phone_is_refused_in_a_line(put, data, error, said):
    with pytest.raises(error, match=re.escape(said)) as caught:
        tool.find(put("benchmark_bin", data), "arm64-v8a,armeabi-v7a,armeabi")
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("benchmark_bin") >= 1


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_program_is_refused_or_read_and_nothing_else(put, seed):
    """Whatever byte of it is wrong."""
    import random

    rng, whole = random.Random(seed), elf((ARM64, ARM)[seed % 2])
    refused = 0
    for _ in range(250):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            tool.find(put("benchmark_bin", bytes(data)), "arm64-v8a,armeabi-v7a")
        except (UsageError, Unavailable):
            refused += 1
    assert 0 < refused < 250


@pytest.mark.skipif(sys.platform != "linux", reason="a program of another system is no ELF")
def test_a_program_of_this_machine_is_none_of_android():
    with pytest.raises(Unavailable, match=r"is no build for Android; it asks for /\S+ld-\S+, not /system/bin/linker64"):
        tool.find(Path(sys.executable).resolve(), "arm64-v8a,x86_64")


@pytest.mark.parametrize(
    "place",
    [
        "benchmark_bin",
        "bin/benchmark_bin",
        "inference_lite_lib.android.armv8.clang/bin/benchmark_bin",
        "build.lite.android.armv8.gcc/lite/api/tools/benchmark/benchmark_bin",
        "build.lite.android.armv8.gcc/lite/api/benchmark_bin",
        "lite/api/tools/benchmark/benchmark_bin",
    ],
)
def test_places_in_a_folder_of_paddle_lite(put, tmp_path, place):
    file = put(place, elf())
    assert tool.find(tmp_path, "x86_64,arm64-v8a") == tool.find(file, "arm64-v8a")


def test_of_a_folder_ours_and_the_64_bits_come_first(put, tmp_path):
    put("inference_lite_lib.android.armv7.gcc/bin/benchmark_bin", elf(ARM))
    assert tool.find(tmp_path, "arm64-v8a,armeabi-v7a").abi == "armeabi-v7a"
    put("inference_lite_lib.android.armv8.gcc/bin/benchmark_bin", elf())
    assert tool.find(tmp_path, "arm64-v8a,armeabi-v7a").abi == "arm64-v8a"
    put("bench_lite", elf(mark=tool.MARK))
    assert tool.find(tmp_path, "arm64-v8a,armeabi-v7a").kind == "bench_lite"


def test_two_builds_in_a_folder_are_the_users_choice(put, tmp_path):
    for compiler in ("clang", "gcc"):
        put(f"inference_lite_lib.android.armv8.{compiler}/bin/benchmark_bin", elf())
    with pytest.raises(UsageError, match=r"holds several benchmark tools; \S+clang/bin/benchmark_bin, \S+gcc/bin"):
        tool.find(tmp_path, "arm64-v8a")


def test_a_folder_with_a_tool_for_others_says_so(put, tmp_path):
    put("bin/benchmark_bin", elf(ARM))
    with pytest.raises(Unavailable, match=r"benchmark_bin is for armeabi-v7a; the phone runs arm64-v8a; no build of"):
        tool.find(tmp_path, "arm64-v8a")


def test_without_a_tool_it_says_how_to_build_one(tmp_path):
    build = r"type \./lite/tools/build_android\.sh --arch=armv8 --toolchain=clang --with_benchmark=ON full_publish$"
    with pytest.raises(Unavailable, match=f"^no benchmark_bin or bench_lite; searched .*{build}"):
        tool.find(tmp_path, "arm64-v8a")
    with pytest.raises(Unavailable, match=f"^the benchmark tool is not there; no .*/absent; .*{build}"):
        tool.find(tmp_path / "absent", "arm64-v8a")
    with pytest.raises(Unavailable, match=r"build script makes none for x86_64: name a build of your own$"):
        tool.find(tmp_path, "x86_64")


def test_a_phone_of_another_kind(tmp_path):
    with pytest.raises(Unavailable, match=r"no build for this phone; it runs riscv64"):
        tool.find(tmp_path, "riscv64")


def test_a_tool_that_may_not_be_read(put, monkeypatch):
    def deny(path):
        raise PermissionError(13, "Permission denied", str(path))

    file = put("benchmark_bin", elf())
    monkeypatch.setattr(Path, "read_bytes", deny)  # root may read everything
    with pytest.raises(UsageError, match=r"^cannot read .*; Permission denied; make it readable$"):
        tool.find(file, "arm64-v8a")


def help_of(*flags):
    """As gflags prints it: long descriptions are broken, a flag of another program part stands between."""
    lines = [f'    -{flag} (what it is, {"at length " * 9}) type: string\n      default: ""' for flag in flags]
    return "benchmark_bin: \n\nNote: \n  set --optimized_model_file\n\n  Flags from gflags.cc:\n" + "\n".join(lines)


COMMON = ("input_shape", "warmup", "repeats", "power_mode", "threads", "flagfile")
HELP = {
    "2.13": (*COMMON, "optimized_model_file", "input_data_path", "output_data_path", "result_path", "backend"),
    "2.10": (*COMMON, "optimized_model_file", "input_data_path", "result_path", "backend", "cpu_precision"),
    "2.9": (*COMMON, "optimized_model_path", "input_data_path", "result_path", "params_filename", "use_fp16"),
    "2.6": (*COMMON, "optimized_model_path", "input_img_path", "result_filename", "param_filename"),
}


def a_tool(generation="2.13", kind="benchmark_bin"):
    return tool.Tool("/x", kind, "arm64-v8a", "0" * 64, 1, generation=generation)


@pytest.mark.parametrize("generation", HELP)
def test_the_generation_is_told_by_the_flags(generation):
    found = tool.speaking(a_tool(), help_of(*HELP[generation]))
    assert found == a_tool(generation)
    assert found.dialect.swapped == (generation == "2.6")


def test_flags_of_no_known_version_fail():
    with pytest.raises(
        Failed, match=r"^benchmark_bin has flags of no known version; its help names model, threads; build"
    ):
        tool.speaking(a_tool(), help_of("model", "threads"))
    with pytest.raises(Failed, match=r"its help names none"):
        tool.speaking(a_tool(), "")
    assert tool.speaking(a_tool(kind="bench_lite"), "") == a_tool(kind="bench_lite")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("benchmark_bin version cd09a8e010\n", "cd09a8e010"),
        ("benchmark_bin version v2.13-rc\r\n", "v2.13-rc"),
        ("benchmark_bin\n", ""),  # 2.9 and before set none
        ("benchmark_bin version \n", ""),  # built outside git
        ("bench_lite version 1\n", "1"),
        ("benchmark_bin version v2.13-rc\nDebug build (NDEBUG not #defined)\n", "v2.13-rc"),
        ("benchmark_bin\r\nDebug build (NDEBUG not #defined)\r\n", ""),
    ],
)
def test_versions(text, version):
    assert tool.version(text) == version


@pytest.mark.parametrize(
    "text", ["", "sh: benchmark_bin: not found\n", "benchmark_bin version a b\n", "benchmark_bin version 1\nDebug\n"]
)
def test_a_version_that_is_none_fails(text):
    with pytest.raises(Failed, match=r"^the tool's version is not understood; it printed "):
        tool.version(text)


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("v2.13-rc", "v2.13", False),
        ("v2.13-rc", "v2.12", True),
        ("v2.13", "v3.13", True),
        ("v2.1", "v2.13", True),
        ("v2.13-rc", "cd09a8e010", False),
        ("", "v2.13", False),
    ],
)
def test_tags_are_compared_and_nothing_else(one, other, differ):
    assert tool.versions_differ(one, other) is tool.versions_differ(other, one) is differ


ASKED = Asked(
    "/d/m.nb", (1, 3, 224, 224), threads=2, warmup=10, repeats=30, power_mode=0, backend="arm", result_path="/d/r"
)
SAID = ["--threads=2", "--power_mode=0", "--warmup=10", "--repeats=30"]
LINES = {
    "2.13": ["--optimized_model_file=/d/m.nb", *SAID, "--backend=arm", "--result_path=/d/r"],
    "2.10": ["--optimized_model_file=/d/m.nb", *SAID, "--backend=arm", "--result_path=/d/r"],
    "2.9": ["--optimized_model_path=/d/m.nb", *SAID, "--result_path=/d/r"],
    "2.6": ["--optimized_model_path=/d/m.nb", *SAID, "--result_filename=/d/r"],
}


def with_paths(input_path=None, output_path=None, **others):
    fields = {name: getattr(ASKED, name) for name in ASKED.__struct_fields__}
    return Asked(**{**fields, "input_path": input_path, "output_path": output_path, **others})


@pytest.mark.parametrize("generation", LINES)
def test_the_command_line_of_each_generation(generation):
    line = tool.arguments(a_tool(generation), ASKED)
    assert line == [LINES[generation][0], "--input_shape=1,3,224,224", *LINES[generation][1:]]


def test_input_and_output_files():
    line = tool.arguments(a_tool(), with_paths("/d/i", "/d/o"))
    assert line[-3:] == ["--input_data_path=/d/i", "--output_data_path=/d/o", "--result_path=/d/r"]
    assert "--input_img_path=/d/i" in tool.arguments(a_tool("2.6"), with_paths("/d/i"))


def test_the_command_line_of_our_runner():
    assert tool.arguments(a_tool(kind="bench_lite"), with_paths("/d/i", "/d/o")) == [
        "--model=/d/m.nb",
        "--input-shape=1,3,224,224",
        "--threads=2",
        "--power-mode=0",
        "--warmup=10",
        "--iterations=30",
        "--input=/d/i",
        "--output=/d/o",
    ]


@pytest.mark.parametrize(
    ("generation", "asked", "said"),
    [
        (
            "2.10",
            with_paths(output_path="/d/o"),
            "benchmark_bin of Paddle Lite 2.10 can't write its output; use a newer",
        ),
        ("2.9", with_paths("/d/i"), "benchmark_bin of Paddle Lite 2.9 can't read an input; use a newer build"),
    ],
)
def test_what_a_generation_cannot_do(generation, asked, said):
    with pytest.raises(Unsupported, match=said):
        tool.arguments(a_tool(generation), asked)


@pytest.mark.parametrize(
    "changes",
    [
        {"repeats": 0},  # it would crash
        {"threads": 0},
        {"warmup": -1},
        {"power_mode": 6},
        {"input_shape": ()},
        {"input_shape": (0, 3)},
        {"input_path": "/a:b"},
    ],
)
@pytest.mark.parametrize("kind", ["benchmark_bin", "bench_lite"])
def test_what_would_crash_it_or_mean_something_else_is_refused(kind, changes):
    with pytest.raises(UsageError):
        tool.arguments(a_tool(kind=kind), with_paths(**changes))


def test_every_abi_has_what_a_model_is_converted_for():
    assert tool.TARGETS == {"arm64-v8a": "arm", "armeabi-v7a": "arm", "x86_64": "x86", "x86": "x86"}
    assert tool.TARGETS.keys() == tool.MACHINES.keys()
