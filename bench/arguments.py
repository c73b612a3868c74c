"""What a word of the command line may look like, and how a result is printed."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from bench.errors import UsageError
from bench.formats import without_home

ItemT = TypeVar("ItemT")
#: of anything that is counted on the command line
MOST = 1_000_000


def listed(metavar: str, convert: Callable[[str], Any]) -> Callable[[Any], Any]:
    """`1,4,8` → (1, 4, 8), each item converted and checked by `convert`."""
    return checked(metavar, lambda text: tuple(convert(item.strip()) for item in text.split(",")))


def checked(metavar: str, convert: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A type of option: what `convert` makes of its text, whose ValueError says what is wrong with it."""

    def of(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return convert(value.strip())
        except ValueError as error:
            raise click.BadParameter(f"{value!r} ({error})") from error

    of.__name__ = metavar
    return of


def positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise ValueError(f"a whole number from 1 to {MOST} is needed")
    return int(text)


def seconds(text: str) -> float:
    """`20s`, `1.5m`, `500ms`, or plain seconds."""
    for unit, factor in (("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        if text.endswith(unit):
            return _above_zero(text.removesuffix(unit), factor)
    return _above_zero(text)


def share(text: str) -> float:
    """`1%` or `0.01`."""
    return _above_zero(text.removesuffix("%"), 0.01 if text.endswith("%") else 1)


def size(text: str) -> int:
    """`4GiB`, `512MiB`, or plain bytes."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("GB", 10**9), ("MB", 10**6)):
        if text.endswith(unit):
            return int(_above_zero(text.removesuffix(unit), factor))
    return int(_above_zero(text))


def milliseconds(text: str) -> float:
    """`15ms` or `0.015s`: without a unit the one would be taken for the other."""
    for unit, factor in (("ms", 1.0), ("us", 1e-3), ("s", 1e3)):
        if text.endswith(unit):
            return _above_zero(text.removesuffix(unit), factor)
    raise ValueError("write it with its unit, such as 15ms or 0.015s")


def millions(text: str) -> float:
    """`10M`, `500k`, or a plain count."""
    for unit, factor in (("M", 1.0), ("k", 1e-3), ("G", 1e3)):
        if text.endswith(unit):
            return _above_zero(text.removesuffix(unit), factor)
    return _above_zero(text, 1e-6)


def fraction(text: str) -> float:
    """`0.72` or `72%`."""
    value = share(text)
    if value > 1:
        raise ValueError("write it as a fraction such as 0.72, or as 72%")
    return value


def _above_zero(text: str, unit: float = 1.0) -> float:
    number = float(text) * unit
    if not 0 < number < sys.maxsize:
        raise ValueError("a number above 0 is needed, and not one beyond all measure")
    return number


def one_of(*allowed: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"choose from {', '.join(allowed)}")
        return text

    return convert


EXPORTED = ("paddle", "onnx", "openvino", "tensorrt", "paddle_lite")
NUMBERS = listed("N,N,…", positive)
PRECISIONS = listed("PRECISION,…", one_of("fp32", "fp16", "bf16", "int8"))
INTERVALS = listed("INTERVAL,…", one_of("compute", "end_to_end", "device"))
NAMES = listed("NAME,…", str)


def flatten(groups: Iterable[Iterable[ItemT]]) -> tuple[ItemT, ...]:
    """What a repeatable option with lists in it means: all of them, each once, in order."""
    return tuple(dict.fromkeys(item for group in groups for item in group))


def assigned(assignments: Iterable[str]) -> dict[str, dict[str, str]]:
    """`("paddle.onednn=off",)` → {"paddle": {"onednn": "off"}}."""
    options: dict[str, dict[str, str]] = {}
    for assignment in assignments:
        target, equals, value = assignment.partition("=")
        backend, dot, option = target.partition(".")
        if not (equals and dot and backend and option):
            raise UsageError(f"cannot read --set {assignment!r}", "", "write it as BACKEND.OPTION=VALUE")
        options.setdefault(backend, {})[option] = value
    return options


def choose_phone(_: click.Context, __: click.Parameter, serial: str | None) -> None:
    """Where adb itself looks for it, so that workers find it, too."""
    if serial:
        os.environ["ANDROID_SERIAL"] = serial


SERIAL = click.option(
    "--serial", metavar="SERIAL", expose_value=False, callback=choose_phone, help="Which phone, where adb has several."
)


def choose_gpu(_: click.Context, __: click.Parameter, gpu: str | None) -> None:
    if gpu:
        from bench.devices import GPU_VARIABLE

        os.environ[GPU_VARIABLE] = gpu


GPU = click.option(
    "--gpu", metavar="GPU", expose_value=False, callback=choose_gpu, help="Which of several: index, UUID or name."
)


def as_published(arguments: Iterable[str]) -> tuple[str, ...]:
    """A command line for a record: records get published, what names one phone or GPU of the world does not."""
    told, hidden = [], False
    for word in arguments:
        name, equals, _ = word.partition("=")
        private = name in ("--serial", "--gpu")
        told.append("…" if hidden else f"{name}=…" if private and equals else without_home(word))
        hidden = private and not equals
    return tuple(told)


def warn(lines: Iterable[str]) -> None:
    """Each on a line of standard error."""
    for line in lines:
        click.echo(f"bench: {line}", err=True)


def show(text: str) -> None:
    """Prints a result. A reader that has gone, as `| head` does, changes neither what is done nor the exit code."""
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
