"""Reads what `trtexec --exportTimes` writes: a JSON array with an object for each query after the warm-up.

The format is the same in 8.5 to 11.1 (samples/common/sampleReporting.cpp). Every number has six significant digits, so
that ends of spans are known to 10 µs after a second and to 100 µs after ten; the lengths, which are written too, to six
digits of their own. Only the enqueue call has no length of its own there.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from bench.errors import UsageError
from bench.schema import Frozen
from bench.trtexec.definitions import Query, Span, Summary, Timing, Version, single, summarised

EXPORT_AGAIN = "give the file that trtexec 8.5 or newer wrote with --exportTimes"
#: single precision counts no more than whole units of 64 ms beyond, eleven days
MOST_MS = 1e9
DIGITS = 6


class Entry(Frozen, frozen=True):
    """A query as it stands in a file, in ms."""

    start_enqueue: float = msgspec.field(name="startEnqMs")
    end_enqueue: float = msgspec.field(name="endEnqMs")
    start_h2d: float = msgspec.field(name="startH2dMs")
    end_h2d: float = msgspec.field(name="endH2dMs")
    start_compute: float = msgspec.field(name="startComputeMs")
    end_compute: float = msgspec.field(name="endComputeMs")
    start_d2h: float = msgspec.field(name="startD2hMs")
    end_d2h: float = msgspec.field(name="endD2hMs")
    h2d: float = msgspec.field(name="h2dMs")
    compute: float = msgspec.field(name="computeMs")
    d2h: float = msgspec.field(name="d2hMs")
    latency: float = msgspec.field(name="latencyMs")

    @property
    def query(self) -> Query:
        return Query(
            enqueue=Span(self.start_enqueue, self.end_enqueue),
            h2d=Span(self.start_h2d, self.end_h2d),
            compute=Span(self.start_compute, self.end_compute),
            d2h=Span(self.start_d2h, self.end_d2h),
        )

    @property
    def timing(self) -> Timing:
        enqueue = single(single(self.end_enqueue) - single(self.start_enqueue))
        return Timing(enqueue, *map(single, (self.h2d, self.compute, self.d2h, self.latency)))


class Times(Frozen, frozen=True):
    """A file of times. `sha256` and `size_bytes` are of its bytes."""

    entries: tuple[Entry, ...]
    sha256: str
    size_bytes: int

    @property
    def transfers(self) -> bool:
        """Whether any query copied something: without transfers trtexec writes empty spans."""
        return any(entry.h2d or entry.d2h for entry in self.entries)

    @property
    def enqueue_step_ms(self) -> float:
        """How finely the ends of the enqueue calls are known, in the worst case."""
        return max(_unit(entry.end_enqueue) for entry in self.entries)

    def summary(self, release: Version) -> Summary:
        """What trtexec printed, to the digits that the file has. An implicit batch (8.x) is not known here."""
        return summarised([entry.query for entry in self.entries], [entry.timing for entry in self.entries], release)


_decoder = msgspec.json.Decoder(tuple[Entry, ...])


def read(file: Path) -> Times:
    """The times of a file. Raises UsageError for one that can't be read, and for what trtexec can't have written."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}", error.strerror or str(error), "check the path") from error
    try:
        entries = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(file, str(error)) from error
    if not entries:
        raise _refusal(file, "it holds no query")
    if fault := next(_faults(entries), ""):
        raise _refusal(file, fault)
    return Times(entries, hashlib.sha256(data).hexdigest(), len(data))


def _refusal(file: Path, found: str) -> UsageError:
    return UsageError(f"{file} holds no times of trtexec", found, EXPORT_AGAIN)


def _faults(entries: Sequence[Entry]) -> Iterator[str]:
    """What no trace of trtexec has, queries counted from 1."""
    for number, entry in enumerate(entries, 1):
        if fault := _fault(entry):
            yield f"query {number}: {fault}"
    for number, (before, after) in enumerate(pairwise(entries), 2):
        if after.start_h2d < before.start_h2d:
            yield f"query {number} starts before the one above it"


def _fault(entry: Entry) -> str:
    """What is wrong with a query, if anything."""
    if not all(0 <= value <= MOST_MS for value in msgspec.structs.astuple(entry)):
        return f"times from 0 to {MOST_MS:g} ms are needed"
    enqueue, *spans = entry.query
    ends = [end for span in spans for end in span]
    if enqueue.start > enqueue.end or ends != sorted(ends):
        return "its spans don't follow one another"
    return _contradiction(entry) if entry.compute else "computeMs is 0"


def _contradiction(entry: Entry) -> str:
    """What is written twice, and not alike."""
    lengths = {"h2d": entry.h2d, "compute": entry.compute, "d2h": entry.d2h}
    for (name, length), (start, end) in zip(lengths.items(), entry.query[1:], strict=True):
        if abs(end - start - length) > _rounding(start, end, length):
            return f"{name}Ms is not what lies between its start and its end"
    if abs(sum(lengths.values()) - entry.latency) > _rounding(*lengths.values(), entry.latency):
        return "latencyMs is not the sum of h2dMs, computeMs and d2hMs"
    return ""


def _rounding(*values: float) -> float:
    """How far a sum of printed values may be off: half a unit of the last digit of each.

    Sums in single precision add an eighth of a unit at most: 2 ** -24 of up to a million units, twice.
    """
    return 0.63 * sum(map(_unit, values))


def _unit(value: float) -> float:
    """One unit of the last of six significant digits."""
    return 10.0 ** (math.floor(math.log10(value)) - DIGITS + 1) if value else 0.0
