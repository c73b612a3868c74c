"""The cache: what was made once from the same content by the same tools is not made again.

An entry is a folder named by the hash of everything it depends on. It is made in a temporary folder under
the entry's lock and renamed into place, so that two runs at once share the work and a killed one leaves
nothing that the next could mistake for an artifact.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock
from platformdirs import user_cache_dir

from bench.errors import BenchError, UsageError
from bench.schema import Artifact

CARD = "artifact.json"
KEY = re.compile("[0-9a-f]{64}")
#: endings of what travels beside a model file: in place of its suffix, or, for ONNX's external data, after it
PARAMETERS = {".pdmodel": (".pdiparams",), ".json": (".pdiparams",), ".xml": (".bin",), ".plan": (".json",)}
EXTERNAL_DATA = {".onnx": (".data", "_data")}


class Made(msgspec.Struct, frozen=True):
    """What a maker wrote into its folder: the file to open, its format, and facts worth keeping."""

    format: str
    file: str
    facts: dict[str, Any] = {}


def default_root() -> Path:
    """`$BENCH_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("BENCH_CACHE") or user_cache_dir("bench"))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(*paths: Path) -> str:
    """One hash over the names and contents of several files."""
    return _one_hash((path.name, path) for path in paths)


def _one_hash(named: Iterable[tuple[str, Path]]) -> str:
    lines = (f"{name} {file_sha256(path)}\n" for name, path in sorted(named))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_files(file: Path) -> list[Path]:
    """A model file and the parameters that travel beside it."""
    beside = [file.with_suffix(ending) for ending in PARAMETERS.get(file.suffix, ())]
    beside += [file.with_name(file.name + ending) for ending in EXTERNAL_DATA.get(file.suffix, ())]
    return [file, *(path for path in beside if path.is_file())]


def key_of(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def _contents(folder: Path) -> list[Path]:
    """All files of an entry but its card."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / CARD]


def _sealed(folder: Path, files: Iterable[Path]) -> str:
    """One hash over the contents of an entry's files and their places in it."""
    return _one_hash((path.relative_to(folder).as_posix(), path) for path in files)


class Cache:
    """Artifacts by content key below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for name in ("tmp", "locks"):
                (root / name).mkdir(parents=True, exist_ok=True)
            (root / "locks" / "writable").touch()
        except OSError as error:
            raise UsageError(
                f"cannot write the cache {root}", error.strerror or str(error), "set BENCH_CACHE to a folder you own"
            ) from error
        self._sweep()

    def _sweep(self) -> None:
        """Removes what killed makers have left of entries that nobody may ever ask for again."""
        for left in (self.root / "tmp").iterdir():
            if KEY.fullmatch(left.name):
                with contextlib.suppress(OSError), FileLock(self._lock(left.name), timeout=0):
                    shutil.rmtree(left, ignore_errors=True)

    def _lock(self, key: str) -> Path:
        return self.root / "locks" / f"{key}.lock"

    def get(self, kind: str, parts: Mapping[str, Any], make: Callable[[Path], Made]) -> Artifact:
        """The artifact of `kind` that `parts` determine, made by `make(folder)` if it isn't there or is damaged.

        Whatever `make` raises passes through, and nothing is kept; a full disk is a BenchError.
        """
        key = key_of({"kind": kind, **parts})
        try:
            return self._get(key, self.root / kind / key[:2] / key, parts, make)
        except OSError as error:
            raise BenchError(
                "cannot write to the cache",
                error.strerror or str(error),
                "make room, or set BENCH_CACHE to another folder",
            ) from error

    def _get(self, key: str, place: Path, parts: Mapping[str, Any], make: Callable[[Path], Made]) -> Artifact:
        with FileLock(self._lock(key)):
            found = self._read(place)
            if found:
                return found
            folder = self.root / "tmp" / key
            # We hold the lock, so whoever left these is dead.
            for stale in (folder, place):
                shutil.rmtree(stale, ignore_errors=True)
            folder.mkdir()
            try:
                made = make(folder)
                self._seal(folder, made, parts)
                place.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(place)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            sealed = self._read(place)
        assert sealed is not None, f"{place} was damaged as it was made"
        return sealed

    def discard(self, artifact: Path) -> None:
        """Throws the entry of a file away, so that it is made again when it is asked for; strangers' files stay."""
        if not artifact.is_relative_to(self.root):
            return
        kind, _, key, *_ = artifact.relative_to(self.root).parts
        with FileLock(self._lock(key)):
            shutil.rmtree(self.root / kind / key[:2] / key, ignore_errors=True)

    def _seal(self, folder: Path, made: Made, parts: Mapping[str, Any]) -> None:
        files = _contents(folder)
        card = Artifact(
            format=made.format,
            path=made.file,
            sha256=_sealed(folder, files),
            size_bytes=sum(path.stat().st_size for path in files),
            made_by={**parts, **made.facts},
        )
        (folder / CARD).write_bytes(msgspec.json.encode(card))

    def _read(self, place: Path) -> Artifact | None:
        """The entry at `place` with an absolute path, or None where it is missing or not what was sealed."""
        try:
            card = msgspec.json.decode((place / CARD).read_bytes(), type=Artifact)
            files = _contents(place)
            whole = place / card.path in files and _sealed(place, files) == card.sha256
        except (OSError, ValueError, RecursionError):  # missing; no card, with names that no file can have; garbage
            return None
        return msgspec.structs.replace(card, path=str(place / card.path)) if whole else None
