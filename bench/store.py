"""Append and read records: JSON Lines, one file a run, a header first.

A line is on the disk before the next case starts. A line cut off in its middle loses itself and nothing
else; files copied together merge, since every line names its run.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

import msgspec

from bench.compared import Comparison, PairRecord
from bench.errors import BenchError, UsageError
from bench.schema import SCHEMA, Frozen, Record


class Header(Frozen, frozen=True, kw_only=True, omit_defaults=False, tag_field="kind", tag="header"):
    """How a run was asked for and where it ran. `request` is what `--resume` goes on with."""

    schema: int = SCHEMA
    run_id: str
    started_at: str
    bench_version: str
    command: tuple[str, ...] = ()
    request: dict[str, Any] = {}
    commit: str | None = None
    environment_id: str = ""
    environment: dict[str, Any] = {}


class Line(Record, frozen=True, kw_only=True, omit_defaults=False, tag_field="kind", tag="record"):
    """A record as it stands in a file: every field, above all the schema, which no later default may change."""


class PairLine(PairRecord, frozen=True, kw_only=True, tag_field="kind", tag="pair"):
    """An attempt at a live pair, as `bench compare` leaves it in a file."""


class ComparisonLine(Comparison, frozen=True, kw_only=True, tag_field="kind", tag="comparison"):
    """The verdict of `bench compare` on a case, as it stands in a file."""


AnyLine = Header | Line | PairLine | ComparisonLine
PlainT = TypeVar("PlainT", Record, PairRecord, Comparison)


class NoRun(UsageError):
    """A file without a readable header: a run that never began, or none at all."""


class Run(msgspec.Struct, frozen=True):
    """A run read back. `damaged` counts lines that could not be read; a resumed run has several headers."""

    path: Path
    headers: tuple[Header, ...]
    records: tuple[Record, ...]
    damaged: int = 0
    pairs: tuple[PairRecord, ...] = ()
    comparisons: tuple[Comparison, ...] = ()

    @property
    def run_id(self) -> str:
        return self.headers[-1].run_id


class _Version(msgspec.Struct):
    schema: int = 0


# What decoding a line may raise: garbage, other bytes than UTF-8, brackets nested without end.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyLine)


def now() -> str:
    """UTC to the microsecond, so that records sort as they happened."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def new_run_id() -> str:
    return secrets.token_hex(4)


class RunFile:
    """An open file of records, locked against a second writer until it is closed."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    @classmethod
    def create(cls, folder: Path, header: Header) -> Self:
        """Starts `<folder>/<UTC start>-<run id>.jsonl`. Raises UsageError where that can't be written."""
        stamp = header.started_at[:19].replace(":", "").replace("-", "") + "Z"
        path = folder / f"{stamp}-{header.run_id}.jsonl"
        # It gets its name once the header is in it: killed before that, it is nothing that a reader would stumble over.
        unborn = path.with_suffix(".unborn")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self = cls._open(unborn, header)
            self.path = unborn.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                unborn.unlink()
            raise UsageError(
                f"cannot write results to {folder}", error.strerror or str(error), "name another with --results DIR"
            ) from error
        return self

    @classmethod
    def reopen(cls, path: Path, header: Header) -> Self:
        """Goes on in a run's file. Raises UsageError where another process is still writing it."""
        try:
            return cls._open(path, header)
        except BlockingIOError as error:
            raise UsageError(f"run {header.run_id} is still going", str(path), "wait for it, or stop it") from error
        except OSError as error:
            raise UsageError(f"cannot write {path}", error.strerror or str(error), "check its permissions") from error

    @classmethod
    def _open(cls, path: Path, header: Header) -> Self:
        file = path.open("ab", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self = cls(path, file)
            if _torn(path):
                file.write(b"\n")
            self._write(header)
        except BaseException:
            file.close()
            raise
        return self

    def append(self, record: Record) -> None:
        """On disk when this returns. Raises BenchError where it could not be saved, for instance on a full disk."""
        try:
            self._write(Line(**msgspec.structs.asdict(record)))
        except OSError as error:
            raise BenchError(
                f"cannot save a record of {record.case.key} to {self.path}",
                error.strerror or str(error),
                "make room, then go on with: bench run --resume",
            ) from error

    def keep(self, found: PairRecord | Comparison) -> None:
        """On disk when this returns, like `append`."""
        line = PairLine if isinstance(found, PairRecord) else ComparisonLine
        try:
            self._write(line(**msgspec.structs.asdict(found)))
        except OSError as error:
            raise BenchError(
                f"cannot save a pair of {found.key} to {self.path}",
                error.strerror or str(error),
                "make room, and compare again",
            ) from error

    def _write(self, line: AnyLine) -> None:
        rest = memoryview(_encode(line))
        end = os.fstat(self._file.fileno()).st_size
        try:
            # A full disk takes a part first, and says why at the next try.
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), end)
            raise

    def discard(self) -> None:
        """Takes the file away again: of a run that turned out to be impossible nothing is left."""
        self.path.unlink()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _encode(line: AnyLine) -> bytes:
    """Raises UsageError, or BenchError, for what could not be read again: JSON has no infinity, for one."""
    try:
        data = _encoder.encode(line) + b"\n"
        _decoder.decode(data)
    except UnicodeEncodeError as error:
        raise UsageError(
            "cannot save a name that is not valid UTF-8", f"found in {error.object!r}", "rename the file or folder"
        ) from error
    except msgspec.DecodeError as error:
        raise BenchError("cannot save what could not be read again", str(error), "this is a bug of bench") from error
    return data


def _torn(path: Path) -> bool:
    """Whether the last line lacks its end, as a killed writer leaves it."""
    size = path.stat().st_size
    if not size:
        return False
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) != b"\n"


class Unreadable(msgspec.Struct, frozen=True):
    """A line that is no record to this bench: damaged, or of a newer bench, whose `schema` it names."""

    schema: int = 0

    @property
    def newer(self) -> bool:
        return self.schema > SCHEMA


def lines(path: Path) -> Iterator[tuple[int, AnyLine | Unreadable]]:
    """Each line that is not blank with its number, from 1; one at a time, for files that are larger than the memory.

    Raises UsageError for a file that can't be read.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield number, _decoded(raw)
    except OSError as error:
        raise UsageError(f"cannot read {path}", error.strerror or str(error), "check the path") from error


def _decoded(raw: bytes) -> AnyLine | Unreadable:
    try:
        line = _decoder.decode(raw)
    except UNREADABLE:
        return Unreadable(_version(raw))
    return Unreadable(line.schema) if line.schema > SCHEMA else line


def read(path: Path) -> Run:
    """All readable lines of a run's file.

    Raises UsageError for a file that can't be opened or was written by a newer bench, NoRun for one without a header.
    """
    found: list[AnyLine] = []
    damaged = 0
    for number, line in lines(path):
        if not isinstance(line, Unreadable):
            found.append(line)
        elif line.newer:
            raise refusal(path, number, line)
        else:
            damaged += 1
    headers = tuple(line for line in found if isinstance(line, Header))
    if not headers:
        raise no_run(path)
    return Run(
        path=path,
        headers=headers,
        records=_last_words(_plain(Record, found)),
        damaged=damaged,
        pairs=_plain(PairRecord, found),
        comparisons=_plain(Comparison, found),
    )


def _plain(kind: type[PlainT], lines: Iterable[AnyLine]) -> tuple[PlainT, ...]:
    """The lines of one kind, no longer as they stand in a file."""
    return tuple(kind(**msgspec.structs.asdict(line)) for line in lines if isinstance(line, kind))


def _last_words(records: Iterable[Record]) -> tuple[Record, ...]:
    """One record of each repetition that was begun: what was found out about it later is on a later line."""
    return tuple({(each.run_id, each.case, each.repetition, each.started_at): each for each in records}.values())


def _version(raw: bytes) -> int:
    """The schema that a line claims, 0 where it can't be told."""
    try:
        return msgspec.json.decode(raw, type=_Version).schema
    except UNREADABLE:
        return 0


def no_run(path: Path) -> NoRun:
    return NoRun(f"{path} holds no run", "no header line can be read", "name a file that bench run wrote")


def refusal(path: Path, number: int, line: Unreadable) -> UsageError:
    """What is said of a line of a newer bench."""
    return UsageError(
        f"{path}:{number} was written by a newer bench",
        f"schema {line.schema}, this bench reads up to {SCHEMA}",
        "upgrade bench",
    )


def paths(results: Path) -> list[Path]:
    """Files of runs below `results` (or the file itself), oldest first."""
    if results.is_file():
        return [results]
    return sorted((path for path in results.glob("**/*.jsonl") if path.is_file()), key=lambda path: path.name)


def read_all(results: Path) -> Iterator[Run]:
    """Every run below `results`, oldest first."""
    for path in paths(results):
        yield read(path)


def latest(records: Iterable[Record]) -> list[Record]:
    """The last attempt at each repetition of each case: a resumed run may have tried twice."""
    return list({(record.case, record.repetition): record for record in records}.values())
