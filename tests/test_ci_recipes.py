"""The recipes of docs/ci: each is parsed, and its shell part is run in a repository with a base and a branch."""

import os
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from lxml import etree

from bench import cli_compare

RECIPES = Path(__file__).resolve().parents[1] / "docs" / "ci"
GITHUB = yaml.safe_load((RECIPES / "github.yml").read_text())
GITLAB = yaml.safe_load((RECIPES / "gitlab.yml").read_text())
STEPS = GITHUB["jobs"]["compare"]["steps"]
GITHUB_SHELL = next(step["run"] for step in STEPS if "run" in step)
GITLAB_SHELL = "\n".join(GITLAB["bench"]["script"])
PRE_MERGE_SHELL = "ci/pre-merge.sh --model MobileNetV2 --backend onnxruntime"

# Stands in for Python: makes environments whose pip and bench write down what they are told.
PYTHON = """#!/usr/bin/env bash
set -eu
[ "$1 $2" = "-m venv" ]
mkdir -p "$3/bin"
cp "$STUBS/pip" "$STUBS/bench" "$3/bin"
ln -s "$STUBS/python3" "$3/bin/python"
"""
PIP = """#!/usr/bin/env bash
set -eu
for word; do [ -f "$word" ] && words="${words:-} <$(cat "$word")>" || words="${words:-} $word"; done
echo "pip of $(basename "$(dirname "$(dirname "$0")")"):${words}" >> "$STUBS/log"
"""
BENCH = """#!/usr/bin/env bash
printf '%q ' bench "$@" >> "$STUBS/log"
echo >> "$STUBS/log"
ls "$(dirname "$(dirname "$(dirname "$0")")")" > "$STUBS/folders"
exit "${BENCH_EXIT:-0}"
"""
# The same with the bench of this test and its Python.
REAL_PYTHON = """#!/usr/bin/env bash
set -eu
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$3/bin"
    cp "$STUBS/pip" "$STUBS/bench" "$3/bin"
    ln -s "$STUBS/python3" "$3/bin/python"
else
    exec {python} "$@"
fi
"""
REAL_BENCH = """#!/usr/bin/env bash
exec {python} {runner} "$@"
"""
RUNNER = """
import sys
from bench import cli, cli_compare
if "compare" not in cli.bench.commands:
    cli.bench.add_command(cli_compare.compare)
cli.main()
"""


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A branch that upgrades a requirement, with a commit of main's after the one it branched from."""
    folder = tmp_path / "repository"
    (folder / "ci").mkdir(parents=True)
    shutil.copy(RECIPES / "pre-merge.sh", folder / "ci")
    git(folder, "init", "--quiet", "--initial-branch", "main")
    for branch, requirement in (("main", "onnxruntime==1.20"), ("feature", "onnxruntime==1.21")):
        if branch != "main":
            git(folder, "checkout", "--quiet", "-b", branch)
        (folder / "requirements.txt").write_text(requirement)
        (folder / "model.onnx").write_text(branch)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", branch)
    git(folder, "checkout", "--quiet", "main")
    (folder / "requirements.txt").write_text("onnxruntime==9.99")
    git(folder, "commit", "--quiet", "--all", "--message", "later")
    git(folder, "checkout", "--quiet", "feature")
    return folder


@pytest.fixture
def stubs(tmp_path):
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name, text in {"python3": PYTHON, "pip": PIP, "bench": BENCH}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def run(shell, repository, stubs, **variables):
    temporary = stubs / "temporary"
    temporary.mkdir(exist_ok=True)
    environ = {
        **os.environ,
        "PATH": f"{stubs}:{os.environ['PATH']}",
        "STUBS": str(stubs),
        "TMPDIR": str(temporary),
        "BASE": "main",
        **variables,
    }
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", shell],
        cwd=repository,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert list(temporary.iterdir()) == [], "nothing is left behind"
    assert git(repository, "worktree", "list").count("\n") == 0
    return done


def told(stubs):
    *pips, bench = (stubs / "log").read_text().splitlines()
    return pips, shlex.split(bench)


def options(words):
    return dict(pairwise(words))


@pytest.mark.parametrize("shell", [PRE_MERGE_SHELL, GITHUB_SHELL, GITLAB_SHELL], ids=["pre-merge", "github", "gitlab"])
def test_base_and_head_are_compared_in_one_job(shell, repository, stubs):
    done = run(shell, repository, stubs)
    assert done.returncode == 0, done.stderr
    pips, words = told(stubs)
    assert pips == [
        "pip of base-env: install --quiet msgspec numpy psutil -r <onnxruntime==1.20>",
        "pip of head-env: install --quiet msgspec numpy psutil -r <onnxruntime==1.21>",
        "pip of bench-env: install --quiet bench[cpu]",
    ]
    assert words[:2] == ["bench", "compare"]
    given = options(words)
    assert given["--python-a"].endswith("/base-env/bin/python")
    assert given["--python-b"].endswith("/head-env/bin/python")
    assert (given["--model"], given["--backend"]) == ("MobileNetV2", "onnxruntime")
    assert (stubs / "folders").read_text().split() == ["base", "base-env", "bench-env", "head-env"]


@pytest.mark.parametrize("shell", [PRE_MERGE_SHELL, GITHUB_SHELL, GITLAB_SHELL], ids=["pre-merge", "github", "gitlab"])
def test_the_words_are_those_of_bench_compare(shell, repository, stubs):
    run(shell, repository, stubs)
    _, words = told(stubs)
    cli_compare.compare.make_context("compare", words[2:])


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
@pytest.mark.parametrize("shell", [PRE_MERGE_SHELL, GITHUB_SHELL, GITLAB_SHELL], ids=["pre-merge", "github", "gitlab"])
def test_the_exit_code_is_that_of_bench(shell, repository, stubs, code):
    assert run(shell, repository, stubs, BENCH_EXIT=str(code)).returncode == code


def test_a_model_file_that_changes_is_two_sides(repository, stubs):
    run(PRE_MERGE_SHELL, repository, stubs, MODEL_FILE="model.onnx", BENCH_PACKAGE="../bench checkout")
    pips, words = told(stubs)
    assert pips[-1] == "pip of bench-env: install --quiet ../bench checkout"
    sides = [word for word in words if word.endswith("/model.onnx")]
    assert sides[0].endswith("/base/model.onnx")
    assert sides[1] == str(repository / "model.onnx")


def test_a_base_that_is_not_there_ends_it(repository, stubs):
    done = run(PRE_MERGE_SHELL, repository, stubs, BASE="nowhere")
    assert done.returncode not in (0, 1, 3, 4)
    assert not (stubs / "log").exists()


def test_a_failed_installation_ends_it(repository, stubs):
    (stubs / "pip").write_text("#!/bin/sh\nexit 7\n")
    assert run(PRE_MERGE_SHELL, repository, stubs).returncode == 7
    assert not (stubs / "log").exists()


def test_what_the_services_read_is_what_is_written(repository, stubs):
    run(GITLAB_SHELL, repository, stubs)
    gitlab = {word for word in told(stubs)[1] if "=" in word}
    reports = GITLAB["bench"]["artifacts"]["reports"]
    assert gitlab == {f"junit={reports['junit']}", f"gitlab={reports['codequality']}"}
    assert GITLAB["bench"]["allow_failure"] == {"exit_codes": 4}
    assert GITLAB["bench"]["artifacts"]["when"] == "always"
    (stubs / "log").unlink()
    run(GITHUB_SHELL, repository, stubs)
    written = {word.partition("=")[2] for word in told(stubs)[1] if "=" in word}
    upload = STEPS[-1]
    assert upload["if"] == "always()"
    assert written < set(upload["with"]["path"].split())
    assert options(told(stubs)[1])["--format"] == "github"


def test_the_base_is_that_of_the_pull_request():
    step = next(step for step in STEPS if "run" in step)
    assert step["env"] == {"BASE": "${{ github.event.pull_request.base.sha }}"}
    assert STEPS[0]["with"]["fetch-depth"] == 0
    assert GITLAB["bench"]["variables"] == {"GIT_DEPTH": "0", "BASE": "$CI_MERGE_REQUEST_DIFF_BASE_SHA"}


@pytest.mark.parametrize(("slower_us", "code", "outcome"), [("1000", 0, "PASS"), ("1100", 1, "REGRESSION")])
def test_the_script_with_bench_itself(repository, stubs, tmp_path, slower_us, code, outcome):
    """On the simulated backend, whose latencies are known; the environments are stand-ins for this Python."""
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    (stubs / "pip").write_text("#!/bin/sh\n")
    (stubs / "python3").write_text(REAL_PYTHON.format(python=sys.executable))
    (stubs / "bench").write_text(REAL_BENCH.format(python=sys.executable, runner=runner))
    shell = f"ci/pre-merge.sh --model DPN68 --backend simulated --set-b simulated.median_us={slower_us}"
    shell += " --set simulated.seed=7 --format github --output junit=bench.xml --quiet"
    done = run(shell, repository, stubs, BENCH_CACHE=str(tmp_path / "cache"))
    assert done.returncode == code, done.stderr
    assert f"{outcome} " in done.stdout
    root = etree.parse(repository / "bench.xml").getroot()
    assert root.find("testsuite").get("failures") == str(code)
    assert ("::error title=REGRESSION" in done.stdout) == (code == 1)
