"""Makes what stands in this folder: `python reports/generate.py`; with `--check`, says what is stale instead.

Published figures come from `models/published/`, measured ones from `reports/records/`. Plots depend on versions, so
`nox -s reports` takes those of `reports/requirements.txt`.
"""

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from PIL import Image

from bench import published

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "reports"
RECORDS = "reports/records"
#: what is made; the rest of the folder is kept
MADE = ("README.md", "published", "measured")
ODD_PIXELS = 0.01
#: those whose pages the mission names come first on the index
FIRST = ("DPN", "MobileNetV1", "MobileNetV2", "MobileOne", "PP-LCNetV2")


def bench(*arguments: str, statuses: tuple[int, ...] = (0,)) -> str:
    """What a command prints, run in the root of the checkout."""
    command = [sys.executable, "-m", "bench.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "100"}, capture_output=True, text=True)
    if done.returncode not in statuses:
        sys.exit(f"bench {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def families() -> list[str]:
    """Those with a published latency."""
    models = published.models()
    found = {models[each.model].family for each in published.latencies()}
    return [*FIRST, *sorted(found - set(FIRST))]


def make(folder: Path) -> None:
    """Everything, into an empty folder."""
    for name in families():
        page("published/" + name, folder, "--layout", "paddleclas", "--family", name)
    for name in FIRST:
        page(f"published/{name}.zh", folder, "--layout", "paddleclas", "--family", name, "--lang", "zh")
    plots(folder / "published", "--layout", "paddleclas")
    findings = bench("report", "--lint", "--source", "published", statuses=(0, 1))
    write(folder / "published" / "lint.txt", findings)
    plots(folder / "measured", "--results", RECORDS)
    page("measured/report", folder, "--results", RECORDS)
    beside = ("--layout", "paddleclas", "--source", "both", "--family", "MobileNetV1")
    page("measured/beside-published", folder, "--results", RECORDS, *beside)
    write(folder / "README.md", index(findings))


def page(name: str, folder: Path, *asked: str) -> None:
    write(folder / f"{name}.md", bench("report", *asked))


def plots(folder: Path, *asked: str) -> None:
    """The zoo's plots and the fronts, as PNG: a repository had better not hold everything twice."""
    with tempfile.TemporaryDirectory() as place:
        bench("report", *asked, "--output", place)
        for path in sorted(Path(place, "plots").glob("[!b]*.png")):  # no latency by batch size: ten large pages
            (folder / "plots").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "plots" / path.name)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


INDEX = """# Reports

Made by `nox -s reports` from the figures that the zoos published and from a small set of records of this project;
never edited by hand. `nox -s stale` fails when something here is stale.

**Which models are worth their time on a phone?** Published figures of a Snapdragon 855, one thread:

![Accuracy against latency on a Snapdragon 855](published/plots/mobile_arm_top1.png)

```
$ {pick}
{picked}
```

## Published

The pages of the zoo, regenerated: same columns, rows and rounding, the documents they are from below each table.
{first}

All other families: {others}.

[Which of these figures can't be right](published/lint.txt): {findings}.

## Measured

[A report](measured/report.md) on five small models and three runtimes on one CPU. A shared virtual machine
measured them in short: they show what a report looks like, and are no reference.
[A page of the zoo](measured/beside-published.md) asked for with both sources: what was counted stands beside
what was published, but no latency of another device. Made by

```sh
{measured}
```

![Accuracy against latency on that CPU](measured/plots/{front})

## More

`bench report --source published --format html --output site` writes one page with all published figures, a Pareto
plot to choose from and tables to sort; `--format csv`, `json` and `latex` the same for other programs.
"""
PICK = "pick --device sd855 --threads 1 --max-latency 15ms --min-top1 0.72 --source published"
FRONT = "front.cpu.onnxruntime.fp32.bs1.t1.compute.measured.png"
MEASURED = (
    "bench run --model MobileNetV1_x0_25 --model MobileNetV2 --model MobileNetV3_small_x1_0 --model PPLCNet_x1_0 "
    "--model MobileOne_S0 --device cpu --batch-size 1,4,8 --threads 1 --iterations 40 --repetitions 3 "
    "--results reports/records"
)


def index(findings: str) -> str:
    return INDEX.format(
        pick=f"bench {PICK}",
        picked=bench(*PICK.split()).rstrip(),
        first="".join(f"\n- [{name}](published/{name}.md), [中文](published/{name}.zh.md)" for name in FIRST),
        others=", ".join(f"[{name}](published/{name}.md)" for name in families()[len(FIRST) :]),
        findings=findings.splitlines()[-1],
        measured=MEASURED,
        front=FRONT,
    )


def stale(fresh: Path) -> list[str]:
    """Files that differ from fresh ones, or that only one side has."""
    sides = [{path.relative_to(side): path for path in made(side)} for side in (fresh, HERE)]
    names = sorted({*sides[0], *sides[1]})
    return [str(name) for name in names if not same(*(side.get(name) for side in sides))]


def made(side: Path) -> list[Path]:
    return [path for name in MADE for path in [side / name, *(side / name).rglob("*")] if path.is_file()]


def same(one: Path | None, other: Path | None) -> bool:
    """Equal bytes. Of pictures 99 of 100 pixels: another CPU rounds otherwise, and a label may lie elsewhere for it."""
    if one is None or other is None:
        return False
    if filecmp.cmp(one, other, shallow=False):
        return True
    if one.suffix != ".png":
        return False
    left, right = (numpy.asarray(Image.open(path).convert("RGB"), dtype=int) for path in (one, other))
    return left.shape == right.shape and bool((abs(left - right).max(axis=2) > 0).mean() <= ODD_PIXELS)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        fresh = Path(place)
        make(fresh)
        if "--check" in sys.argv:
            found = stale(fresh)
            if found:
                sys.exit(f"stale: {', '.join(found)}; make them again with: nox -s reports")
            return
        for name in MADE:
            shutil.rmtree(HERE / name, ignore_errors=True)
            (shutil.copytree if (fresh / name).is_dir() else shutil.copy)(fresh / name, HERE / name)


if __name__ == "__main__":
    main()
