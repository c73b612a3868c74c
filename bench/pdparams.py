"""Reads `.pdparams`, files of weights that nobody vouches for.

Such a file is a pickle, which to Python is a program. No `pickle` ever sees it: a restricted unpickler would still fill
the memory on a huge claimed length or memo index, so an interpreter of our own knows the few operations that
parameter files need. Only the worker imports this module; NumPy is imported where it is used.
"""

import io
import pickletools
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from bench.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

T = TypeVar("T")

MAX_BYTES = 8 << 30
# A parameter takes some forty operations. The limit keeps a file of nothing but empty lists from filling memory.
MAX_OPERATIONS = 2_000_000
MAX_DIMENSIONS = 32
MAX_ARGUMENTS = 16

NAME_TABLE = "StructuredToParameterName@@"
BIG_PARAMETERS = "UnpackBigParamInfor@@"
NESTED = "state_dict"
PROTO = b"\x80"

SAVE = "use a file written by paddle.save(network.state_dict(), file)"
FETCH = "fetch it again"


def read_pdparams(path: Path | str) -> dict[str, "Array"]:
    """The arrays that `paddle.save` wrote, by parameter name; they may be read-only.

    The file is a pickle, which to Python is a program. No `pickle` ever sees it: an interpreter of our own knows the
    few operations that parameter files need, and imports and calls nothing that the file names.
    Raises UsageError for whatever else the file asks for, holds or is.
    """
    path = Path(path)
    try:
        return _parameters(_Interpreter(_content(path)).run())
    except _Refused as refused:
        raise UsageError(f"cannot take weights from {path}", f"it {refused}", SAVE) from None
    except _DAMAGE as error:
        raise UsageError(f"cannot take weights from {path}", f"it is damaged ({shown(error)})", FETCH) from None


class _Refused(Exception):
    """What a sound parameter file never does; the message goes on after "it"."""


# What a file that is cut short or altered leads to, here and in the readers of pickletools.
_DAMAGE = (ValueError, TypeError, IndexError, KeyError, OverflowError, EOFError)

_FOREIGN = {
    b"PK\x03\x04": "is a zip archive, as PyTorch writes them",
    b"\x1f\x8b": "is a gzip archive",
    b"version https://git-lfs": "is a Git LFS pointer to the real file",
    b"<": "looks like a web page",
    b"\x00\x00\x00\x00": "looks like .pdiparams, the parameters of an exported model",
}


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UsageError(f"cannot take weights from {path}", "there is no such file", "check the path")
        if path.stat().st_size > MAX_BYTES:
            raise _Refused(f"has {path.stat().st_size} bytes, more than any parameter file")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot take weights from {path}", error.strerror or str(error), "check the file") from None
    if not data:
        raise _Refused("is empty")
    for start, meaning in _FOREIGN.items():
        if data.startswith(start):
            raise _Refused(meaning)
    if not data.startswith(PROTO):
        raise _Refused(f"starts with {data[:8]!r}, not as a pickle of protocol 2 or later")
    return data


def shown(text: object) -> str:
    """Text of the file as part of a one-line message: short, printable, and without power over a terminal."""
    line = str(text).encode("unicode_escape", "backslashreplace").decode("ascii")
    return line if len(line) <= 100 else line[:100] + "..."


def _parameters(value: Any) -> dict[str, "Array"]:
    """The arrays of what a file holds, without what `paddle.save` adds: tables of names, names in pairs, slices."""
    if isinstance(value, dict) and isinstance(value.get(NESTED), dict):
        value = value[NESTED]
    if not isinstance(value, dict):
        raise _Refused(f"holds {_kind(value)} instead of parameters by name")
    entries = {name: entry for name, entry in value.items() if name not in (NAME_TABLE, BIG_PARAMETERS)}
    arrays = {name: _parameter(name, entry) for name, entry in entries.items()}
    _reassemble(arrays, value.get(BIG_PARAMETERS, {}))
    if not arrays:
        raise _Refused("holds no parameters")
    return arrays


def _parameter(name: str, entry: Any) -> "Array":
    """An entry is an array, or a pair of Paddle's own name and an array."""
    if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
        entry = entry[1]
    if not isinstance(entry, _Array) or entry.array is None:
        raise _Refused(f"holds {_kind(entry)} under the name {shown(name)}, not an array")
    return entry.array


def _reassemble(arrays: dict[str, "Array"], table: Any) -> None:
    """Protocols 2 and 3 take no more than 4 GB at once, so `paddle.save` cuts big parameters into flat slices."""
    import numpy as np

    for name, facts in _expect(table, dict).items():
        slices = [arrays.pop(key) for key in _expect(_expect(facts, dict)["slices"], list)]
        if len({part.dtype for part in slices}) != 1:
            raise ValueError(f"slices of different types make up {name}")
        arrays[name] = np.concatenate(slices).reshape(_shape(facts["OriginShape"]))


def _kind(value: Any) -> str:
    """What a value is, without showing it."""
    names = {_Array: "an array", _Dtype: "a NumPy type", type(None): "None"}
    return names.get(type(value)) or f"a value of type {type(value).__name__.strip('_').lower()}"


def _expect(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"{_kind(value)} where {kind.__name__.strip('_').lower()} is expected")
    return value


class _Array:
    """An array. Pickles make one in two steps: an empty one first."""

    def __init__(self, array: "Array | None" = None) -> None:
        self.array = array


class _Dtype:
    """A type of numbers. Pickles make one in two steps: its byte order comes second."""

    def __init__(self, dtype: "np.dtype[Any]") -> None:
        self.dtype = dtype


class _Global(str):
    """A name of `_GLOBALS` on the stack; what a file calls a string never has this type."""


class _Interpreter:
    """The pickle operations that parameter files consist of, over plain data. All others are refused.

    The stack is a list of lists, as each mark starts a new one. Methods named in `_OPERATIONS` get the operation's
    argument if it has one.
    """

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)
        self.stacks: list[list[Any]] = [[]]
        self.memo: dict[int, Any] = {}
        # An honest file converts each byte once at most; a hostile one might convert one long string a million times.
        self.budget = len(data)

    def run(self) -> Any:
        """The value that the file describes. Raises _Refused or one of `_DAMAGE`."""
        for _ in range(MAX_OPERATIONS):
            code = self.stream.read(1).decode("latin-1")
            operation = _KNOWN.get(code)
            if operation is None:
                raise EOFError("it ends too early") if not code else ValueError(f"{code!r} is no pickle operation")
            if operation.name == "STOP":
                return self.pop()
            verb = _OPERATIONS.get(operation.name)
            if verb is None:
                raise _Refused(f"uses the pickle operation {operation.name}")
            reader = _READERS.get(operation.name)
            verb(self, *([reader(self.stream)] if reader else []))
        raise _Refused(f"takes more than {MAX_OPERATIONS} operations")

    def push(self, value: Any) -> None:
        self.stacks[-1].append(value)

    def pop(self) -> Any:
        return self.stacks[-1].pop()

    def top(self) -> Any:
        return self.stacks[-1][-1]

    def mark(self) -> None:
        self.stacks.append([])

    def pop_mark(self) -> list[Any]:
        if len(self.stacks) == 1:
            raise IndexError("an operation lacks its mark")
        return self.stacks.pop()

    def ignore(self, _: int) -> None:
        """Protocol numbers and frames, which only help to read ahead."""

    def tuple_from_mark(self) -> None:
        items = self.pop_mark()
        self.push(tuple(items))

    def tuple_of(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def append(self) -> None:
        item = self.pop()
        _expect(self.top(), list).append(item)

    def appends(self) -> None:
        items = self.pop_mark()
        _expect(self.top(), list).extend(items)

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        _expect(self.top(), dict)[_expect(key, str)] = value

    def set_items(self) -> None:
        items = self.pop_mark()
        entries = _expect(self.top(), dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            entries[_expect(key, str)] = value

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def memoize(self) -> None:
        self.put(len(self.memo))

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"nothing has the number {index}")
        self.push(self.memo[index])

    def find(self, name: str) -> None:
        if name not in _GLOBALS:
            raise _Refused(f"asks for {shown(name.replace(' ', '.'))}")
        self.push(_Global(name))

    def find_on_stack(self) -> None:
        name, module = self.pop(), self.pop()
        self.find(f"{_expect(module, str)} {_expect(name, str)}")

    def instance(self, name: str) -> None:
        self.find(name)
        raise _Refused("uses the pickle operation INST")

    def reduce(self) -> None:
        arguments, function = _expect(self.pop(), tuple), _expect(self.pop(), _Global)
        self.charge(arguments)
        self.push(_GLOBALS[function](*arguments))

    def build(self) -> None:
        """The second step of making an array or a type. Nothing else has a state to set."""
        state, value = _expect(self.pop(), tuple), self.top()
        self.charge(state)
        if isinstance(value, _Array) and value.array is None:
            _, shape, dtype, by_columns, raw = state
            value.array = _array(raw, dtype, shape, "F" if by_columns else "C")
        elif isinstance(value, _Dtype):
            value.dtype = value.dtype.newbyteorder(_byte_order(*state))
        else:
            raise _Refused(f"sets the state of {_kind(value)}")

    def charge(self, values: tuple[Any, ...]) -> None:
        """Bounds what is done with `values`, since a file can have the same ones handled again and again."""
        if len(values) > MAX_ARGUMENTS:
            raise _Refused("hands over more arguments than there can be")
        self.budget -= sum(len(value) for value in values if type(value) in (str, list))
        if self.budget < 0:
            raise _Refused("unpacks to far more than its own size")


def _name_in_lines(stream: io.BytesIO) -> str:
    """Module and name. Unlike that of `pickletools`, which warns of odd backslashes, this takes lines as they are."""
    module, name = stream.readline(), stream.readline()
    if not name.endswith(b"\n"):
        raise EOFError("it ends within a name")
    return f"{module[:-1].decode()} {name[:-1].decode()}"


_KNOWN = {operation.code: operation for operation in pickletools.opcodes}
_READERS: dict[str, Callable[[Any], Any]] = {
    **{operation.name: operation.arg.reader for operation in pickletools.opcodes if operation.arg},
    "GLOBAL": _name_in_lines,
    "INST": _name_in_lines,
}
_OPERATIONS: dict[str, Callable[..., None]] = {
    "PROTO": _Interpreter.ignore,
    "FRAME": _Interpreter.ignore,
    "NONE": lambda machine: machine.push(None),
    "NEWTRUE": lambda machine: machine.push(True),
    "NEWFALSE": lambda machine: machine.push(False),
    "EMPTY_TUPLE": lambda machine: machine.push(()),
    "EMPTY_LIST": lambda machine: machine.push([]),
    "EMPTY_DICT": lambda machine: machine.push({}),
    "BININT": _Interpreter.push,
    "BININT1": _Interpreter.push,
    "BININT2": _Interpreter.push,
    "LONG1": _Interpreter.push,
    "BINFLOAT": _Interpreter.push,
    "BINSTRING": _Interpreter.push,
    "SHORT_BINSTRING": _Interpreter.push,
    "BINUNICODE": _Interpreter.push,
    "SHORT_BINUNICODE": _Interpreter.push,
    "BINUNICODE8": _Interpreter.push,
    "BINBYTES": _Interpreter.push,
    "SHORT_BINBYTES": _Interpreter.push,
    "BINBYTES8": _Interpreter.push,
    "BYTEARRAY8": _Interpreter.push,
    "MARK": _Interpreter.mark,
    "TUPLE": _Interpreter.tuple_from_mark,
    "TUPLE1": lambda machine: machine.tuple_of(1),
    "TUPLE2": lambda machine: machine.tuple_of(2),
    "TUPLE3": lambda machine: machine.tuple_of(3),
    "APPEND": _Interpreter.append,
    "APPENDS": _Interpreter.appends,
    "SETITEM": _Interpreter.set_item,
    "SETITEMS": _Interpreter.set_items,
    "BINPUT": _Interpreter.put,
    "LONG_BINPUT": _Interpreter.put,
    "MEMOIZE": _Interpreter.memoize,
    "BINGET": _Interpreter.get,
    "LONG_BINGET": _Interpreter.get,
    "GLOBAL": _Interpreter.find,
    "STACK_GLOBAL": _Interpreter.find_on_stack,
    "INST": _Interpreter.instance,
    "REDUCE": _Interpreter.reduce,
    "BUILD": _Interpreter.build,
}


# What the names that files may use stand for here. None of them leads to the function of that name.


def _empty_array(kind: Any, *_: Any) -> _Array:
    if _expect(kind, _Global) != "numpy ndarray":
        raise _Refused("makes arrays of a class of its own")
    return _Array()


def _dtype(code: Any, *_: Any) -> _Dtype:
    import numpy as np

    if _expect(code, str) not in _NUMBERS:
        raise _Refused(f"asks for arrays of numpy.dtype({shown(code)})")
    return _Dtype(np.dtype(code))


def _byte_order(_: Any, order: Any, *rest: Any) -> Any:
    """The one interesting part of a type's state. The rest describes fields of structures, and there are none."""
    if order not in ("<", ">", "|", "=") or any(part not in (None, -1, 0) for part in rest):
        raise _Refused("asks for arrays of structures")
    return order


def _scalar(dtype: Any, raw: Any) -> _Array:
    return _Array(_array(raw, dtype, (), "C"))


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_array(raw, dtype, shape, "F" if order == "F" else "C"))


def _array(raw: Any, dtype: Any, shape: Any, order: Literal["C", "F"]) -> "Array":
    """A view of the bytes. Python 2 wrote bytes as a string of as many characters."""
    import numpy as np

    if isinstance(raw, str):
        raw = raw.encode("latin1")
    if not isinstance(raw, (bytes, bytearray)):
        raise TypeError(f"{_kind(raw)} where the bytes of an array are expected")
    numbers, lengths = _expect(dtype, _Dtype).dtype, _shape(shape)
    if prod(lengths) * numbers.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for an array of shape {lengths} and type {numbers}")
    return np.frombuffer(raw, numbers).reshape(lengths, order=order)


def _shape(shape: Any) -> tuple[int, ...]:
    lengths = _expect(shape, tuple)
    if len(lengths) > MAX_DIMENSIONS or any(_expect(length, int) < 0 for length in lengths):
        raise ValueError("an array has an impossible shape")
    return lengths


def _encoded(text: Any, encoding: Any) -> bytes:
    """Protocol 2 has no bytes: Python 3 writes them as Latin-1 text that is to be encoded again."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused("asks for _codecs.encode with another encoding than latin1")
    return _expect(text, str).encode("latin1")


def _ordered(pairs: Any = None) -> dict[str, Any]:
    """OrderedDict. Python 2 hands its items over as a list of lists."""
    return {_expect(key, str): value for key, value in ([] if pairs is None else _expect(pairs, list))}


def _same_tuple(items: Any) -> tuple[Any, ...]:
    return _expect(items, tuple)


def _empty_bytes() -> bytes:
    return b""


def _class_only(*_: Any) -> Any:
    raise _Refused("calls numpy.ndarray")


_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_GLOBALS: dict[str, Callable[..., Any]] = {
    "numpy ndarray": _class_only,
    "numpy dtype": _dtype,
    "_codecs encode": _encoded,
    "collections OrderedDict": _ordered,
}
# Protocol 2 uses the names of Python 2. It writes empty bytes as a call, and paddle.save so writes each tensor.
for _module in ("builtins", "__builtin__"):
    _GLOBALS |= {f"{_module} bytes": _empty_bytes, f"{_module} tuple": _same_tuple}
# NumPy 2 renamed `core`, and NumPy 1.16.0 alone wrote `_multiarray_umath`.
for _core in ("numpy.core", "numpy._core"):
    _GLOBALS[f"{_core}.numeric _frombuffer"] = _from_buffer
    for _module in ("multiarray", "_multiarray_umath"):
        _GLOBALS |= {f"{_core}.{_module} _reconstruct": _empty_array, f"{_core}.{_module} scalar": _scalar}
