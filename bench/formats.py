"""A folder of formats: each of its files that has a `render` is one, by the name of the file. And what all need."""

import contextlib
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import UsageError, unknown


def names(package: str) -> list[str]:
    """The formats in the folder of `package`, such as "bench.report"."""
    files = pkgutil.iter_modules(importlib.import_module(package).__path__)
    return sorted(file.name for file in files if hasattr(_module(package, file.name), "render"))


def get(package: str, name: str) -> Any:
    """The format of that name. Raises UsageError for an unknown one."""
    known = names(package)
    if name not in known:
        raise unknown("format", name, known, "name one of these with --format")
    return _module(package, name)


def _module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}")


@contextlib.contextmanager
def writing(path: Path, do: str) -> Iterator[None]:
    """Makes the folder of a file that the block writes. Raises UsageError, which says what to `do`, if either fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}", error.strerror or str(error), do) from error


def save(path: Path, text: str, do: str) -> Path:
    """The file, which has that text now. Raises UsageError as `writing` does."""
    with writing(path, do):
        path.write_text(text, encoding="utf-8")
    return path


def one_line(text: str) -> str:
    """`text` with whatever moves a cursor, breaks a line or reverses a direction made a blank."""
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(text.split())


def without_home(text: str) -> str:
    """With `~` for the user's home folder: records get published."""
    return text.replace(str(Path.home()), "~")
