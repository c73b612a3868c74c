"""`bench report`, `bench pick` and `bench lint` → one call each."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from bench.arguments import show
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.report import Source

SOURCES = click.Choice(["measured", "published", "both"])


@click.command()
@click.option("--format", "format_", default="markdown", show_default=True, metavar="NAME")
@click.option("--layout", type=click.Choice(["default", "paddleclas"]), default="default", show_default=True)
@click.option(
    "--source", type=SOURCES, help="Records, the zoos' figures, or both.  [default: measured; paddleclas: published]"
)
@click.option("--lang", "language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
@click.option("--provenance", is_flag=True, help="Say of each figure where it is from.")
@click.option(
    "--results", type=click.Path(path_type=Path), default="results", show_default=True, help="Folder or file."
)
@click.option("--family", help="Only this family.")
@click.option("--device", help="Only this device.")
@click.option("--model", help="Only this model.")
@click.option("--backend", help="Only this backend.")
@click.option("--run", "run_id", help="Only this run.  [default: the newest run that has a case]")
@click.option("--interval", type=click.Choice(["compute", "end_to_end"]), help="Only this interval.")
@click.option("--output", type=click.Path(path_type=Path), help="Write into this folder, with plots.")
def report(format_: str, source: str | None, output: Path | None, **asked: Any) -> None:
    """Tables and plots from records and from published figures."""
    from bench import report as reports

    format_module = reports.get(format_)
    chosen = source or ("published" if asked["layout"] == "paddleclas" else "measured")
    built = reports.build(source=cast("Source", chosen), **asked)
    warn(built.warnings)
    text = format_module.render(built)
    if output is None:
        show(text)
        return
    click.echo(write(output / f"report{format_module.suffix}", text))


def warn(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(f"bench: {line}", err=True)


def write(path: Path, text: str) -> Path:
    """The file, with its folder. Raises UsageError where that can't be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}", error.strerror or str(error), "name another folder") from error
    return path


COMMANDS = (report,)
