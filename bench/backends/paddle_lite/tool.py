"""The program that measures on a phone: Paddle Lite's `benchmark_bin` or our own `bench_lite` (`runner/`).

Finding it, checking that it can run there before it is pushed, and its command line, which differs by generation.
"""

import hashlib
import re
import struct
from pathlib import Path
from typing import Final, Literal

from bench.errors import Failed, Unavailable, Unsupported, UsageError
from bench.schema import Frozen

OURS: Final = "bench_lite"
UPSTREAM: Final = "benchmark_bin"
#: what `bench_lite` holds whatever its file is called
MARK = b"bench_lite, a runner of bench"

#: what gflags adds to a version where it was itself built for debugging, which says nothing of the tool
DEBUG_GFLAGS = r"Debug build \(NDEBUG not #defined\)"
#: ABI of Android → class and machine of an ELF header
MACHINES = {"arm64-v8a": (2, 183), "armeabi-v7a": (1, 40), "x86_64": (2, 62), "x86": (1, 3)}
#: ABI of Android → what a model is converted for
TARGETS = {"arm64-v8a": "arm", "armeabi-v7a": "arm", "x86_64": "x86", "x86": "x86"}
#: ABI of Android → what Paddle Lite's build script calls it, which makes no others
ARCHITECTURES = {"arm64-v8a": "armv8", "armeabi-v7a": "armv7"}
LOADERS = {1: "/system/bin/linker", 2: "/system/bin/linker64"}
#: what Android has for every program: the NDK's public libraries
SYSTEM_LIBRARIES = frozenset(
    f"lib{name}.so"
    for name in (
        *("c", "m", "dl", "log", "z", "android", "stdc++"),
        *("EGL", "GLESv1_CM", "GLESv2", "GLESv3", "vulkan", "nativewindow", "jnigraphics", "sync"),
        *("OpenSLES", "OpenMAXAL", "aaudio", "amidi", "mediandk", "camera2ndk"),
        *("neuralnetworks", "binder_ndk", "nativehelper"),
    )
)

#: where the program lies in a Paddle Lite folder; ours first, since it reports every sample
PLACES = tuple(
    f"{folder}{name}"
    for name in (OURS, UPSTREAM)
    for folder in (
        "",
        "bin/",
        "lite/api/tools/benchmark/",
        "lite/api/",
        "build.lite.android.{arch}*/lite/api/tools/benchmark/",
        "build.lite.android.{arch}*/lite/api/",
        "build.lite.android.{arch}*/inference_lite_lib.android.{arch}*/bin/",
        "inference_lite_lib.android.{arch}*/bin/",
    )
)


class Dialect(Frozen, frozen=True):
    """The names of a generation's flags; "" where it has no such flag. `swapped`: it calls its maximum `min`."""

    since: str
    model: str
    input: str
    output: str
    result: str
    backend: str
    repeats: str = "repeats"
    swapped: bool = False


#: newest first; of each, the flags that tell it from those after it are among its own
DIALECTS = {
    dialect.since: dialect
    for dialect in (
        Dialect("2.13", "optimized_model_file", "input_data_path", "output_data_path", "result_path", "backend"),
        Dialect("2.10", "optimized_model_file", "input_data_path", "", "result_path", "backend"),
        # 2.9.1 takes the n-th character of its input's path for the file of the n-th number
        Dialect("2.9", "optimized_model_path", "", "", "result_path", ""),
        Dialect("2.6", "optimized_model_path", "input_img_path", "", "result_filename", "", swapped=True),
    )
}
RUNNER = Dialect(OURS, "model", "input", "output", "", "", repeats="iterations")


class Tool(Frozen, frozen=True):
    """An executable for one ABI, and the libraries beside it that must be pushed with it.

    `generation` is a key of `DIALECTS`; that of an upstream tool is known once it has printed its help (`speaking`).
    """

    path: str
    kind: Literal["benchmark_bin", "bench_lite"]
    abi: str
    sha256: str
    size_bytes: int
    libraries: tuple[str, ...] = ()
    generation: str = "2.13"

    @property
    def dialect(self) -> Dialect:
        return RUNNER if self.kind == OURS else DIALECTS[self.generation]


class Asked(Frozen, frozen=True):
    """One start of the tool. Paths are the phone's; without `input_path` every element of the input is 1."""

    model: str
    input_shape: tuple[int, ...]
    threads: int
    warmup: int
    repeats: int
    power_mode: int
    backend: str = "arm"
    input_path: str | None = None
    output_path: str | None = None
    result_path: str | None = None

    @property
    def shape(self) -> str:
        """As the tools take it: `1,3,224,224`."""
        return ",".join(map(str, self.input_shape))


class Elf(Frozen, frozen=True):
    """What the header of an executable says: bits as 1 (32) or 2 (64), machine, loader, libraries that it needs."""

    bits: int
    machine: int
    interpreter: str
    needed: tuple[str, ...]


def find(place: Path, abis: str) -> Tool:
    """The tool at `place`, the executable itself or a folder of Paddle Lite, for one of `abis`, joined by commas.

    `abis` is what a phone says in `ro.product.cpu.abilist`. Raises Unavailable where there is none or it can't run on
    such a phone, UsageError where `place` is no such thing. A 64-bit tool is preferred where the phone takes both.
    """
    wanted = [abi for abi in abis.split(",") if abi in MACHINES]
    if not wanted:
        raise Unavailable(
            "Paddle Lite has no build for this phone", f"it runs {abis or 'nothing'}", "use another phone"
        )
    if not place.exists():
        raise Unavailable("the benchmark tool is not there", f"no {place}", _build_it(wanted[0]))
    if not place.is_dir():
        return _tool(place, wanted)
    return _in_folder(place, wanted)


def _in_folder(folder: Path, wanted: list[str]) -> Tool:
    refusals = []
    for abi in wanted:
        for pattern in PLACES:
            matches = folder.glob(pattern.format(arch=ARCHITECTURES.get(abi, abi)))
            found = sorted(path for path in matches if path.is_file())
            if len(found) > 1:
                names = ", ".join(str(path.relative_to(folder)) for path in found)
                raise UsageError(f"{folder} holds several benchmark tools", names, "name one of them")
            try:
                if found:
                    return _tool(found[0], [abi])
            except Unavailable as refusal:
                refusals.append(refusal)
    if refusals:
        raise refusals[0]
    raise Unavailable(f"no {UPSTREAM} or {OURS}", f"searched {folder}", _build_it(wanted[0]))


def _build_it(abi: str) -> str:
    if abi not in ARCHITECTURES:
        return f"Paddle Lite's build script makes none for {abi}: name a build of your own"
    return (
        "no build of a current version is offered anywhere: in Paddle Lite's sources type "
        f"./lite/tools/build_android.sh --arch={ARCHITECTURES[abi]} --toolchain=clang --with_benchmark=ON full_publish"
    )


def _tool(path: Path, abis: list[str]) -> Tool:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}", error.strerror or str(error), "make it readable") from error
    elf = read_elf(data, path)
    machine = (elf.bits, elf.machine)
    abi = next((abi for abi in abis if MACHINES[abi] == machine), None)
    if abi is None:
        made_for = next((abi for abi, known in MACHINES.items() if known == machine), f"ELF machine {elf.machine}")
        raise Unavailable(f"{path.name} is for {made_for}", f"the phone runs {', '.join(abis)}", _build_it(abis[0]))
    if elf.interpreter not in ("", LOADERS[elf.bits]):
        found = f"it asks for {elf.interpreter}, not {LOADERS[elf.bits]}"
        raise Unavailable(f"{path.name} is no build for Android", found, _build_it(abi))
    return Tool(
        path=str(path),
        kind=OURS if MARK in data else UPSTREAM,
        abi=abi,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        libraries=_libraries(path, elf),
    )


def _libraries(path: Path, elf: Elf) -> tuple[str, ...]:
    """Those of the needed libraries that a phone has not. Raises UsageError where one isn't beside the program."""
    own = [path.parent / name for name in elf.needed if name not in SYSTEM_LIBRARIES]
    if absent := [library.name for library in own if not library.is_file()]:
        raise UsageError(
            f"{path.name} needs {', '.join(absent)}", f"not in {path.parent}", "copy it beside the program"
        )
    return tuple(map(str, own))


def read_elf(data: bytes, path: Path) -> Elf:
    """The header of a program (System V ABI, chapters 4 and 5). Raises UsageError for anything else."""
    if data[:4] != b"\x7fELF":
        raise UsageError(f"{path} is no program of Android", f"it begins with {data[:4]!r}", "name the executable")
    try:
        return _elf(data, path)
    except (struct.error, IndexError, OverflowError, ValueError) as error:
        raise UsageError(f"{path} is damaged", "its ELF header leads nowhere", "copy or build it again") from error


def _elf(data: bytes, path: Path) -> Elf:
    bits, order = data[4], data[5]
    if bits not in LOADERS or order != 1:
        raise UsageError(f"{path} is no program of Android", "it is not little-endian", "name the executable")
    kind, machine = struct.unpack_from("<HH", data, 16)
    segments = _segments(data, bits)
    interpreter = next((_text(data, offset) for type_, offset, _, _ in segments if type_ == 3), "")
    needed = _needed(data, bits, segments)
    if kind not in (2, 3) or (needed and not interpreter):
        raise UsageError(f"{path} is no program", "it is a library or an object file", "name the executable")
    return Elf(bits, machine, interpreter, needed)


def _segments(data: bytes, bits: int) -> list[tuple[int, int, int, int]]:
    """Of each program header: type, offset in the file, address, size in the file."""
    start, size, count = (
        (*struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54))
        if bits == 2
        else (*struct.unpack_from("<I", data, 28), *struct.unpack_from("<HH", data, 42))
    )
    layout = "<I4xQQ8xQ" if bits == 2 else "<III4xI"
    return [struct.unpack_from(layout, data, start + index * size) for index in range(count)]


def _needed(data: bytes, bits: int, segments: list[tuple[int, int, int, int]]) -> tuple[str, ...]:
    """The names in the dynamic section: tag 1 is a needed library, tag 5 the address of the string table."""
    layout = "<QQ" if bits == 2 else "<II"
    step = struct.calcsize(layout)
    entries = [
        struct.unpack_from(layout, data, at)
        for type_, offset, _, size in segments
        if type_ == 2
        for at in range(offset, offset + size, step)
    ]
    tables = [value for tag, value in entries if tag == 5]
    names = [value for tag, value in entries if tag == 1]
    return tuple(_text(data, _offset(tables[0], segments) + name) for name in names)


def _offset(address: int, segments: list[tuple[int, int, int, int]]) -> int:
    """Where in the file the loadable segment that holds `address` has it."""
    for type_, offset, start, size in segments:
        if type_ == 1 and start <= address < start + size:
            return offset + address - start
    raise ValueError(address)


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode("ascii")


def speaking(tool: Tool, help_text: str) -> Tool:
    """The same, with the generation that its `--help` shows. Raises Failed for flags of none that is known."""
    if tool.kind == OURS:
        return tool
    flags = set(re.findall(r"^ +-(\w+) \(", help_text, re.MULTILINE))
    for dialect in DIALECTS.values():
        used = {dialect.model, dialect.input, dialect.output, dialect.result, dialect.backend} - {""}
        if used | {"threads", "warmup", "repeats", "power_mode", "input_shape"} <= flags:
            fields = {field: getattr(tool, field) for field in tool.__struct_fields__}
            return Tool(**{**fields, "generation": dialect.since})
    found = f"its help names {', '.join(sorted(flags)) or 'none'}"
    raise Failed(f"{UPSTREAM} has flags of no known version", found, "build a newer one", log=help_text)


def version(text: str) -> str:
    """What `--version` printed of it: a tag, a commit, or "" of a build outside git. Raises Failed for another text."""
    found = re.fullmatch(rf"(\S+)(?: version (\S*))? *(?:\r?\n{DEBUG_GFLAGS})?\s*", text)
    if found is None:
        raise Failed("the tool's version is not understood", f"it printed {text.strip()[:80]!r}", log=text)
    return found[2] or ""


def versions_differ(one: str, other: str) -> bool:
    """Whether two tags, such as v2.13-rc, differ in major or minor number; what is no tag can't be compared."""
    numbers = [re.match(r"v?(\d+)\.(\d+)", version) for version in (one, other)]
    first, second = (found and tuple(map(int, found.groups())) for found in numbers)
    return bool(first and second and first != second)


def arguments(tool: Tool, asked: Asked) -> list[str]:
    """What follows the program on its command line; all that matters is said, nothing left to a default.

    Raises Unsupported for what the tool's generation can't do, UsageError for counts that it would crash on.
    """
    _refuse(tool, asked)
    dialect = tool.dialect
    flags = {
        dialect.model: asked.model,
        "input-shape" if tool.kind == OURS else "input_shape": asked.shape,
        "threads": asked.threads,
        "power-mode" if tool.kind == OURS else "power_mode": asked.power_mode,
        "warmup": asked.warmup,
        dialect.repeats: asked.repeats,
        dialect.backend: asked.backend,
        dialect.input: asked.input_path,
        dialect.output: asked.output_path,
        dialect.result: asked.result_path,
    }
    return [f"--{flag}={value}" for flag, value in flags.items() if flag and value is not None]


def _refuse(tool: Tool, asked: Asked) -> None:
    if asked.repeats < 1 or asked.threads < 1 or asked.warmup < 0 or asked.power_mode not in range(6):
        found = f"{asked.repeats} repeats, {asked.threads} threads, {asked.warmup} warm-ups, mode {asked.power_mode}"
        raise UsageError(
            f"{tool.kind} can't run that", found, "ask for one thread and one repeat at least, mode 0 to 5"
        )
    if not asked.input_shape or min(asked.input_shape) < 1:
        raise UsageError(f"{tool.kind} needs every dimension", f"found {asked.shape or 'none'}", "give --input-shape")
    for what, flag, path in (
        ("read an input", tool.dialect.input, asked.input_path),
        ("write its output", tool.dialect.output, asked.output_path),
    ):
        if path is not None and not flag:
            raise Unsupported(f"{UPSTREAM} of Paddle Lite {tool.generation} can't {what}", "use a newer build")
        if path is not None and ":" in path:
            raise UsageError(f"{tool.kind} splits paths at colons", f"found {path!r}", "name a folder without one")
