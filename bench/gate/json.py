"""Everything, for other programs. A number that is unknown or has no limit is null."""

import json
import math
from typing import Any

import msgspec

from bench.gate import Gate

suffix = ".json"


def render(gate: Gate) -> str:
    data = {name: plain(getattr(gate, name)) for name in Gate.__struct_fields__}
    return json.dumps(data | {"headline": gate.headline}, indent=2, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """As JSON has it, every field present, so that a program need not know which ones have defaults."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
