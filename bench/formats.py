"""A folder of formats: each of its files that has a `render` is one, by the name of the file."""

import importlib
import pkgutil
from typing import Any

from bench.errors import unknown


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
