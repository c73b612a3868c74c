"""Made-up runs, written as `trtexec --exportTimes` writes them; `python tests/trtexec_trace.py` makes the files."""

import itertools
import random
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "data" / "trtexec"
#: what each file stands for: GPU compute, one copy (0: no transfers) and enqueue, all in ms, and how many queries
FILES = {"8.6": (25.0, 0.4, 0.9, 60), "10.13": (1.9, 0.21, 0.05, 160), "11.1": (1.3, 0.0, 0.02, 200)}
WARMUP_MS = 200.0
NAMES = ("startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs", "startD2hMs", "endD2hMs")


def timeline(compute, copy, enqueue, count, depth=2, seed=0, gap=0.004):
    """A row a query: the start and the end of enqueue, H2D, compute and D2H in ms, and of the whole on the host.

    At most `depth` queries are in flight. Each of three streams does one thing at a time, and `gap` later the next.
    """
    draw = random.Random(seed)
    rows = []
    host = 0.05
    h2d_free = compute_free = d2h_free = 0.0
    for index in range(count):
        if index >= depth:
            host = max(host, rows[index - depth][7] + gap)
        called = host
        lengths = [length * draw.lognormvariate(0, 0.004) for length in (copy, compute, copy, enqueue)]
        h2d = max(h2d_free, host + gap)
        h2d_free = h2d + lengths[0]
        start = max(compute_free, h2d_free + gap) if copy else max(compute_free + gap, host + gap)
        host += lengths[3]
        compute_free = start + lengths[1]
        d2h = max(d2h_free, compute_free + gap)
        d2h_free = d2h + lengths[2]
        spans = (h2d, h2d_free, start, compute_free, d2h, d2h_free)
        if not copy:
            spans = (start, start, start, compute_free, compute_free, compute_free)
        rows.append((called, host, *spans))
    return rows


def printed(value):
    """As a C++ stream prints a float: six significant digits."""
    return f"{float(value):g}"


def exported(rows):
    """The text of a file of these queries, their times in single precision."""
    lines = []
    for row in np.array(rows, dtype=np.float32):
        h2d, compute, d2h = row[3] - row[2], row[5] - row[4], row[7] - row[6]
        lengths = {"h2dMs": h2d, "computeMs": compute, "d2hMs": d2h, "latencyMs": h2d + compute + d2h}
        pairs = itertools.chain(zip(NAMES, row, strict=True), lengths.items())
        lines.append("{ " + ", ".join(f'"{name}" : {printed(value)}' for name, value in pairs) + " }\n")
    # The separator is two blanks for the first thing written, a comma and a blank from then on.
    return "[\n" + "".join(f"{', ' if index else '  '}{line}" for index, line in enumerate(lines)) + "]\n"


def measured(compute, copy, enqueue, count, **more):
    """The queries of a run that count: from the first one on that computes after the warm-up."""
    rows = timeline(compute, copy, enqueue, count, **more)
    return list(itertools.dropwhile(lambda row: np.float32(row[4]) < np.float32(WARMUP_MS), rows))


def main():
    for release, (compute, copy, enqueue, count) in FILES.items():
        (FOLDER / f"{release}.json").write_text(exported(measured(compute, copy, enqueue, count)))


if __name__ == "__main__":
    main()
