"""What a case needs before it can be measured: a model file in the right format, an engine, a reference.

All of it comes from the cache, or is made in a worker and put there.
"""

import re
import shutil
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench import backends, homes, process
from bench.artifacts import Cache, Made, file_sha256, files_sha256, model_files
from bench.backends import BaseBackend, Setup
from bench.catalog import MODELS, ModelCard
from bench.errors import BenchError, Failed, Stale, Unavailable, Unsupported, UsageError, last_line
from bench.jobs import (
    AnyAnswer,
    AnyJob,
    Build,
    Folder,
    Inspect,
    Inspected,
    OnnxFromPaddle,
    Order,
    PaddleFromNetwork,
    Probe,
    Problem,
    Reference,
    Version,
)
from bench.schema import Artifact, Input, Settings

HERE = Path(__file__).resolve().parent
OPSET = 17
#: which backend, run plainly, is the reference of which format
REFERENCES = {"paddle": "paddle", "onnx": "onnxruntime"}
#: what must be importable to export a card to a format, and the distributions whose versions decide the result
EXPORTERS = {"paddle": ("paddle",), "onnx": ("paddle", "paddle2onnx"), "pdmodel": ("paddle",)}
DISTRIBUTIONS = ("paddlepaddle", "paddlepaddle-gpu", "paddle2onnx", "onnx")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ERRORS: dict[str, type[BenchError]] = {
    "failed": Failed,
    "stale": Stale,
    "unsupported": Unsupported,
    "unavailable": Unavailable,
    "refused": UsageError,
}

AnswerT = TypeVar("AnswerT")


def versions(*distributions: str) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def code_of(backend: BaseBackend) -> list[Path]:
    """The files that a backend consists of."""
    place = HERE / "backends" / backend.name
    own = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return [*own, *(HERE / f"{module}.py" for module in backend.code)]


def network_files(network: str) -> list[Path]:
    """The files that decide what a network such as "models.dpn:DPN92" is: its module and all that it imports."""
    found: set[str] = set()
    todo = {network.partition(":")[0].removeprefix("models.")}
    while todo:
        found |= todo
        texts = [(MODELS / f"{module}.py").read_text(encoding="utf-8") for module in todo]
        todo = {module for text in texts for module in re.findall(r"^from \.(\w+) import", text, re.MULTILINE)} - found
    return [MODELS / f"{module}.py" for module in sorted(found)]


def thread_environment(threads: int) -> dict[str, str]:
    """Every pool that reads an environment variable gets the size asked for, whatever the user's shell says."""
    return {**dict.fromkeys(THREAD_VARIABLES, str(threads)), "POLYGRAPHY_AUTOINSTALL_DEPS": "0"}


def check_weights(asked: str) -> None:
    """Raises UsageError for a path that leads to no file that can be read."""
    if asked in ("random", "pretrained"):
        return
    try:
        Path(asked).open("rb").close()
    except OSError as error:
        do = "--weights takes random, pretrained or a file"
        raise UsageError(f"cannot read the weights {asked}", error.strerror or str(error), do) from error


class Workshop:
    """Makes artifacts for one run. Each verb returns one, or raises why there is none."""

    def __init__(self, cache: Cache, settings: Settings, cpus: tuple[int, ...], say: Callable[[str], None]) -> None:
        self.cache = cache
        self.settings = settings
        self.cpus = cpus
        self.say = say
        self._inspected: dict[str, tuple[Input, dict[str, Any]]] = {}
        self._versions: dict[tuple[object, ...], str] = {}
        process.sweep(cache.root / "tmp")

    def ask(self, job: AnyJob, environ: Mapping[str, str], cpus: tuple[int, ...] = ()) -> AnyAnswer:
        """A fresh worker's answer to `job`, in the environment of the backend that does it."""
        try:
            python = homes.python(job.done_by)
        except Unavailable as error:
            return Problem(status="unavailable", reason=str(error))
        order = Order(job=job, cpus=cpus, memory_limit_bytes=self.settings.memory_limit_bytes)
        return process.ask(order, environ, self.settings.timeout_s, self.cache.root / "tmp", python)

    def insist(self, job: AnyJob, expected: type[AnswerT], environ: Mapping[str, str] = {}) -> AnswerT:
        """The answer to a job of preparation, on one thread so that its result is always the same.

        Raises the Problem that came instead.
        """
        answer = self.ask(job, {**thread_environment(1), **environ})
        if isinstance(answer, Problem):
            raise ERRORS[answer.status](answer.reason, log=answer.log)
        assert isinstance(answer, expected), f"{type(job).__name__} was answered by {type(answer).__name__}"
        return answer

    def source(self, card: ModelCard, backend: BaseBackend) -> Artifact:
        """The model as engines of `backend` are made from it. Raises Unsupported where no conversion leads there."""
        if backend.source == "pdmodel":
            return self._pdmodel(card, backend)
        return self.model(card, backend.source)

    def model(self, card: ModelCard, format_: str) -> Artifact:
        """The model in a format, "paddle" or "onnx". Raises Unsupported where no conversion leads there."""
        if card.file and card.format == format_:
            return _own(card, self.inspect(card)[1])
        if format_ == "paddle":
            if not card.network:
                raise Unsupported(f"nothing converts {card.format} to Paddle")
            return self._paddle(card)
        paddle = self.model(card, "paddle")
        parts = {
            "source": paddle.sha256,
            "opset": OPSET,
            "input_shape": self.input_shape(card),
            "versions": versions(*DISTRIBUTIONS),
            "code": files_sha256(HERE / "export.py", HERE / "counting.py"),
        }
        job = partial(OnnxFromPaddle, source=paddle.path, opset=OPSET, input_shape=self.input_shape(card))
        return _with_source(self._get(f"{card.name} to ONNX", "onnx", parts, job), paddle)

    def weights(self, card: ModelCard) -> str:
        """ "random", or the path of the parameters that were asked for, downloaded where they are the published ones.

        Raises Unavailable where they can't be had, UsageError for a path that leads nowhere.
        """
        asked = self.settings.weights
        if asked == "random":
            return asked
        if asked == "pretrained":
            return self._download(card)
        check_weights(asked)
        return asked

    def _download(self, card: ModelCard) -> str:
        if not card.weights:
            raise Unavailable(f"no published weights of {card.name} are known", "", "name a file with --weights PATH")

        def make(folder: Path) -> Made:
            self.say(f"downloading {card.weights}")
            file = folder / card.weights.rpartition("/")[2]
            try:
                with urllib.request.urlopen(card.weights, timeout=60) as answer, file.open("wb") as out:
                    shutil.copyfileobj(answer, out)
            except OSError as error:
                raise Unavailable(
                    f"cannot download {card.weights}", last_line(error), "fetch it yourself and name it: --weights PATH"
                ) from error
            _verify(card, file)
            return Made(format="weights", file=file.name)

        return self.cache.get("weights", {"url": card.weights}, make).path

    def _paddle(self, card: ModelCard) -> Artifact:
        parts, weights = self._network(card, versions("paddlepaddle", "paddlepaddle-gpu"))
        job = partial(PaddleFromNetwork, card=card, weights=weights)
        return self._get(f"{card.name} to Paddle", "paddle", parts, job)

    def _pdmodel(self, card: ModelCard, backend: BaseBackend) -> Artifact:
        """In Paddle's older format, written by the older Paddle in the home of `backend`."""
        if card.format == "onnx":
            raise Unsupported("nothing converts onnx to Paddle")
        if card.file:
            if not card.file.endswith(".pdmodel"):
                raise Unsupported(
                    f"{backend.name} reads Paddle models in the older format, .pdmodel",
                    f"found {Path(card.file).name}",
                    "export it with FLAGS_enable_pir_api=0 in the environment, or with Paddle 2.6",
                )
            return _own(card, self.inspect(card)[1])
        parts, weights = self._network(card, homes.versions(backend.home) if backend.home else {})
        job = partial(PaddleFromNetwork, card=card, weights=weights, backend=backend.name)
        return self._get(f"{card.name} to Paddle's older format", "pdmodel", parts, job)

    def _network(self, card: ModelCard, made_with: dict[str, str]) -> tuple[dict[str, Any], str]:
        """All that decides what an export of the card's network is, and the weights to give it."""
        weights = self.weights(card)
        code = (*network_files(card.network), HERE / "export.py", HERE / "weights.py", HERE / "pdparams.py")
        parts = {
            "network": card.network,
            "input_shape": card.input_shape,
            "weights": weights if weights == "random" else file_sha256(Path(weights)),
            "versions": made_with,
            "code": files_sha256(*code),
        }
        return parts, weights

    def engine(self, card: ModelCard, setup: Setup) -> Artifact:
        """What the backend of `setup` executes; the source itself where it builds nothing."""
        backend = backends.get(setup.case.backend)
        if not backend.source:
            return Artifact(format="", path="", sha256="", size_bytes=0)
        source = self.source(card, backend)
        format_ = backend.engine_with(setup.options)
        if not format_:
            return source
        parts = {
            "source": source.sha256,
            "backend": backend.name,
            "versions": homes.versions(backend.home) if backend.home else versions(*backend.distributions),
            "code": files_sha256(*code_of(backend)),
            **self._runtime(backend, setup),
            **backend.variant(setup),
        }
        job = partial(Build, setup=setup, source=str(Path(source.path).absolute()))
        environ = backend.environment(setup.options)  # that it runs in: some flags decide how it is built
        return _with_source(self._get(f"{card.name} for {backend.name}", format_, parts, job, environ), source)

    def _runtime(self, backend: BaseBackend, setup: Setup) -> dict[str, str]:
        """The version of a GPU's runtime as it says itself: libraries of an archive are no distribution that is listed.

        Raises Unavailable where it can't serve the GPU.
        """
        if setup.device.kind != "gpu":
            return {}
        environ = backend.environment(setup.options)
        key = (backend.name, *environ.items())
        if key not in self._versions:
            self._versions[key] = self.insist(Probe(backend.name, setup.device), Version, environ).version
        return {"runtime": self._versions[key]}

    def discard(self, engine: str) -> None:
        """Throws an engine away, by the path of its file, so that it is made again when it is asked for."""
        self.cache.discard(Path(engine))

    def reference(self, card: ModelCard) -> Artifact:
        """Inputs, and the outputs of the reference runtime of the model's own format."""
        format_ = card.format or "paddle"
        backend = backends.get(REFERENCES[format_])
        source = self.model(card, format_)
        batch_size = self.fixed_batch(card) or 1
        parts = {
            "source": source.sha256,
            "input_shape": self.input_shape(card),
            "batch_size": batch_size,
            "versions": versions(*backend.distributions),
            "code": files_sha256(HERE / "parity.py", *code_of(backend)),
        }
        job = partial(
            Reference,
            backend=backend.name,
            source=source.path,
            input_shape=self.input_shape(card),
            batch_size=batch_size,
        )
        return self._get(f"{card.name}, reference outputs", "reference", parts, job)

    def _get(
        self,
        what: str,
        kind: str,
        parts: dict[str, Any],
        job: Callable[..., AnyJob],
        environ: Mapping[str, str] = {},
    ) -> Artifact:
        def make(folder: Path) -> Made:
            self.say(what)
            answer = self.insist(job(folder=str(folder)), Folder, environ)
            return msgspec.structs.replace(answer.made, facts={**answer.made.facts, "took_ns": answer.took_ns})

        return self.cache.get(kind, parts, make)

    def public(self, artifact: Artifact) -> Artifact:
        """The artifact as a record may show it: records get published, a home folder does not."""
        path = Path(artifact.path)
        inside = path.is_relative_to(self.cache.root)
        return msgspec.structs.replace(artifact, path=str(path.relative_to(self.cache.root)) if inside else path.name)

    def inspect(self, card: ModelCard) -> tuple[Input, dict[str, Any]]:
        """The one input of a user's own model, and what was counted over its graph.

        Raises UsageError for a file that can't be read or leaves its shape open, Unsupported for one that
        is no image classifier, Unavailable without the runtime that reads it.
        """
        if card.file not in self._inspected:
            backend = backends.get(REFERENCES[card.format])
            if missing := backends.missing(backend):
                raise Unavailable(f"cannot read {Path(card.file).name}", missing)
            answer = self.insist(Inspect(backend=backend.name, source=card.file), Inspected)
            self._inspected[card.file] = _single_image(card, answer.inputs), answer.facts
        return self._inspected[card.file]

    def input_shape(self, card: ModelCard) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        if card.network:
            return card.input_shape
        found = self.inspect(card)[0].shape[1:]
        asked = card.input_shape or (None,) * len(found)
        name, takes = Path(card.file).name, "x".join(str(size or "?") for size in found)
        if len(asked) != len(found) or any(
            size not in (None, given) for size, given in zip(found, asked, strict=True) if given
        ):
            raise UsageError(
                f"--input-shape does not fit {name}",
                f"it takes {takes}",
                "give those sizes, and your own where it has a ?",
            )
        shape = tuple(size or given for size, given in zip(found, asked, strict=True))
        if None in shape:
            raise UsageError(f"{name} leaves its input shape open", takes, "say it with: --input-shape 3,224,224")
        return tuple(size for size in shape if size is not None)

    def fixed_batch(self, card: ModelCard) -> int | None:
        """The only batch size that a user's file takes, if it names one."""
        return None if card.network else self.inspect(card)[0].shape[0]


def _single_image(card: ModelCard, inputs: tuple[Input, ...]) -> Input:
    name = Path(card.file).name
    if len(inputs) != 1:
        names = ", ".join(given.name for given in inputs)
        raise Unsupported(f"{name} is no image classifier", f"it has {len(inputs)} inputs: {names}")
    if inputs[0].type != "float32" or len(inputs[0].shape) < 2:
        raise Unsupported(f"{name} is no image classifier", f"its input is {inputs[0].type} {inputs[0].shape}")
    return inputs[0]


def _verify(card: ModelCard, file: Path) -> None:
    """Against the card's checksum, where it has one. A file without one is still read as the untrusted thing it is."""
    found = file_sha256(file)
    if card.weights_sha256 not in ("", found):
        raise Failed(f"{card.weights} is not what the card of {card.name} promises", f"its SHA-256 is {found}")


def _own(card: ModelCard, facts: dict[str, Any]) -> Artifact:
    """A user's file, as it is."""
    files = model_files(Path(card.file))
    try:
        sha256, size_bytes = files_sha256(*files), sum(file.stat().st_size for file in files)
    except OSError as error:
        raise UsageError(f"cannot read {card.file}", error.strerror or str(error), "check the path") from error
    made_by = {"file": Path(card.file).name, **facts}
    return Artifact(format=card.format, path=card.file, sha256=sha256, size_bytes=size_bytes, made_by=made_by)


def _with_source(artifact: Artifact, source: Artifact) -> Artifact:
    return msgspec.structs.replace(artifact, made_by={**artifact.made_by, "from": source.made_by})
