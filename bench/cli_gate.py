"""The commands that judge stored records: `check`, `baseline save`, `history`. Each is arguments → one call."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.errors import Unavailable, UsageError, last_line

if TYPE_CHECKING:
    from bench.check import Confirm, Suspect
    from bench.gate import Gate, GateResult, Treatment
    from bench.plan import Request
    from bench.subjects import Asked

#: the files of bench/gate that render, written out so that `bench --help` need not open them; a test compares
FORMATS = ("github", "github_action_benchmark", "gitlab", "json", "junit", "markdown", "text")
#: a session needs four processes that count, so one may be spoilt
REPETITIONS = 5


def share(_: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """`5%` or `0.05`."""
    if text is None:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise click.BadParameter(f"{text!r} is no share between 0 and 1, such as 5%", param=parameter)
    return value


RESULTS = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default="results",
    show_default=True,
    help="Folder or file of records.",
)
QUIET = click.option("--quiet", is_flag=True, help="No progress, no warnings.")


def gate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that gates: what is printed, what is written beside, and what 4 turns into."""
    options = [
        click.option("--format", "format_", type=click.Choice(FORMATS), default="text", show_default=True),
        click.option("--output", "outputs", multiple=True, metavar="FORMAT=FILE", help="Written besides. Repeatable."),
        click.option(
            "--inconclusive",
            type=click.Choice(["pass", "fail"]),
            help="Exit with 0 or 1 where nothing can be told.  [default: exit code 4]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def publish(found: "Gate", format_: str, outputs: Sequence[str], inconclusive: "Treatment | None" = None) -> int:
    """Prints the result (not for ""), writes what else was asked for, and returns the exit code."""
    from bench import gate

    if format_:
        click.echo(gate.get(format_).render(found), nl=False)
    if format_ == "github":
        gate.summarise(found)
    gate.write(found, outputs)
    return found.exit_code(inconclusive)


def refuse_bad_outputs(outputs: Iterable[str]) -> None:
    """Raises UsageError before anything is measured."""
    from bench import gate

    for output in outputs:
        gate.asked(output)


# bench check


@click.command()
@click.option(
    "--baseline",
    "place",
    type=click.Path(path_type=Path),
    required=True,
    help="What bench baseline save wrote, or a folder or file of records.",
)
@RESULTS
@click.option("--run", "fresh", is_flag=True, help="First measure what the baseline measured, into --results.")
@click.option(
    "--margin",
    callback=share,
    metavar="SHARE",
    help="Slowdown to allow.  [default: 5%, or 10% where records lack a probe]",
)
@click.option(
    "--confirm",
    is_flag=False,
    flag_value="",
    metavar="[PYTHON]",
    help="Measure suspects again with bench compare; PYTHON is that of the baseline's environment.",
)
@gate_options
@QUIET
def check(
    place: Path,
    results: Path,
    fresh: bool,
    margin: float | None,
    confirm: str | None,
    format_: str,
    outputs: tuple[str, ...],
    inconclusive: "Treatment | None",
    quiet: bool,
) -> None:
    """Did it become slower than the stored baseline? Newest records against it, case by case."""
    from bench import baseline as baselines
    from bench import check as checks

    refuse_bad_outputs(outputs)
    folder = Path("results") if results.is_file() else results
    try:
        reading = baselines.Reading(measure(place, folder, quiet) if fresh else results)
        tries = checks.last_tries(reading)
        # What is judged must not be part of what it is judged by.
        stored, warnings = baselines.read(place, without={one.record.run_id for one in tries})
        found = checks.contenders(reading, tries, stored.machines)
        _warn([*warnings, *reading.warnings], quiet)
        judged = checks.check(stored, found, margin, confirmer(confirm, folder, quiet), shown_place(place))
    except checks.NoBaseline as error:
        _warn([str(error)], quiet=False)
        sys.exit(publish(checks.without_baseline(error), "" if format_ == "text" else format_, outputs, inconclusive))
    sys.exit(publish(judged, format_, outputs, inconclusive))


def shown_place(path: Path) -> str:
    """The baseline's file as an annotation may name it: inside the repository, or not at all."""
    return path.as_posix() if path.is_file() and not path.is_absolute() and ".." not in path.parts else ""


def measure(place: Path, results: Path, quiet: bool) -> Path:
    """A fresh run of each plan that the baseline was made of: its file, or where there are several, their folder."""
    import msgspec

    from bench import baseline as baselines
    from bench import check as checks
    from bench import environment, progress, session
    from bench.plan import Request

    stored, _ = baselines.read(place)
    if not stored.requests:
        raise UsageError("the baseline doesn't say how it was measured", "", "measure with bench run, without --run")
    checks.refuse_stranger(stored, environment.describe())
    try:
        requests = [_with_repetitions(msgspec.convert(plan, Request)) for plan in stored.requests]
    except msgspec.ValidationError as error:
        raise UsageError("cannot read how the baseline was measured", str(error), "measure with bench run") from error
    with progress.choose(quiet) as shown:
        for request in requests:
            outcome = session.start(request, results, ("bench", *sys.argv[1:]), shown)
    return outcome.path if len(stored.requests) == 1 else results


def _with_repetitions(request: "Request") -> "Request":
    import msgspec

    wanted = max(request.settings.repetitions or REPETITIONS, REPETITIONS)
    settings = msgspec.structs.replace(request.settings, repetitions=wanted)
    return msgspec.structs.replace(request, settings=settings)


def confirmer(python: str | None, results: Path, quiet: bool) -> "Confirm | None":
    """What measures a suspect again; None where that was not asked for."""
    if python is None:
        return None
    return by_compare(python, results, quiet) if python else _no_python


def _no_python(_: object) -> "GateResult":
    raise Unavailable("the baseline's environment is not known", "", "name its Python: --confirm base/bin/python")


def by_compare(python: str, results: Path, quiet: bool) -> "Confirm":
    """Measures a suspect by `bench compare`, the baseline's side under that Python. Raises UsageError if it is none."""
    import msgspec

    from bench import compare, environment, progress, wording

    there, here = packages_under(python), packages_under(sys.executable)
    machine = environment.machine_class(environment.describe())

    def confirm(suspect: "Suspect") -> "GateResult":
        if suspect.machine != machine:
            raise Unavailable("this is not the machine that the baseline is of", "", "confirm it there")
        refuse_stranger(f"{python} is not the baseline's environment", there, suspect.then)
        refuse_stranger("this Python is not what the suspect was measured with", here, suspect.now)
        with progress.choose(quiet) as shown:
            suite = compare.compare(asked_of(suspect, python), results, ("bench", *sys.argv[1:]), shown)
        found = wording.result(next(iter(suite.comparisons.values())))
        sides = f"A is what {python} runs, the baseline's environment; B is what this Python runs"
        return msgspec.structs.replace(found, details=(sides, *found.details))

    return confirm


def asked_of(suspect: "Suspect", python: str) -> "Asked":
    """The suspect as a command line of `bench compare`, with the margin of the check."""
    from bench.subjects import Asked, Terms

    case = suspect.quantity.case
    return Asked(
        models=(case.model,),
        backends=(case.backend,),
        device=case.device,
        precisions=(case.precision,),
        batch_sizes=(case.batch_size,),
        threads=(case.threads,),
        weights=suspect.quantity.weights,
        options={case.backend: dict(suspect.quantity.options)},
        python_a=python,
        terms=Terms(margin=suspect.margin, interval=suspect.quantity.interval),
    )


LIST = "import json, importlib.metadata as m; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"


def packages_under(python: str) -> dict[str, str]:
    """The runtimes in another Python's environment."""
    import json
    import subprocess

    from bench import baseline as baselines
    from bench import pythons

    try:
        done = subprocess.run(
            [pythons.absolute(python), "-c", LIST],
            env=pythons.own_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return baselines.packages(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise UsageError(f"{python} does not work as a Python", last_line(error), "name another") from error


def refuse_stranger(what: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raises Unavailable where a Python holds other runtimes than were measured: it would be another comparison."""
    from bench import baseline as baselines

    if changed := baselines.differences(wanted, found):
        raise Unavailable(what, ", ".join(changed), "install those")


# bench baseline


@click.group()
def baseline() -> None:
    """Stored numbers to check against."""


@baseline.command()
@RESULTS
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file, say base.json."
)
@click.option(
    "--sessions", type=click.IntRange(min=1), default=20, show_default=True, help="Newest runs to keep of a case."
)
@QUIET
def save(results: Path, output: Path, sessions: int, quiet: bool) -> None:
    """A file of the newest sessions of each case, a line each, to keep beside the code."""
    from bench import baseline as baselines

    reading = baselines.Reading(results)
    made = baselines.from_records(reading, most=sessions)
    baselines.save(made, output)
    _warn([*reading.warnings, *made.warnings], quiet)
    click.echo(output)


# bench history


@click.command()
@RESULTS
@click.option("--case", "name", default="", metavar="TEXT", help="Only cases whose name holds this.")
@click.option("--format", "format_", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True)
@click.option("--export", type=click.Choice(["otava-csv"]), help="Write files for another tool instead.")
@click.option(
    "--output", type=click.Path(path_type=Path), default="otava", show_default=True, help="Folder for --export."
)
@click.option("--alarm", is_flag=True, help="Exit with 1 while a slowdown is open: seen, not confirmed, not gone.")
@QUIET
def history(results: Path, name: str, format_: str, export: str | None, output: Path, alarm: bool, quiet: bool) -> None:
    """When did it become slower or faster? Steps in the stored runs, with the commits between which each lies."""
    from bench import baseline as baselines
    from bench import history as histories

    reading = baselines.Reading(results)
    series = histories.history(reading, name)
    _warn(reading.warnings, quiet)
    if export:
        for path in histories.otava(series, output):
            click.echo(path)
    else:
        click.echo(histories.render(series, format_), nl=False)
    sys.exit(1 if alarm and any(one.alarming for one in series) else 0)


def _warn(lines: Iterable[str], quiet: bool) -> None:
    if not quiet:
        for line in lines:
            click.echo(f"bench: {' '.join(line.split())}", err=True)


COMMANDS: tuple[click.Command, ...] = (check, baseline, history)
