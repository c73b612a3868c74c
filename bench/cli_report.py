"""`bench report`, `bench pick` and `bench lint` → one call each."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from bench.arguments import checked, fraction, millions, milliseconds, positive, show, size, warn
from bench.errors import UsageError, unknown

if TYPE_CHECKING:
    from bench.lint import Finding
    from bench.report import Source

SOURCES = click.Choice(["measured", "published", "both"])
LINT_FORMATS = ("text", "json")
FILTERS = ("family", "device", "model", "backend", "run_id", "interval")


@click.command()
@click.option("--format", "format_", metavar="NAME", help="[default: markdown; with --lint: text]")
@click.option("--layout", type=click.Choice(["default", "paddleclas"]), default="default", show_default=True)
@click.option(
    "--source", type=SOURCES, help="Records, the zoos' figures, or both.  [default: measured; paddleclas: published]"
)
@click.option("--lang", "language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
@click.option("--provenance", is_flag=True, help="Say of each figure where it is from.")
@click.option(
    "--results", type=click.Path(path_type=Path), default="results", show_default=True, help="Folder or file."
)
@click.option("--family", help="Only this family; its page, in the layout of a zoo.")
@click.option("--device", help="Only this device.")
@click.option("--model", help="Only this model.")
@click.option("--backend", help="Only this backend.")
@click.option("--run", "run_id", help="Only this run.  [default: the newest run that has a case]")
@click.option("--interval", type=click.Choice(["compute", "end_to_end", "device"]), help="Only this interval.")
@click.option("--output", type=click.Path(path_type=Path), help="Write into this folder, with plots.")
@click.option("--lint", "checking", is_flag=True, help="Say which of the figures can't be right, instead.")
def report(format_: str | None, source: str | None, output: Path | None, checking: bool, **asked: Any) -> None:
    """Tables and plots from records and from published figures."""
    from bench import formats
    from bench import report as reports

    chosen = source or reports.USUAL_SOURCES[asked["layout"]]
    if checking:
        check_figures(cast("Source", chosen), format_ or "text", output, asked)
        return
    format_module = reports.get(format_ or "markdown")
    built = reports.build(source=cast("Source", chosen), **asked)
    warn(built.warnings)
    text = format_module.render(built)
    if output is None:
        show(text)
        return
    click.echo(formats.save(output / f"report{format_module.suffix}", text, "name another folder"))
    from bench.report import plots

    warn(plots.notes(built))
    for path in plots.write(built, output / "plots"):
        click.echo(path)


@click.command()
@click.option("--device", required=True, metavar="ID", help="Where the model shall run.")
@click.option("--max-latency", "max_latency_ms", type=checked("15ms", milliseconds), help="Of the whole batch.")
@click.option("--min-top1", type=checked("0.72", fraction), help="Top-1 accuracy on ImageNet.")
@click.option("--max-params", "max_params_m", type=checked("10M", millions), help="Trained parameters.")
@click.option("--max-size", type=checked("20MB", size), help="Of the model's file.")
@click.option("--max-gmacs", type=click.FloatRange(min=0, min_open=True), help="Multiply-accumulates, in G.")
@click.option("--backend", help="Only this backend.")
@click.option("--precision", help="Only this precision.")
@click.option("--batch-size", type=checked("N", positive), help="Only this batch size.")
@click.option("--threads", type=checked("N", positive), help="Only this number of threads.")
@click.option("--interval", type=click.Choice(["compute", "end_to_end", "device"]), help="Of which latency.")
@click.option("--source", type=SOURCES, help="Records, published figures, or both.  [default: records, if any]")
@click.option("--results", type=click.Path(path_type=Path, exists=True), help="Folder or file.  [default: results]")
@click.option("--from-device", metavar="ID", help="Rank by this device's figures, and say so: they are extrapolated.")
@click.option("--all", "every", is_flag=True, help="Each row that fits, not only the fastest of a model.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "markdown", "json", "csv"]),
    default="text",
    show_default=True,
)
def pick(results: Path | None, format_: str, max_size: int | None, **asked: Any) -> None:
    """Models that keep the limits on a device, best accuracy first, the Pareto front marked.

    Exit code 1 if none fits: one line then says what came nearest. 3 if there are no figures of the device.
    """
    from bench.report import pick as picking

    wanted = picking.Wanted(**asked, max_size_mb=None if max_size is None else max_size / 1e6)
    picked = picking.pick(results or Path("results"), wanted)
    warn(picked.warnings)
    show(picking.FORMATS[format_](picked))
    if picked.nothing:
        raise picked.nothing


def check_figures(source: "Source", format_: str, output: Path | None, asked: dict[str, Any]) -> None:
    from bench import lint as linter

    if format_ not in LINT_FORMATS:
        raise unknown("format of --lint", format_, list(LINT_FORMATS), "name one of these with --format")
    if output is not None:
        raise UsageError("--lint prints its findings", "--output is given too", "leave it out, and redirect the output")
    filters = {name: asked[name] for name in FILTERS if asked[name] is not None}
    findings, warnings = linter.of_report(asked["results"], source, **filters)
    warn(warnings)
    show_findings(findings, format_)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE.md|FILE.csv...")
@click.option("--format", "format_", type=click.Choice(LINT_FORMATS), default="text", show_default=True)
def lint(files: tuple[Path, ...], format_: str) -> None:
    """Which figures of foreign tables can't be right, and why.

    Exit code 1 if a figure is wrong or doubtful, 0 if there is nothing but information.
    """
    from bench import lint as linter

    findings, notes = linter.files(files)
    warn(notes)
    show_findings(findings, format_)


def show_findings(findings: "list[Finding]", format_: str) -> None:
    from bench import lint as linter
    from bench.lint import output

    show(output.FORMATS[format_](findings))
    sys.exit(linter.exit_code(findings))


COMMANDS = (report, pick, lint)
