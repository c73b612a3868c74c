"""`bench import` → one call."""

import sys
from pathlib import Path
from typing import Any

import click

from bench.arguments import checked, positive, show, warn

PRECISION = click.Choice(["fp32", "fp16", "bf16", "int8"])


@click.group(name="import")
def import_() -> None:
    """Other tools' measurements as records that say so."""


@import_.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--model", required=True, metavar="NAME", help="A card, or a model file.")
@click.option("--device", required=True, metavar="ID", help="The GPU that it was measured on.")
@click.option("--precision", required=True, type=PRECISION, help="Of the engine.")
@click.option("--batch-size", required=True, type=checked("N", positive), help="Of the engine's inputs.")
@click.option("--trtexec-version", "version", required=True, metavar="X.Y", help="Such as 10.13; definitions differ.")
@click.option("--results", type=click.Path(path_type=Path), default="results", show_default=True)
def trtexec(file: Path, results: Path, **asked: Any) -> None:
    """A file of trtexec --exportTimes: its GPU compute times as interval `device`, and its own summary.

    FILE says nothing of what was measured, so that the options must. docs/trtexec.md has the definitions.
    """
    from bench.trtexec import definitions, records

    imported = records.save(file, records.Asked(**asked), results, ("bench", *sys.argv[1:]))
    show(definitions.text(imported.summary))
    warn(f"{doubt.reason}: {doubt.evidence}" for doubt in imported.record.validity)
    click.echo(f"bench: {imported.record.case.key}; records: {imported.path}", err=True)


COMMANDS = (import_,)
