"""Arguments → one call each. Results go to standard output; progress, warnings and errors to standard error."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from bench import __version__, cli_compare, cli_gate, cli_import, cli_report
from bench.arguments import (
    EXPORTED,
    GPU,
    INTERVALS,
    NAMES,
    NUMBERS,
    PRECISIONS,
    SERIAL,
    as_published,
    assigned,
    checked,
    flatten,
    listed,
    one_of,
    positive,
    seconds,
    share,
    show,
    size,
    warn,
)
from bench.errors import BenchError, UsageError

if TYPE_CHECKING:
    from bench.plan import Plan, Request
    from bench.schema import Record

INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="bench %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def bench(debug: bool) -> None:
    """Which backbone, on which runtime, is fast enough on my device, and did my change make it slower?"""


MODEL_OPTIONS = [
    click.option("--model", "models", multiple=True, metavar="NAME", help="A card, a glob, 'all', or a model file."),
    click.option("--family", "families", multiple=True, metavar="NAME", help="All cards of a family."),
    click.option("--input-shape", type=NUMBERS, default=(), help="C,H,W, where a model file leaves it open."),
    click.option("--weights", default="random", metavar="random|pretrained|PATH", show_default=True),
]


def with_options(options: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@bench.command()
@with_options(MODEL_OPTIONS)
@click.option("--device", metavar="ID", help="See bench list devices.  [default: cpu]")
@GPU
@SERIAL
@click.option("--backend", "backends", type=NAMES, multiple=True, help="Repeatable.  [default: the device's]")
@click.option("--precision", "precisions", type=PRECISIONS, multiple=True, help="[default: the device's]")
@click.option("--batch-size", "batch_sizes", type=NUMBERS, multiple=True, help="[default: the device's]")
@click.option("--threads", type=NUMBERS, multiple=True, help="[default: the device's]")
@click.option("--interval", "intervals", type=INTERVALS, default="compute", show_default=True, help="What is timed.")
@click.option(
    "--semantics",
    type=click.Choice(["bench", "trtexec", "trtexec-10", "trtexec-11"]),
    default="bench",
    show_default=True,
    help="Whose definitions to take beside ours.",
)
@click.option("--set", "assignments", multiple=True, metavar="BACKEND.OPTION=VALUE", help="See bench list backends.")
@click.option("--budget", type=checked("TIME", seconds), default="20s", show_default=True, help="For each case.")
@click.option(
    "--precision-target", type=checked("SHARE", share), default="1%", show_default=True, help="Half width to stop at."
)
@click.option("--repetitions", type=checked("N", positive), help="Fresh processes a case.  [default: as needed]")
@click.option("--warmup", type=checked("N", positive), help="Calls before samples count.  [default: until steady]")
@click.option("--iterations", type=checked("N", positive), help="Samples a repetition.  [default: by time]")
@click.option("--timeout", type=checked("TIME", seconds), default="600s", show_default=True, help="For one worker.")
@click.option("--memory-limit", type=checked("SIZE", size), help="For one worker, such as 4GiB.")
@click.option("--results", type=click.Path(path_type=Path), default="results", show_default=True)
@click.option("--resume", is_flag=False, flag_value="latest", metavar="[RUN]", help="Go on with a run, or the latest.")
@click.option("--dry-run", is_flag=True, help="Show the plan only.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--quiet", is_flag=True, help="No progress.")
@click.pass_context
def run(ctx: click.Context, /, **options: Any) -> None:
    """Plan the cases, export, check parity, measure, and save records.

    Waits up to 60 s while others use more than a quarter of a CPU; BENCH_NO_WAIT=1 skips that.
    """
    from bench import progress, report, session

    command = ("bench", *as_published(sys.argv[1:]))
    if options["resume"] is not None:
        _refuse_plan_options(ctx)
        earlier = session.find_run(options["results"], options["resume"])
        with progress.choose(options["quiet"]) as shown:
            outcome = session.resume(earlier, command, shown)
    else:
        request = request_from(options)
        if options["dry_run"]:
            show_plan(session.preview(request), request, options["format_"])
            return
        with progress.choose(options["quiet"]) as shown:
            outcome = session.start(request, options["results"], command, shown)
    built = report.build(outcome.path)
    show(report.get(options["format_"]).render(built))
    if options["format_"] == "text":
        show("".join(by_trtexec(outcome.records)))
    click.echo(f"bench: {tally(outcome.records)}; records: {outcome.path}", err=True)
    sys.exit(exit_code(outcome.records))


def _refuse_plan_options(ctx: click.Context) -> None:
    """`--resume` goes on with what was asked then; anything else said now would be ignored, so it is refused."""
    free = {"resume", "results", "format_", "quiet"}
    given = [
        name
        for name in ctx.params
        if name not in free and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError(
            "--resume goes on with the run as it was asked for",
            f"also given: {', '.join('--' + name.replace('_', '-') for name in given)}",
            "leave them out, or start a new run without --resume",
        )


def request_from(options: dict[str, Any]) -> "Request":
    from bench.plan import Request
    from bench.schema import Settings

    settings = Settings(
        intervals=tuple(dict.fromkeys(options["intervals"])),
        warmup=options["warmup"],
        iterations=options["iterations"],
        repetitions=options["repetitions"],
        budget_s=options["budget"],
        precision_target=options["precision_target"],
        timeout_s=options["timeout"],
        memory_limit_bytes=options["memory_limit"],
        weights=options["weights"],
    )
    return Request(
        models=options["models"],
        families=options["families"],
        device=options["device"] or "cpu",
        backends=flatten(options["backends"]),
        precisions=flatten(options["precisions"]),
        batch_sizes=flatten(options["batch_sizes"]),
        threads=flatten(options["threads"]),
        input_shape=options["input_shape"],
        settings=settings,
        options=assigned(options["assignments"]),
        semantics=options["semantics"],
    )


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
        warn(troubles)
        hidden = frozenset({"command"})
    else:
        rows = {"models": listing.models, "devices": listing.devices, "backends": listing.runtimes}[what]()
        hidden = frozenset({"source"}) if what == "models" else hidden
    show(listing.as_json(rows) if format_ == "json" else listing.as_text(rows, hidden))


@bench.command()
@click.option("--device", default="cpu", show_default=True, metavar="ID", help="What to look for.")
@GPU
@SERIAL
@click.option("--pack", type=click.Path(path_type=Path), metavar="FILE", help="Zip it with the last run, to send.")
@click.option("--results", type=click.Path(path_type=Path), default="results", show_default=True, help="For --pack.")
def doctor(device: str, pack: Path | None, results: Path) -> None:
    """What this machine is, what works here, what makes it noisy, and what to do about it."""
    from bench import catalog, diagnosis
    from bench import doctor as doctor_

    profile = catalog.profile(device)
    lines, usable = doctor_.examine(profile)
    show("\n".join(lines) + "\n")
    if pack:
        diagnosis.pack(pack, lines, profile, results)
        click.echo(f"bench: packed into {pack}; read it before you send it", err=True)
    sys.exit(0 if usable else 3)


@bench.command()
@click.argument("backends", nargs=-1, required=True, metavar="BACKEND...")
@click.option("--quiet", is_flag=True, help="No progress.")
def setup(backends: tuple[str, ...], quiet: bool) -> None:
    """Make the Python environments of backends that work in one of their own; once made they serve offline."""
    from bench import homes, progress

    with progress.choose(quiet) as shown:
        for name in backends:
            click.echo(f"{name}: {homes.set_up(name, shown.say)}")


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
@click.option("--device", default="", metavar="ID", help="For engines.  [default: the first with such a backend]")
@click.option("--quiet", is_flag=True, help="No progress.")
def export(formats: Any, quiet: bool, **asked: Any) -> None:
    """Artifacts only: models in the formats of --to."""
    from bench import progress, session

    with progress.choose(quiet) as shown:
        for path in session.export(formats=flatten(formats), progress=shown, **asked):
            click.echo(path)


@bench.group()
def selfcheck() -> None:
    """The benchmark of our own detector: false alarms, power, smallest slowdown it can see."""


@selfcheck.command()
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--traces", type=click.Path(path_type=Path), help="Of bench selfcheck record; targets are then shown, not asserted."
)
def replay(seed: int, traces: Path | None) -> None:
    """On recorded processes, beside the rules of other tools."""
    from bench.selfcheck import replay as replaying
    from bench.selfcheck import targets

    result = replaying.replay_file(traces, seed) if traces else replaying.replay(seed)
    show(targets.render(result))
    unexpected = [] if traces else targets.unexpected(result)
    warn(unexpected)
    sys.exit(1 if unexpected else 0)


@selfcheck.command()
@click.option("--model", default="MobileNetV2", show_default=True, metavar="NAME")
@click.option("--backend", "backends", type=NAMES, multiple=True, help="One a file.  [default: the first here]")
@click.option(
    "--load",
    "loads",
    multiple=True,
    type=click.Choice(["none", "busy", "burst"]),
    default=("none",),
    show_default=True,
    help="What bench lets run besides. Repeatable.",
)
@click.option("--budget", type=checked("TIME", seconds), default="10m", show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to add to.  [default: in the cache]"
)
@click.option("--quiet", is_flag=True, help="No progress.")
def record(output: Path | None, quiet: bool, **options: Any) -> None:
    """This machine's own traces, for bench selfcheck replay --traces: processes alone and in pairs.

    Each is 350 inferences long, so take a model of 2 ms or more. The same command again goes on with the file.
    """
    from bench import progress
    from bench.selfcheck import live, record

    file = output or record.default_file()
    wanted = record.Wanted(
        model=options["model"],
        backends=flatten(options["backends"]) or live.usable()[:1],
        loads=tuple(dict.fromkeys(options["loads"])),
        budget_s=options["budget"],
    )
    with progress.choose(quiet) as shown:
        count = record.record(wanted, file, shown)
    click.echo(f"bench: {count} units added to {file}", err=True)


selfcheck.add_command(cli_compare.live)
for command in (cli_compare.compare, *cli_gate.COMMANDS, *cli_import.COMMANDS, *cli_report.COMMANDS):
    bench.add_command(command)


def show_plan(plan: "Plan", request: "Request", format_: str) -> None:
    import msgspec

    if format_ == "json":
        data = {"cases": plan.cases, "left_out": plan.left_out, "estimate_s": plan.estimate_s(request.settings)}
        show(msgspec.json.format(msgspec.json.encode(data)).decode() + "\n")
        return
    minutes = plan.estimate_s(request.settings) / 60
    lines = [
        *(case.key for case in plan.cases),
        *(f"{left.case.key}  {left.status}: {left.reason}" for left in plan.left_out),
        f"{len(plan.cases)} cases to measure, {len(plan.left_out)} left out; about {minutes:.0f} minutes at most",
    ]
    show("\n".join(lines) + "\n")


def tally(records: "Iterable[Record]") -> str:
    """`9 cases ok, 1 failed`: a case is what its last record says."""
    from collections import Counter

    counts = Counter({record.case: record.status for record in records}.values())
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "nothing was left to do"


def by_trtexec(records: "Iterable[Record]") -> Iterator[str]:
    """trtexec's figures in its own words, of the last repetition of each case that has them."""
    last = {record.case: record.telemetry["trtexec"] for record in records if "trtexec" in record.telemetry}
    for case, figures in last.items():
        yield f"\n{case.key}, by the definitions of trtexec {figures['version']}:\n{figures['log']}"


def exit_code(records: "Iterable[Record]") -> int:
    """0 done, 1 a case failed, 3 nothing could be measured here."""
    statuses = {record.status for record in records}
    if "failed" in statuses:
        return 1
    return 3 if statuses and "ok" not in statuses else 0


def main() -> NoReturn:
    """Runs the command line. Errors are one line, and exit codes are the contract's."""
    debug = "--debug" in sys.argv
    # A cancelled CI job ends as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = bench.main(standalone_mode=False)
    except click.ClickException as error:
        code = complain(UsageError(error.format_message().rstrip(".")), 2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("bench: interrupted; finished repetitions are saved; go on with: bench run --resume", err=True)
        code = INTERRUPTED
    except (BenchError, OSError) as error:
        if debug:
            raise
        code = complain(error, getattr(error, "exit_code", 1))
    sys.exit(code if isinstance(code, int) else 0)


def complain(error: Exception, code: int) -> int:
    warn(getattr(error, "__notes__", ()))
    click.echo("bench: " + " ".join(str(error).split()), err=True)
    return code


if __name__ == "__main__":
    main()
