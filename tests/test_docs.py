"""The README says what is true: its commands are those that CI runs, its names exist, its blocks are current."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from bench import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_ci_calls_the_test_command_of_the_readme():
    command = FENCED[1].strip()
    assert command.endswith("nox")
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert command in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def commands():
    """Every `bench …` line of README.md and docs/."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    blocks = [
        block
        for page in pages
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    ]
    lines = [line.rpartition(" && ")[2].strip() for block in blocks for line in block.splitlines()]
    return sorted({line.removeprefix(".venv/bin/") for line in lines if re.match(r"(\.venv/bin/)?bench ", line)})


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_documents_parse(line):
    words = shlex.split(line, comments=True)[1:]
    group, context = cli.bench, None
    while hasattr(group, "resolve_command"):
        context = group.make_context("bench", words, parent=context, resilient_parsing=False)
        _, group, words = group.resolve_command(context, [*context._protected_args, *context.args])
    group.make_context("bench", list(words), parent=context)


def test_generated_blocks_are_current():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for page in generate.PAGES:
        text = page.read_text(encoding="utf-8")
        assert generate.regenerated(text) == text


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "design.md"])
def test_links_and_files_named_in_documents_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:tests|docs|bench|models)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).exists(), name
