"""Whether a runtime can work on a GPU, told from versions alone; and what to install if it can't."""

import re
from collections.abc import Iterator, Mapping

from bench.catalog import HardwareProfile
from bench.gpu.matrix import (
    DRIVERS,
    FAMILIES,
    MAIN,
    MATRIX,
    PAIRINGS,
    PYTHONS,
    RECIPES,
    VOLTA,
    WITH_TENSORRT,
    WORDS,
    Component,
    Family,
    Pairing,
    Runtime,
    Support,
)
from bench.gpu.selection import Capability, Gpu, disable_mig, mig_reason

Target = Gpu | HardwareProfile
Number = tuple[int, ...]


def number(version: str) -> Number:
    """ "10.14.1.48.post1" → (10, 14, 1, 48): the leading numbers of a version."""
    parts: list[int] = []
    for part in version.split("+")[0].split("."):
        if not part.isdecimal():
            break
        parts.append(int(part))
    return tuple(parts)


def covers(first: str, last: str, version: str) -> bool:
    """Whether `version` is between the two, both included; "10.4" includes all of 10.4.x, "" is open."""
    asked, least, most = number(version), number(first), number(last)
    longest = max(len(asked), len(least))
    padded = asked + (0,) * (longest - len(asked))
    return bool(asked) and padded >= least and (not most or asked[: len(most)] <= most)


def row(component: Component, version: str) -> Support | None:
    """What is on record of this release; None where nothing is."""
    return next((row for row in MATRIX if row.component == component and covers(row.first, row.last, version)), None)


def runs(component: Component, version: str, capability: Capability) -> bool | None:
    """Whether this release has code for GPUs of this compute capability; None where nobody knows."""
    found = row(component, version)
    return None if found is None else _supports(found, capability)


def _supports(row: Support, capability: Capability) -> bool:
    return row.least <= capability and (row.most is None or capability <= row.most)


def capability_of(target: Target) -> Capability | None:
    if isinstance(target, Gpu):
        return target.capability
    major, _, minor = target.capability.partition(".")
    return (int(major), int(minor)) if minor else None


def obstacle(target: Target, runtime: Runtime, versions: Mapping[str, str]) -> str:
    """Why `runtime` can't work on `target` with these versions, in one line that says what to install; "" if it can.

    `versions` maps what is there to its version: distributions by name (`tensorrt-cu12`, `onnxruntime-gpu`,
    `paddlepaddle-gpu`, `nvidia-cudnn-cu12`), and `cuda`, `cudnn`, `tensorrt`, `python` and `driver` where they
    are known otherwise. What is missing in it is not judged.
    """
    stack = Stack(target, runtime, versions)
    checks = (_sliced, _built_for_another_gpu, _too_old_gpu, _unpaired, _no_wheel, _old_driver, _new_bindings)
    return next((line for check in checks for line in check(stack)), "")


def absent(target: Target, runtime: Runtime, versions: Mapping[str, str]) -> str:
    """What is to be installed, where no build of `runtime` that serves GPUs is among `versions`; "" where one is."""
    stack = Stack(target, runtime, versions)
    return "" if stack.version(stack.main) else WORDS[stack.main]


def recipe(target: Target, runtime: Runtime) -> tuple[str, ...]:
    """Commands to type in a clone, in order; lines with a # are to be read. Empty for unknown and older GPUs."""
    found = family(capability_of(target))
    return RECIPES[found][runtime] if found else ()


def family(capability: Capability | None) -> Family | None:
    return next((name for least, name in FAMILIES if capability is not None and capability >= least), None)


class Stack:
    """What there is of a runtime, by component, and what its release was linked against."""

    def __init__(self, target: Target, runtime: Runtime, versions: Mapping[str, str]) -> None:
        self.target, self.runtime = target, runtime
        self.name = target.name if isinstance(target, Gpu) else target.label
        self.capability = capability_of(target)
        self._versions = {name.lower().replace("_", "-"): version for name, version in versions.items() if version}
        self.main = MAIN[runtime]
        self.with_tensorrt = runtime in WITH_TENSORRT
        self.python, self.driver = self._versions.get("python", ""), self._versions.get("driver", "")
        self.bindings = self._versions.get("cuda-bindings", "") if self.main == "tensorrt" else ""
        known = self.cuda = self._versions.get("cuda") or self._cuda_of_tensorrt()
        self.pairings = _pairings(self.main, self.version(self.main))
        if len(self.pairings) > 1 and not known:
            known = self.cuda = self._cuda_of_libraries()
        fitting = [row for row in self.pairings if not known or _agree(row.cuda, known)]
        fitting.sort(key=lambda row: row.cuda != known)
        # Paddle 3 exists for several CUDAs; until it is known which, none of its pairings can be held against it.
        self.pairing = fitting[0] if fitting and (known or len(fitting) == 1) else None
        self.cuda = known or (self.pairing.cuda if self.pairing else "")

    def version(self, component: Component) -> str:
        """The version found, or ""."""
        return next((self._versions[name] for name in self._names(component) if name in self._versions), "")

    def _names(self, component: Component) -> tuple[str, ...]:
        if component == "tensorrt":
            variants = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
            return (*variants, *(f"{each}-bindings" for each in variants))
        if component == "cudnn":
            return ("cudnn", f"nvidia-cudnn-cu{_major(self.cuda)}")
        return (WORDS[component].lower(),)

    def _cuda_of_tensorrt(self) -> str:
        """The CUDA of a TensorRT package, where its name says it."""
        if self.main != "tensorrt":
            return ""
        names = [name for name in self._names("tensorrt") if name in self._versions and "-cu" in name]
        return names[0].split("-cu")[1].split("-")[0] if names else ""

    def _cuda_of_libraries(self) -> str:
        """The CUDA of the runtime's library, where one package of it is installed; its major is what names tell."""
        names = [name for name in self._versions if re.fullmatch(r"nvidia-cuda-runtime-cu\d+", name)]
        return names[0].rpartition("cu")[2] if len(names) == 1 else ""

    def components(self) -> Iterator[tuple[Component, str]]:
        """What takes part, with its version; TensorRT needs no cuDNN from release 10 on."""
        wanted: list[Component] = [self.main]
        if self.with_tensorrt:
            wanted.append("tensorrt")
        if self.main != "tensorrt":
            wanted.append("cudnn")
        yield from ((component, version) for component in wanted if (version := self.version(component)))
        if self.cuda:
            yield "cuda", self.cuda
        if self.driver:
            yield "driver", self.driver


def _pairings(component: Component, version: str) -> list[Pairing]:
    return [row for row in PAIRINGS if row.component == component and covers(row.first, row.last, version)]


def _major(version: str) -> str:
    return version.partition(".")[0]


def _agree(one: str, other: str) -> bool:
    """Whether two versions are equal as far as both say; of CUDA the major alone decides what loads."""
    return _major(one) == _major(other)


def _dotted(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"


def _sliced(stack: Stack) -> Iterator[str]:
    if isinstance(stack.target, Gpu) and stack.target.mig:
        yield f"{mig_reason(stack.target)}; {disable_mig(stack.target)}"


def _too_old_gpu(stack: Stack) -> Iterator[str]:
    """A component without code for this architecture."""
    if stack.capability is None:
        return
    for component, version in stack.components():
        found = row(component, version)
        if found and not _supports(found, stack.capability):
            yield (
                f"{_has(stack)}; {WORDS[component]} {version} supports {_range(found)}; "
                f"{_instead(component, stack.capability, stack.cuda)}"
            )


def _has(stack: Stack) -> str:
    return f"{stack.name} has compute capability {_dotted(stack.capability or (0, 0))}"


def _range(row: Support) -> str:
    return f"{_dotted(row.least)} to {_dotted(row.most)}" if row.most else f"{_dotted(row.least)} and newer"


def _instead(component: Component, capability: Capability, cuda: str) -> str:
    """What would work, newest first."""
    fitting = [row for row in MATRIX if row.component == component and _supports(row, capability)]
    if component == "driver":
        return f"install a driver of branch R{fitting[-1].last}"
    pins = [row.install.format(cuda=_major(cuda) or "12") for row in reversed(fitting) if row.install]
    return f"install {' or '.join(pins)}" if pins else "no release on record supports it"


def _built_for_another_gpu(stack: Stack) -> Iterator[str]:
    """A runtime that is built for a TensorRT without code for this architecture, whatever TensorRT is there."""
    built = stack.pairing
    if built is None or stack.capability is None or not stack.with_tensorrt:
        return
    if runs("tensorrt", built.tensorrt, stack.capability) is False:
        least = row("tensorrt", built.tensorrt)
        yield (
            f"{_has(stack)}; {_release(stack, built)} is built for TensorRT {built.tensorrt}, which supports "
            f"{_range(least) if least else 'others'}; install {_paired(stack.main, stack.capability)}"
        )


def _release(stack: Stack, pairing: Pairing) -> str:
    several = f" for CUDA {pairing.cuda}" if len(stack.pairings) > 1 else ""
    return f"{WORDS[stack.main]} {stack.version(stack.main)}{several}"


def _paired(component: Component, capability: Capability) -> str:
    """The pairs of a runtime and TensorRT that have code for this architecture, newest first."""
    pairs = [
        f"{row.pin} with {row.tensorrt_pin}"
        for row in reversed(PAIRINGS)
        if row.component == component
        and row.pin
        and runs("tensorrt", row.tensorrt, capability) is not False
        # A runtime whose own code is unknown (None) is named: its TensorRT is what is known to fit.
        and runs(component, row.first, capability) is not False
    ]
    return " or ".join(pairs)


def _unpaired(stack: Stack) -> Iterator[str]:
    """Libraries of another major than those that the runtime was linked against."""
    release = f"{WORDS[stack.main]} {stack.version(stack.main)}"
    if stack.pairings and stack.pairing is None and stack.cuda:
        built = " or ".join(row.cuda for row in stack.pairings)
        yield (
            f"{release} is built for CUDA {built}; found CUDA {stack.cuda}; install {release.replace(' ', '==')} in an "
            f"environment of its own with CUDA {built}"
        )
    built_with = stack.pairing
    if built_with is None:
        return
    cudnn, tensorrt = stack.version("cudnn"), stack.version("tensorrt")
    if cudnn and not _agree(cudnn, built_with.cudnn):
        yield f"{release} needs cuDNN {built_with.cudnn}; found cuDNN {cudnn}; {_cudnn(stack, built_with)}"
    if stack.with_tensorrt and tensorrt and not _agree(tensorrt, built_with.tensorrt):
        wanted, there = _major(built_with.tensorrt), _major(tensorrt)
        pin = built_with.tensorrt_pin or f"TensorRT {built_with.tensorrt}"
        yield (
            f"{release} loads libnvinfer.so.{wanted}; found TensorRT {tensorrt}, which has libnvinfer.so.{there}; "
            f"install {pin}"
        )


def _cudnn(stack: Stack, built_with: Pairing) -> str:
    if _major(built_with.cudnn) != "9":
        return f"install cuDNN {built_with.cudnn} for CUDA {built_with.cuda}"
    return _instead("cudnn", stack.capability or VOLTA, built_with.cuda)


def _no_wheel(stack: Stack) -> Iterator[str]:
    """A release that has no wheel for the Python at hand."""
    if not stack.python:
        return
    asked = number(stack.python)[:2]
    for component, version in stack.components():
        for wheels in PYTHONS:
            if wheels.component != component or not covers(wheels.first, wheels.last, version):
                continue
            if not number(wheels.oldest) <= asked <= number(wheels.newest):
                nearest = wheels.newest if asked > number(wheels.newest) else wheels.oldest
                yield (
                    f"{WORDS[component]} {version} has no wheel for Python {asked[0]}.{asked[1]}; it has them for "
                    f"{wheels.oldest} to {wheels.newest}; make the environment with: python{nearest} -m venv"
                )


def _new_bindings(stack: Stack) -> Iterator[str]:
    """cuda-bindings holds a CUDA runtime of its own major, which the driver must know."""
    known = stack.target.cuda_driver if isinstance(stack.target, Gpu) else None
    if known and stack.bindings and number(stack.bindings)[0] > known[0]:
        yield (
            f"cuda-bindings {stack.bindings} holds a runtime of CUDA {_major(stack.bindings)}; the driver of "
            f"{stack.name} has CUDA {_dotted(known)}; install 'cuda-bindings=={known[0]}.*'"
        )


def _old_driver(stack: Stack) -> Iterator[str]:
    """A driver that is too old for the CUDA of the stack. Compatibility packages raise its CUDA, not its version."""
    gpu = stack.target if isinstance(stack.target, Gpu) else None
    driver = stack.driver or (gpu.driver if gpu else "")
    cuda = int(_major(stack.cuda) or 0)
    ceiling = ", but none newer than branch R580, the last for 7.0" if stack.capability == VOLTA else ""
    raised = gpu.cuda_driver if gpu else None
    if raised and raised[0] < cuda:
        yield (
            f"{_stack(stack)} needs CUDA {cuda}; the driver {driver} of {stack.name} has CUDA {_dotted(raised)}; "
            f"install a driver of version {_floor(cuda)} or newer{ceiling}"
        )
    for floor in DRIVERS:
        of_cuda = floor.component == "cuda"
        if floor.cuda != cuda or (of_cuda and raised) or not number(driver):
            continue
        applies = of_cuda or (stack.main == floor.component and covers(floor.first, "", stack.version(floor.component)))
        if applies and number(driver) < number(floor.driver):
            yield (
                f"{_stack(stack)} needs a driver of version {floor.driver} or newer; found driver {driver}; "
                f"install a newer NVIDIA driver{ceiling}"
            )


def _floor(cuda: int) -> str:
    return next((floor.driver for floor in DRIVERS if floor.component == "cuda" and floor.cuda == cuda), "of today")


def _stack(stack: Stack) -> str:
    return f"{WORDS[stack.main]} {stack.version(stack.main)} for CUDA {_major(stack.cuda)}".replace("  ", " ")
