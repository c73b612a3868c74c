"""Models and devices as typed cards, read from `models/*.toml` and `hardware_profiles/*.toml`."""

import fnmatch
import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from bench.errors import EXPORT_AGAIN, UsageError, unknown
from bench.schema import Frozen, Precision

FILE_FORMATS = {".onnx": "onnx", ".pdmodel": "paddle", ".json": "paddle"}
#: control characters, bytes that are no UTF-8, line and paragraph separators
UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
LIST_MODELS = "list them with: bench list models"
LIST_DEVICES = "list them with: bench list devices"


def _folder(name: str) -> Path:
    """The folder of cards: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


MODELS = _folder("models")
PROFILES = _folder("hardware_profiles")


class Published(Frozen, frozen=True):
    """Figures as a zoo prints them; accuracies as fractions, FLOPs in G, in the convention named."""

    top1: float | None = None
    top5: float | None = None
    flops_g: float | None = None
    flops_convention: str = ""
    params_m: float | None = None
    storage_mb: float | None = None
    source: str = ""


class Fused(Frozen, frozen=True):
    """The form of a re-parameterised network that is measured: one convolution where training has branches."""

    params: int
    macs: int
    convolutions: int


class ModelCard(Frozen, frozen=True):
    """Facts on one model. `input_shape` is (channels, height, width); `params` are the trained ones.

    A card of the zoo names its `network` ("models.dpn:DPN92"); a user's own model has a `file` instead, of
    `format` "onnx" or "paddle". `params` and `macs` are counted by us (bench/counting.py), not quoted, over the form
    of the network that its zoo counts.
    """

    name: str
    family: str
    network: str = ""
    file: str = ""
    format: str = ""
    input_shape: tuple[int, ...] = ()
    params: int | None = None
    macs: int | None = None
    fused: Fused | None = None
    weights: str = ""
    weights_sha256: str = ""
    published: Published = Published()

    @property
    def measurable(self) -> bool:
        return bool(self.network or self.file)


class Match(Frozen, frozen=True):
    """Regular expressions that a device must satisfy; all that are given must.

    `max_khz` is the highest clock of a phone's fastest core, as variants of one chip differ in clocks alone.
    """

    cpu: str = ""
    gpu: str = ""
    soc: str = ""
    max_khz: int = 0


class HardwareProfile(Frozen, frozen=True):
    """One device. `kind` decides where work runs; `backends` are in order of preference.

    `capability` is the compute capability of an NVIDIA GPU, such as "7.5".
    """

    name: str
    label: str
    kind: Literal["cpu", "gpu", "phone"]
    backends: tuple[str, ...]
    precisions: tuple[Precision, ...]
    batch_sizes: tuple[int, ...]
    threads: tuple[int, ...]
    match: Match = Match()
    capability: Annotated[str, msgspec.Meta(pattern=r"^(\d+\.\d+)?$")] = ""

    @property
    def here(self) -> bool:
        """Whether this machine's own processors do the work."""
        return self.kind == "cpu"

    @property
    def fanless(self) -> bool:
        """Whether it slows down as it warms, so that the order of cases counts and drift must be looked for."""
        return self.kind == "phone"


def _read(path: Path) -> dict[str, Any]:
    import tomllib  # which Python 3.10 lacks; the workers that run under it read no card

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read {path.name}", str(error), f"mend {path}") from error


def _convert(data: dict[str, Any], type_: type[Any], path: Path) -> Any:
    try:
        return msgspec.convert(data, type_)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path.name} is no valid {type_.__name__}", str(error), f"mend {path}") from error


def read_family(path: Path) -> dict[str, ModelCard]:
    """The cards of one file, by name, in the order of the file."""
    data = _read(path)
    tables = _convert(data.get("model", {}), dict[str, dict[str, Any]], path)
    return {
        name: _convert({"name": name, "family": data.get("family"), **table}, ModelCard, path)
        for name, table in tables.items()
    }


@functools.cache
def cards() -> dict[str, ModelCard]:
    """Every card of the zoo, families in alphabetical order of their files."""
    return {name: card for path in sorted(MODELS.glob("*.toml")) for name, card in read_family(path).items()}


@functools.cache
def profiles() -> dict[str, HardwareProfile]:
    """Every device by its ID, which is the name of its file."""
    return {
        path.stem: _convert({"name": path.stem, **_read(path)}, HardwareProfile, path)
        for path in sorted(PROFILES.glob("*.toml"))
    }


def profile(name: str) -> HardwareProfile:
    try:
        return profiles()[name]
    except KeyError:
        raise unknown("device", name, list(profiles()), LIST_DEVICES) from None


def fold(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def of_family(name: str) -> list[ModelCard]:
    """The cards of a family, spelt with any case and punctuation."""
    found = [card for card in cards().values() if fold(card.family) == fold(name)]
    if not found:
        raise unknown("family", name, sorted({card.family for card in cards().values()}), LIST_MODELS)
    return found


def select(models: Iterable[str], families: Iterable[str], input_shape: tuple[int, ...] = ()) -> list[ModelCard]:
    """Cards for names, globs, `all` and paths, in the order asked, each once.

    Raises UsageError for a name that fits nothing and for a file that is missing or of no known format.
    """
    chosen: dict[str, ModelCard] = {}
    for pattern in models:
        for card in _named(pattern, input_shape):
            if card.file and not _same_file(chosen.get(card.name, card).file, card.file):
                card = msgspec.structs.replace(card, name=f"{card.name}@{_digest(Path(card.file))}")
            chosen[card.name] = card
    for family in families:
        chosen.update({card.name: card for card in of_family(family)})
    return list(chosen.values())


def _named(pattern: str, input_shape: tuple[int, ...]) -> list[ModelCard]:
    if pattern == "all":
        return list(cards().values())
    if pattern in cards():
        return [cards()[pattern]]
    path = Path(pattern)
    if path.suffix in FILE_FORMATS or "/" in pattern or _exists(path):
        return [from_file(path, input_shape)]
    found = [card for name, card in cards().items() if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise unknown("model", pattern, list(cards()), LIST_MODELS)
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long a name, a folder that may not be read
        return False


def _same_file(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def from_file(path: Path, input_shape: tuple[int, ...] = ()) -> ModelCard:
    """A card for a user's own model: a file, or a folder that holds one inference model.

    A name that a card of the zoo has already gets eight digits of the file's hash, so that two
    different networks never share a row.
    """
    try:
        return _from_file(path, input_shape)
    except OSError as error:
        raise UsageError(f"cannot read {path}", error.strerror or str(error), "check the path") from error


def _from_file(path: Path, input_shape: tuple[int, ...]) -> ModelCard:
    file = _inference_model(path) if path.is_dir() else path
    if file.suffix not in FILE_FORMATS:
        raise UsageError(
            f"cannot tell what model {path} is",
            f"its suffix is {file.suffix!r}",
            f"give one of {', '.join(FILE_FORMATS)}",
        )
    if not file.is_file():
        raise UsageError(f"no model file {path}", "there is no such file", "check the path")
    if not file.stat().st_size:
        raise UsageError(f"no model in {path}", "the file is empty", EXPORT_AGAIN)
    format_ = FILE_FORMATS[file.suffix]
    if format_ == "paddle" and not file.with_suffix(".pdiparams").is_file():
        raise UsageError(
            f"no parameters for {path}", f"{file.with_suffix('.pdiparams').name} is not beside it", "put it there"
        )
    name = file.parent.resolve().name if path.is_dir() else file.stem
    if any(unicodedata.category(char) in UNPRINTABLE for char in name):
        raise UsageError(f"cannot name a model {name!r}", "it holds a control character", "rename it")
    if name in cards():
        name = f"{name}@{_digest(file)}"
    # Not resolved: parameters lie beside the link, and what a link of a download cache leads to has no suffix.
    return ModelCard(name=name, family="own", file=str(file.absolute()), format=format_, input_shape=input_shape)


def _inference_model(folder: Path) -> Path:
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix == ".onnx" or (path.suffix in FILE_FORMATS and path.with_suffix(".pdiparams").is_file())
    )
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UsageError(f"no single inference model in {folder}", f"found: {names}", "name the file itself")
    return found[0]


def _digest(file: Path) -> str:
    """Of the model and its parameters: networks of one shape differ in those alone."""
    digest = hashlib.sha256(file.read_bytes())
    parameters = file.with_suffix(".pdiparams")
    if parameters.is_file():
        digest.update(parameters.read_bytes())
    return digest.hexdigest()[:8]
