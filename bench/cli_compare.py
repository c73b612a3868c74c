"""The commands that measure side by side: `compare`, and `live` of `selfcheck`. Each is arguments → one call."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench import arguments
from bench.cli_gate import gate_options, publish, refuse_bad_outputs

if TYPE_CHECKING:
    from bench.subjects import Asked

INTERRUPTED = 130


NUMBER, TIME = arguments.checked("N", arguments.positive), arguments.checked("TIME", arguments.seconds)
SHARE, SIZE = arguments.checked("SHARE", arguments.share), arguments.checked("SIZE", arguments.size)
SETTING = "BACKEND.OPTION=VALUE"
INTERVALS = ["compute", "end_to_end"]


@click.command()
@click.argument("sides", nargs=-1, metavar="[A B]")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Where A and B are no models. Repeatable.")
@click.option(
    "--backend", "backends", type=arguments.NAMES, multiple=True, help="Where A and B are no backends. Repeatable."
)
@click.option("--set-a", multiple=True, metavar=SETTING, help="A setting of A alone.")
@click.option("--set-b", multiple=True, metavar=SETTING, help="A setting of B alone.")
@click.option("--set", "assignments", multiple=True, metavar=SETTING, help="A setting of both.")
@click.option("--python-a", default="", metavar="PATH", help="The interpreter that A runs under.  [default: this one]")
@click.option("--python-b", default="", metavar="PATH", help="The interpreter that B runs under.  [default: this one]")
@click.option("--device", default="cpu", show_default=True, metavar="ID", help="See bench list devices.")
@click.option("--precision", "precisions", type=arguments.PRECISIONS, multiple=True, help="[default: the device's]")
@click.option("--batch-size", "batch_sizes", type=arguments.NUMBERS, multiple=True, help="[default: 1]")
@click.option("--threads", type=arguments.NUMBERS, multiple=True, help="[default: 1]")
@click.option("--interval", type=click.Choice(INTERVALS), default="compute", show_default=True, help="What is timed.")
@click.option("--input-shape", type=arguments.NUMBERS, default=(), help="C,H,W, where a model file leaves it open.")
@click.option("--weights", default="random", metavar="random|pretrained|PATH", show_default=True)
@click.option("--margin", type=SHARE, default="0.5%", show_default=True, help="Slowdowns up to this don't matter.")
@click.option("--tolerance", type=SHARE, help="The slowdown that a PASS rules out.  [default: 2%, below 1 ms 3%]")
@click.option("--pairs", type=NUMBER, default="16", show_default=True, help="Pairs of processes, at most.")
@click.option("--budget", type=TIME, default="120s", show_default=True, help="For each case.")
@click.option(
    "--trust", type=click.Choice(["both", "wall"]), default="both", show_default=True, help="Clocks that must agree."
)
@click.option(
    "--outputs",
    "same_outputs",
    type=click.Choice(["same", "any"]),
    default="same",
    show_default=True,
    help="What B may compute beside A.",
)
@click.option("--timeout", type=TIME, default="600s", show_default=True, help="For one worker.")
@click.option("--memory-limit", type=SIZE, help="For one worker, such as 4GiB.")
@click.option("--results", type=click.Path(path_type=Path), default="results", show_default=True)
@gate_options
@click.option("--quiet", is_flag=True, help="No progress.")
def compare(
    results: Path, format_: str, outputs: tuple[str, ...], inconclusive: Any, quiet: bool, **options: Any
) -> None:
    """Is B slower than A? Two models, backends, settings or Pythons, measured now, side by side.

    A and B are two models (names or files, with --backend) or two backends (with --model). Without them, say what
    differs: --set-a and --set-b, or --python-a and --python-b. Waits up to 60 s while others use more than a quarter
    of a CPU; BENCH_NO_WAIT=1 skips that.
    """
    from bench import compare as comparing
    from bench import progress, wording

    refuse_bad_outputs(outputs)
    command = ("bench", *sys.argv[1:])
    with (
        progress.choose(quiet) as shown,
        comparing.prepared(asked_from(options), results, command, shown) as suite,
    ):
        finished = _finished(suite, shown)
    notes = () if finished else ("Interrupted: cases without a line were not measured.",)
    code = publish(wording.gate(list(suite.comparisons.values()), suite.shift, notes), format_, outputs, inconclusive)
    click.echo(f"bench: pairs and verdicts: {suite.path}", err=True)
    sys.exit(code if finished else INTERRUPTED)


def _finished(suite: Any, shown: Any) -> bool:
    """False where Ctrl-C ended it: no worker is left then, and what was known is still printed."""
    try:
        suite.run(shown)
    except KeyboardInterrupt:
        return False
    return True


def asked_from(options: dict[str, Any]) -> "Asked":
    from bench.subjects import Asked, Terms

    terms = Terms(
        **{name: options[name] for name in ("margin", "tolerance", "pairs", "trust", "interval")},
        outputs=options["same_outputs"],
        budget_s=options["budget"],
        timeout_s=options["timeout"],
        memory_limit_bytes=options["memory_limit"],
    )
    same = ("sides", "models", "device", "input_shape", "weights", "python_a", "python_b")
    return Asked(
        **{name: options[name] for name in same},
        backends=arguments.flatten(options["backends"]),
        precisions=arguments.flatten(options["precisions"]),
        batch_sizes=arguments.flatten(options["batch_sizes"]) or (1,),
        threads=arguments.flatten(options["threads"]) or (1,),
        options=arguments.assigned(options["assignments"]),
        options_a=arguments.assigned(options["set_a"]),
        options_b=arguments.assigned(options["set_b"]),
        terms=terms,
    )


# bench selfcheck live


def trials(text: str) -> tuple[float, int]:
    """`3%:20` → (0.03, 20)."""

    size, colon, count = text.partition(":")
    if not colon:
        raise ValueError("write it as 3%:20")
    return arguments.share(size), arguments.positive(count)


def checked_trials(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[float, int]:
    try:
        return dict(trials(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option("--model", default="MobileNetV2", show_default=True, metavar="NAME")
@click.option(
    "--backend", "backends", type=arguments.NAMES, multiple=True, help="Repeatable.  [default: those of this machine]"
)
@click.option("--threads", type=NUMBER, default="1", show_default=True)
@click.option("--budget", type=TIME, default="10m", show_default=True, help="Not with --aa and --slow, which count.")
@click.option("--aa", type=click.IntRange(min=0), help="Comparisons of identical programs, for each backend and load.")
@click.option("--slow", multiple=True, callback=checked_trials, metavar="SHARE:N", help="Such as 3%:20. Repeatable.")
@click.option(
    "--inject",
    type=click.Choice(["spin", "sleep", "layer"]),
    default="spin",
    show_default=True,
    help="What slows B down, with --slow: a busy loop, a sleep, or a further layer (backends that run ONNX).",
)
@click.option(
    "--load",
    "loads",
    multiple=True,
    type=click.Choice(["none", "busy", "burst"]),
    help="With --aa and --slow. Repeatable.  [default: none]",
)
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False), help="Of the comparisons.  [default: in the cache]"
)
@click.option("--report", is_flag=True, help="Only print what the file has.")
@click.option("--format", "format_", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True)
@click.option("--quiet", is_flag=True, help="No progress.")
def live(file: Path | None, report: bool, format_: str, quiet: bool, **options: Any) -> None:
    """How often does bench compare err here? Identical and slowed-down programs, compared on this machine.

    Every comparison adds a line to a file; the same command again goes on where it was interrupted.
    """
    from bench import environment, progress
    from bench.selfcheck import live as trying

    file = file or trying.default_file()
    interrupted = False
    if not report:
        with progress.choose(quiet) as shown:
            try:
                trying.run(wanted(options), file, shown)
            except KeyboardInterrupt:
                interrupted = True
    trials = trying.read(file)
    machine_class = trying.shown_machine(trials, environment.machine_class(environment.describe()))
    click.echo(trying.summary(trials, machine_class, format_), nl=False)
    click.echo(f"bench: comparisons: {file}, of machine class {machine_class}", err=True)
    sys.exit(INTERRUPTED if interrupted else int(trying.too_many_alarms(trials, machine_class)))


def wanted(options: dict[str, Any]) -> Any:
    """What to try: a number of each, or a mixture for a time."""
    from bench.errors import UsageError
    from bench.selfcheck import live as trying

    kind: Any = options["inject"] if options["slow"] else "same"
    place = options["model"], arguments.flatten(options["backends"]) or trying.usable(kind), options["threads"]
    if options["aa"] is None and not options["slow"]:
        if options["loads"]:
            raise UsageError("--load goes with --aa or --slow", "without them every load has its turn", "leave it out")
        return trying.mixture(*place, options["budget"])
    loads = tuple(dict.fromkeys(options["loads"])) or ("none",)
    return trying.acceptance(*place, loads, options["aa"] or 0, options["slow"], options["inject"])
