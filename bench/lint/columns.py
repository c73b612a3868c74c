"""What a header means, in English or Chinese: which field, in which unit, and which case its words name."""

import re
from collections.abc import Iterable

from bench import backends, catalog
from bench.schema import Frozen

#: devices that zoos print, besides those that have a profile
DEVICES = {
    "sd855": r"sd\s*855|snapdragon\s*855|骁龙\s*855",
    "sdm865": r"sdm?\s*865|snapdragon\s*865|骁龙\s*865",
    "v100": r"\bv100\b",
    "t4": r"(?<!\d )\bt4\b",  # not "bs8 t4", which is four threads
    "xeon-6148": r"\b6148\b",
    "xeon-6271c": r"\b6271c\b",
    "iphone12pro": r"iphone\s*12",
}
#: said of many machines: heeded where no device is named
GENERAL = ("cpu",)
BACKENDS = {"paddle_tensorrt": "tensorrt", "paddle_lite": r"paddle[\s-]?lite", "paddle": "mkldnn|onednn"}
LATENCY = r"latency|time\b|\bms\b|耗时|延时|时延|延迟|推理时间|预测时间|\b(?:median|mean|p50|p9\d|min|max)\b"
#: times that are no inference's, and what stands beside latencies without being one
BESIDE = r"\b(?:first|load|build|export|ci|ratio|level|error|memory|samples|throughput)\b|images?/s|加载|吞吐"
#: the first that fits counts
FIELDS = {
    "": rf"published|paper|论文|{BESIDE}",
    "model": r"^(?:models?|model name|networks?|模型|模型名称?|网络)$",
    "device": r"^(?:device|设备)$",
    "backend": r"^(?:backend|engine|推理引擎)$",
    "precision": r"^(?:precision|精度类型)$",
    "batch_size": r"^(?:bs|batch(?: size)?)$",
    "threads": r"^(?:threads?|线程数?)$",
    "campaign": r"^(?:interval|campaign|run id|run)$",
    "ref_top1": r"(?:ref|参考).*top-?\s*1",
    "ref_top5": r"(?:ref|参考).*top-?\s*5",
    "top1": r"top-?\s*1",
    "top5": r"top-?\s*5",
    "flops_g": r"flops|macs|计算量",
    "params_m": r"params?\b|parameters|参数量",
    "storage_mb": r"storage|存储|model size|模型大小|\bsize\W*(?:m|mb)\b",
    "input_size": r"crop size|input size|^size$|输入",
    "latency": LATENCY,
}
CONTEXT = ("model", "device", "backend", "precision", "batch_size", "threads", "campaign")
STATISTICS = {"mean": "mean|avg|average|平均", "min": "min", "max": "max"}
THREADS = (
    r"\bthreads?\s*=?\s*(\d{1,6})|线程数?\s*=?\s*(\d{1,6})|(?<![=\d])(\d{1,6})\s*(?:threads?\b(?!\s*=?\s*\d)|线程)"
    r"|\bbs\d+ t(\d{1,6})\b"
)
#: factor to the unit of the field
UNITS: dict[str, dict[str, float]] = {
    "latency": {r"\bms\b|毫秒|millisec": 1.0, r"\b[uμµ]s\b|微秒": 1e-3, r"\bns\b": 1e-6, r"\bs\b|\bsec|秒": 1e3},
    "flops_g": {r"\bg\b|gflops|gmacs|giga": 1.0, r"\bm\b|mflops|mmacs": 1e-3, r"\bt\b|tflops": 1e3},
    "params_m": {r"\bm\b|million|百万": 1.0, r"\bk\b": 1e-3, r"\bb\b|\bg\b": 1e3},
    "storage_mb": {r"\bmi?b?\b": 1.0, r"\bki?b?\b": 1e-3, r"\bgi?b?\b": 1e3},
}


class Context(Frozen, frozen=True):
    """What words say of a case; empty and 0 where they say nothing, or several things."""

    device: str = ""
    backend: str = ""
    precision: str = ""
    batch_size: int = 0
    threads: int = 0
    campaign: str = ""

    def over(self, other: "Context") -> "Context":
        """What this says, and the other's word where it is silent."""
        return Context(*(getattr(self, name) or getattr(other, name) for name in self.__struct_fields__))


class Column(Frozen, frozen=True):
    """A header understood. `scale` is the factor to the field's unit, None where one is needed and none is named."""

    text: str
    field: str
    scale: float | None = 1.0
    percent: bool = False
    statistic: str = ""
    context: Context = Context()


def column(header: str) -> Column:
    """What a header says of itself; the context of its table is not in it."""
    words = plain(header)
    field = field_of(words)
    context = context_of(words)
    if not field and not re.search(FIELDS[""], words) and (context.precision or context.batch_size):
        field = "latency"  # such as "FP32 bs=4"
    return Column(
        text=" ".join(re.sub(r"<br\s*/?>", " ", header).split()),
        field=field,
        scale=scale_of(field, words),
        percent="%" in words,
        statistic=_statistic(field, words),
        context=context,
    )


def plain(header: str) -> str:
    """Lower case, without markup; underscores part words, so that `latency_ms` says ms."""
    text = re.sub(r"<[^>]*>|[*_\\`()\[\],/]", " ", header) if "images/s" not in header else header
    return " ".join(text.casefold().split())


def field_of(words: str) -> str:
    return next((field for field, pattern in FIELDS.items() if re.search(pattern, words)), "")


def scale_of(field: str, words: str) -> float | None:
    """The factor of the unit that is named; None where one is needed and none is."""
    units = UNITS.get(field)
    if units is None:
        return 1.0
    return next((factor for pattern, factor in units.items() if re.search(pattern, words)), None)


def context_of(words: str) -> Context:
    return Context(
        device=device_of(words),
        backend=backend_of(words),
        precision=only(re.findall(r"\b(fp32|fp16|bf16|int8)\b", words)),
        batch_size=_count(r"\b(?:bs|batch(?:\s*size)?)\s*=?\s*(\d{1,6})\b", words),
        threads=_count(THREADS, words),
        campaign=only(re.findall(r"\b(compute|end to end)\b", words)),
    )


def device_of(words: str) -> str:
    """The one device that is named, or nothing where several are."""
    named = [name for name, pattern in DEVICES.items() if re.search(pattern, words)]
    named += [name for name in catalog.profiles() if name not in DEVICES and re.search(rf"\b{name}\b", words)]
    return only([name for name in named if name not in GENERAL]) or only(named)


def backend_of(words: str) -> str:
    named = [name for name, pattern in BACKENDS.items() if re.search(pattern, words)]
    spaced = words.replace("-", " ")
    named += [name for name in backends.KNOWN if re.search(rf"\b{name.replace('_', ' ')}\b", spaced)]
    return max(dict.fromkeys(named), key=len, default="")


def only(named: Iterable[str]) -> str:
    """The one of which several mentions speak, if it is one."""
    different = set(named)
    return different.pop() if len(different) == 1 else ""


def _count(pattern: str, words: str) -> int:
    return int(only(next(filter(None, match.groups())) for match in re.finditer(pattern, words)) or 0)


def _statistic(field: str, words: str) -> str:
    """Which of the latencies, or whether operations are named for what they count."""
    if field == "flops_g":
        return "macs" if "macs" in words else ""
    tail = re.search(r"\bp(\d\d)\b", words)
    if tail and tail[1] != "50":
        return f"p{tail[1]}"
    return next((name for name, pattern in STATISTICS.items() if re.search(rf"\b(?:{pattern})\b", words)), "")
