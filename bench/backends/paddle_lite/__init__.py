"""Paddle Lite, on this machine's CPU or on a phone. Its wheels end at CPython 3.10, so it has a home of its own."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import phone
from bench.backends import BaseBackend, Home, Session, Setup
from bench.catalog import HardwareProfile
from bench.errors import BenchError, Failed, Unsupported
from bench.formats import without_home
from bench.schema import Case, Interval

#: what opt converts for, by the kind of device; some phones are emulators, and then it is for this machine's CPU
TARGETS = {"cpu": "x86", "phone": "arm"}


class Backend(BaseBackend):
    name = "paddle_lite"
    requires = ("paddlelite",)
    install = "bench setup paddle_lite"
    distributions = ("paddlelite", "paddlepaddle")
    home = Home("3.10", ("paddlelite==2.13rc0", "paddlepaddle==2.6.2", "numpy<2", "setuptools"))
    source = "pdmodel"
    engine = "paddle_lite"
    kinds = frozenset(TARGETS)
    precisions = frozenset({"fp32", "fp16"})
    #: which cores of a phone work: 0 the big ones, 1 the little ones, 2 all, 3 as its scheduler likes
    #: `tool` is what runs on a phone, or a folder of Paddle Lite with it
    options = {"power_mode": ("0", "1", "2", "3"), "tool": Path()}
    only = {"power_mode": "phone", "tool": "phone"}

    def intervals_on(self, kind: str) -> frozenset[Interval]:
        """A phone's tool times inferences alone."""
        return frozenset({"compute"}) if kind == "phone" else super().intervals_on(kind)

    def probe(self, device: HardwareProfile) -> str:
        """As the runtime says, such as "v2.13-rc"; it is what opt writes into each .nb, too."""
        self.runtime(device)
        from paddlelite.lite import Opt

        return str(Opt().version())

    def lacking(self, device: HardwareProfile, options: Mapping[str, str], found: Mapping[str, Any]) -> str:
        """The tool, where it isn't named, isn't there, or isn't for such a phone."""
        if device.kind != "phone":
            return ""
        from bench.backends.paddle_lite import device as on_phone

        try:
            on_phone.find_tool(options, found["phone"]["abis"])
        except BenchError as error:
            return without_home(str(error))
        return ""

    def obstacle(self, case: Case, options: Mapping[str, str], found: Mapping[str, Any]) -> str:
        """Too few cores of the kind asked for: Paddle Lite would use fewer, or any, and not say so."""
        if "phone" not in found:
            return ""
        seen, start = phone.planned(found)
        return phone.obstacle(seen, start, case.threads, int(options["power_mode"]))

    def variant(self, setup: Setup) -> dict[str, str]:
        return {"target": _target(setup), "precision": setup.case.precision}

    def build(self, source: Path, folder: Path, setup: Setup) -> Path:
        from bench.backends.paddle_lite import convert, nb

        self.refuse(setup)
        engine = folder / "model.nb"
        target, precision = _target(setup), setup.case.precision
        convert.nb_from_pdmodel(source, target, precision, engine)
        made = nb.read(engine)
        if made.targets != {target} or (made.precisions and precision not in made.precisions):
            found = f"{', '.join(made.precisions)} for {', '.join(sorted(made.targets))}"
            raise Failed(f"opt cannot convert {source.name} to {precision} for {target}", f"it made {found}")
        return engine

    def open(self, engine: Path, setup: Setup) -> Session:
        self.refuse(setup)
        if setup.device.kind == "phone":
            return self._open_on_phone(engine, setup)
        from bench.backends.paddle_lite.local import LocalSession

        return LocalSession(engine, setup.case.threads)

    def _open_on_phone(self, engine: Path, setup: Setup) -> Session:
        from bench.backends.paddle_lite.device import DeviceSession

        return DeviceSession(engine, setup)

    def refuse(self, setup: Setup) -> None:
        """Raises Unsupported for a precision that can't be had. Asked for fp16 on x86, opt would silently make fp32."""
        self.refuse_precision(setup.case)
        if setup.case.precision != "fp32" and _target(setup) == "x86":
            raise Unsupported("paddle_lite runs fp32 on x86", f"its kernels for it know no {setup.case.precision}")


def _target(setup: Setup) -> str:
    """What the tool for the phone computes as; without a phone or a tool, what phones mostly do."""
    if abis := setup.found.get("phone", {}).get("abis"):
        from bench.backends.paddle_lite import device, tool

        with contextlib.suppress(BenchError):
            return tool.TARGETS[device.find_tool(setup.options, abis).abi]
    return TARGETS[setup.device.kind]
