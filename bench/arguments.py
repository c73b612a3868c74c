"""What a word of the command line may look like, and how a result is printed."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from bench.errors import UsageError

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
INTERVALS = listed("INTERVAL,…", one_of("compute", "end_to_end"))
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


@bench.command(name="list")
@click.argument("what", type=click.Choice(["models", "devices", "backends", "results"]))
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default="results", show_default=True)
def list_(what: str, format_: str, results: Path) -> None:
    """Models, devices, backends or results, and why something is not available here."""
    from bench import listing

    hidden = frozenset[str]()
    if what == "results":
        rows, troubles = listing.results(results)
        for trouble in troubles:
            click.echo(f"bench: {trouble}", err=True)
        hidden = frozenset({"command"})
    else:
        rows = {"models": listing.models, "devices": listing.devices, "backends": listing.runtimes}[what]()
        hidden = frozenset({"source"}) if what == "models" else hidden
    show(listing.as_json(rows) if format_ == "json" else listing.as_text(rows, hidden))


@bench.command()
@click.option("--device", default="cpu", show_default=True, metavar="ID", help="What to look for.")
def doctor(device: str) -> None:
    """What this machine is, what works here, what makes it noisy, and what to do about it."""
    from bench import catalog
    from bench import doctor as doctor_

    lines, usable = doctor_.examine(catalog.profile(device))
    show("\n".join(lines) + "\n")
    sys.exit(0 if usable else 3)


@bench.command()
@with_options(MODEL_OPTIONS)
@click.option(
    "--to",
    "formats",
    type=listed("FORMAT,…", one_of(*EXPORTED)),
    multiple=True,
    required=True,
    help=", ".join(EXPORTED),
)
@click.option(
    "--output", type=click.Path(path_type=Path), default="exported", show_default=True, help="Folder to fill."
)
@click.option("--quiet", is_flag=True, help="No progress.")
def export(models: Any, families: Any, input_shape: Any, weights: str, formats: Any, output: Path, quiet: bool) -> None:
    """Artifacts only: models in the formats of --to."""
    from bench import progress, session

    with progress.choose(quiet) as shown:
        for path in session.export(models, families, input_shape, weights, flatten(formats), output, shown):
            click.echo(path)


@bench.command()
@click.option("--format", "format_", default="markdown", show_default=True, metavar="NAME")
@click.option(
    "--results", type=click.Path(path_type=Path), default="results", show_default=True, help="Folder or file."
)
@click.option("--family", help="Only this family.")
@click.option("--device", help="Only this device.")
@click.option("--model", help="Only this model.")
@click.option("--backend", help="Only this backend.")
@click.option("--run", "run_id", help="Only this run.  [default: the newest run that has a case]")
@click.option("--interval", type=click.Choice(["compute", "end_to_end"]), help="Only this interval.")
@click.option("--output", type=click.Path(path_type=Path), help="Write into this folder instead of printing.")
def report(format_: str, results: Path, output: Path | None, **filters: Any) -> None:
    """Tables from records."""
    from bench import report as reports

    format_module = reports.get(format_)
    built = reports.build(results, **filters)
    for warning in built.warnings:
        click.echo(f"bench: {warning}", err=True)
    text = format_module.render(built)
    if output is None:
        show(text)
        return
    path = output / f"report{format_module.suffix}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}", error.strerror or str(error), "name another folder") from error
    click.echo(path)


def show(text: str) -> None:
    """Prints a result. A reader that has gone, as `| head` does, changes neither what is done nor the exit code."""
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
