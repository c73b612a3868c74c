"""Which GPU is meant: by index, UUID or name, among those that the driver lists."""

import re
from collections.abc import Sequence

from bench.catalog import HardwareProfile
from bench.errors import Unavailable, UsageError
from bench.schema import Frozen

Capability = tuple[int, int]
LIST_GPUS = "list them with: nvidia-smi -L"


class Gpu(Frozen, frozen=True):
    """One GPU as its driver describes it; None is unknown. `index` is NVML's, which is that of `nvidia-smi`.

    `cuda_driver` is the newest CUDA of the driver, as (major, minor).
    """

    index: int
    name: str
    uuid: str = ""
    pci_bus_id: str = ""
    capability: Capability | None = None
    memory_bytes: int | None = None
    driver: str = ""
    cuda_driver: tuple[int, int] | None = None
    mig: bool = False

    def __str__(self) -> str:
        return f"{self.index}: {self.name} ({self.uuid or self.pci_bus_id or 'no UUID'})"


def mig_reason(gpu: Gpu) -> str:
    """Why a GPU in MIG mode is not measured."""
    return f"MIG is enabled on {gpu}; a slice of a GPU is not the GPU, and shares memory bandwidth and power"


def disable_mig(gpu: Gpu) -> str:
    return f"as root: nvidia-smi -i {gpu.uuid or gpu.index} -mig 0"


def of_profile(gpus: Sequence[Gpu], profile: HardwareProfile) -> tuple[Gpu, ...]:
    """Those that the profile describes, as `bench.devices` looks for them."""
    return tuple(gpu for gpu in gpus if re.search(profile.match.gpu, gpu.name))


def select(gpus: Sequence[Gpu], wanted: str = "") -> Gpu:
    """The one GPU that an index, the beginning of a UUID or a part of a name means; "" means the only one.

    Raises Unavailable where there is none or it is sliced (MIG), UsageError where several would do.
    """
    if not gpus:
        raise Unavailable("no NVIDIA GPU", "the driver lists none", LIST_GPUS)
    if wanted.upper().startswith("MIG-"):
        raise Unavailable(f"{wanted} is a MIG slice", "a slice of a GPU is not the GPU", "name a whole GPU")
    found = [gpu for gpu in gpus if _means(wanted, gpu)]
    listed = ", ".join(map(str, found or gpus))
    if not found:
        raise Unavailable(f"no GPU {wanted!r}", f"there are {listed}", "name one by index, UUID or part of its name")
    if len(found) > 1:
        what = f"{wanted!r} means several GPUs" if wanted else "several GPUs, and none was named"
        raise UsageError(what, listed, "name one by its index or UUID")
    if found[0].mig:
        raise Unavailable(mig_reason(found[0]), "", disable_mig(found[0]))
    return found[0]


def _means(wanted: str, gpu: Gpu) -> bool:
    if not wanted:
        return True
    if re.fullmatch(r"[0-9]{1,4}", wanted):
        return gpu.index == int(wanted)
    folded = wanted.casefold()
    if folded.startswith("gpu-"):
        return gpu.uuid.casefold().startswith(folded)
    return folded in gpu.name.casefold()


def is_shown(gpu: Gpu, shown: str) -> bool:
    """Whether a CUDA_VISIBLE_DEVICES that a user or a scheduler has set admits it; "" admits all.

    Numbers are taken for the driver's, as schedulers mean them.
    """
    words = [word.strip() for word in shown.split(",") if word.strip()]
    return not words or any(word == str(gpu.index) or (gpu.uuid and gpu.uuid.startswith(word)) for word in words)


def visible_only(gpu: Gpu) -> dict[str, str]:
    """Environment variables that show a process this GPU alone, as its device 0.

    By UUID: CUDA orders devices by speed where NVML orders them by bus, so that an index means two different GPUs.
    """
    return {"CUDA_VISIBLE_DEVICES": gpu.uuid or str(gpu.index), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
