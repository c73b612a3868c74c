"""What was true of this machine, on recorded trees, on garbled ones and on the machine at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import environment, session
from bench.errors import UsageError
from bench.store import Header

CPU = "sys/devices/system/cpu"
CLOCK = "sys/devices/system/clocksource/clocksource0"
MOUNT_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
MOUNT_V1 = "33 32 0:30 {shown} /sys/fs/cgroup/{name} rw,nosuid shared:9 - cgroup cgroup rw,{name}"
SLICE = "sys/fs/cgroup/ci.slice"

# Two sockets' worth of server would only repeat this: one core with two threads, all the knobs of bare metal.
BARE_METAL = {
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n"
    "model name\t: Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz\nstepping\t: 4\nmicrocode\t: 0x2006e05\n"
    "flags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_vnni amx_tile smep",
    "proc/meminfo": "MemTotal:       197628844 kB\nMemAvailable:   1048576 kB\nSwapTotal:       8388604 kB",
    "proc/stat": "cpu  100 2 30 4000 5 6 7 8 0 0\ncpu0 100 2 30 4000 5 6 7 8 0 0",
    "proc/pressure/cpu": "some avg10=12.50 avg60=0.25 avg300=0.09 total=1690194\nfull avg10=0.00 total=0",
    "proc/self/cgroup": "0::/",
    "proc/self/status": "Name:\tpython\nCpus_allowed:\tffff\nCpus_allowed_list:\t0-15",
    "proc/sys/kernel/osrelease": "5.15.0-91-generic",
    "sys/class/dmi/id/sys_vendor": "Dell Inc.",
    "sys/class/dmi/id/product_name": "PowerEdge R740",
    f"{CPU}/online": "0-1",
    f"{CPU}/smt/active": "1",
    f"{CPU}/intel_pstate/no_turbo": "0",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave",
    f"{CPU}/cpu1/cpufreq/scaling_governor": "performance",
    f"{CPU}/cpu0/topology/core_id": "0",
    f"{CPU}/cpu1/topology/core_id": "0",
    f"{CPU}/cpu0/topology/physical_package_id": "0",
    f"{CPU}/cpu1/topology/physical_package_id": "0",
    f"{CPU}/cpu0/topology/thread_siblings_list": "0-1",
    f"{CPU}/cpu1/topology/thread_siblings_list": "0-1",
    f"{CPU}/cpu0/cache/index0/level": "1",
    f"{CPU}/cpu0/cache/index0/type": "Data",
    f"{CPU}/cpu0/cache/index0/size": "32K",
    f"{CPU}/cpu0/cache/index3/level": "3",
    f"{CPU}/cpu0/cache/index3/type": "Unified",
    f"{CPU}/cpu0/cache/index3/size": "28160K",
    "sys/devices/system/node/node0/cpulist": "0-1",
    "sys/bus/event_source/devices/cpu/type": "4",
    f"{CLOCK}/current_clocksource": "hpet",
    f"{CLOCK}/available_clocksource": "tsc hpet acpi_pm",
    "proc/driver/nvidia/gpus/0000:3b:00.0/information": "Model: \t\t Tesla T4\nGPU UUID: \t GPU-6c1b",
}
VIRTUAL = {
    "proc/cpuinfo": "vendor_id : AuthenticAMD\nmodel name : AMD EPYC\nflags : avx2 hypervisor avx512_bf16",
    "proc/self/cgroup": "2:cpu:/docker/4f1c",
    "proc/self/mountinfo": MOUNT_V1.format(name="cpu", shown="/docker/4f1c"),
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    "sys/bus/event_source/devices/software/type": "1",
    f"{CPU}/online": "0-3",
    f"{CLOCK}/current_clocksource": "tsc",
    f"{CLOCK}/available_clocksource": "tsc kvm-clock",
}


def plant(root, files):
    for name, content in files.items():
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
    return root


# Describing


def test_bare_metal_is_described_in_full(tmp_path):
    described = environment.describe(plant(tmp_path, BARE_METAL), environ={})
    hardware = described["hardware"]
    assert hardware["cpu"] == {
        "name": "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz",
        "vendor": "GenuineIntel",
        "family": "6",
        "model": "85",
        "stepping": "4",
        "microcode": "0x2006e05",
        "isa": ["amx_tile", "avx", "avx2", "avx512_vnni", "avx512f", "fma", "sse4_2"],
    }
    counts = {name: hardware[name] for name in ("logical_cpus", "physical_cores", "sockets", "threads_per_core")}
    assert counts == {"logical_cpus": 2, "physical_cores": 1, "sockets": 1, "threads_per_core": 2}
    assert (hardware["virtual_machine"], hardware["hypervisor"]) == (False, None)
    assert hardware["caches"] == {"L1d": "32K", "L3": "28160K"}
    assert hardware["product"] == "Dell Inc. PowerEdge R740"
    assert hardware["gpus"] == ["Tesla T4"]
    system = described["system"]
    assert (system["governor"], system["turbo"], system["smt"]) == ("performance,powersave", True, True)
    assert (system["kernel"], system["clocksource"]) == ("5.15.0-91-generic", "hpet")
    assert system["hardware_counters"] is True
    assert described["limits"]["cpus"] == [0, 1]
    assert described["limits"]["memory_bytes"] == 197628844 * 1024
    assert described["limits"]["container"] == "none"


def test_virtual_machine_in_a_container_is_told_by_its_flag(tmp_path):
    described = environment.describe(plant(tmp_path, VIRTUAL), environ={})
    assert (described["hardware"]["virtual_machine"], described["hardware"]["hypervisor"]) == (True, "kvm")
    assert described["limits"]["container"] == "docker"
    assert described["system"]["hardware_counters"] is False
    assert described["system"]["governor"] is None


def test_arm_has_other_words_and_no_flag_for_virtual_machines(tmp_path):
    cpuinfo = "processor : 0\nFeatures : fp asimd asimddp bf16 sve sme2\nCPU implementer : 0x41\nCPU part : 0xd40"
    amazon = {"sys/class/dmi/id/sys_vendor": "Amazon EC2", "sys/class/dmi/id/product_name": "c7g.large"}
    hardware = environment.describe(plant(tmp_path, {"proc/cpuinfo": cpuinfo} | amazon), environ={})["hardware"]
    assert (hardware["cpu"]["vendor"], hardware["cpu"]["model"]) == ("0x41", "0xd40")
    assert hardware["cpu"]["isa"] == ["asimd", "asimddp", "bf16", "sme2", "sve"]
    assert (hardware["virtual_machine"], hardware["hypervisor"]) == (True, "kvm")
    plant(tmp_path, {"sys/class/dmi/id/product_name": "c7g.metal"})
    assert environment.describe(tmp_path, environ={})["hardware"]["virtual_machine"] is None


def test_an_empty_tree_leaves_facts_unknown(tmp_path):
    described = environment.describe(tmp_path, environ={})
    assert described["hardware"]["logical_cpus"] is None
    assert described["hardware"]["virtual_machine"] is None
    assert described["system"]["hardware_counters"] is None
    assert described["limits"] == {
        "container": None,
        "cpus": [0],
        "cpu_quota": None,
        "cpu_weight": None,
        "usable_cpus": 1,
        "memory_bytes": None,
        "memory_limit_bytes": None,
        "swap_bytes": None,
    }


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"run/.containerenv": ""}, "podman"),
        ({".dockerenv": ""}, "docker"),
        ({"proc/self/cgroup": "0::/kubepods.slice/kubepods-pod1.slice"}, "kubernetes"),
        ({"proc/1/cgroup": "0::/lxc.payload.ci"}, "lxc"),
        ({"proc/sys/kernel/osrelease": "5.15.146.1-microsoft-standard-WSL2"}, "wsl"),
        ({"proc/self/cgroup": "0::/user.slice"}, "none"),
    ],
)
def test_container_kind(tmp_path, files, kind):
    assert environment.describe(plant(tmp_path, files), environ={})["limits"]["container"] == kind


def test_identifiers_follow_their_part_alone(tmp_path):
    one = environment.describe(plant(tmp_path, BARE_METAL), environ={})
    other = environment.describe(tmp_path, environ={"OMP_NUM_THREADS": "1"})
    assert environment.machine_class(one) == environment.machine_class(other)
    assert environment.environment_id(one) != environment.environment_id(other)
    plant(tmp_path, {"proc/cpuinfo": "model name : another"})
    assert environment.machine_class(environment.describe(tmp_path, environ={})) != environment.machine_class(one)
    assert environment.environment_id(json.loads(json.dumps(one))) == environment.environment_id(one)


def test_nothing_personal_is_published(tmp_path):
    private = {
        "HOME": "/home/alice smith",
        "USER": "alice",
        "HOSTNAME": "alices-laptop",
        "LD_PRELOAD": "/home/alice smith/lib/libjemalloc.so.2:/usr/lib/libtcmalloc.so",
        "OMP_TOOL_LIBRARIES": r"C:\Users\alice\tool.dll",
        "FLAGS_log_dir": "/srv/alice/logs",
        "FLAGS_owner": "alice",
        "ORT_CACHE": "~alice",
        "MALLOC_TRACE": "alices-laptop:1",
        "KMP_SETTINGS": "näh\ud800",
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "OMP_NUM_THREADS": "2",
        "AWS_SECRET_ACCESS_KEY": "hush",
    }
    described = environment.describe(tmp_path, environ=private)
    assert described["variables"] == {
        "FLAGS_log_dir": "<path>",
        "FLAGS_owner": "<hidden>",
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "KMP_SETTINGS": "<hidden>",
        "LD_PRELOAD": "libjemalloc.so.2:libtcmalloc.so",
        "MALLOC_TRACE": "<hidden>",
        "OMP_NUM_THREADS": "2",
        "OMP_TOOL_LIBRARIES": "C:tool.dll",
        "ORT_CACHE": "<path>",
    }
    assert "alice" not in json.dumps(described)


# CPUs and quotas


def test_cpu_lists():
    assert environment.cpu_list("0-3,8, 10-10\n") == (0, 1, 2, 3, 8, 10)
    assert environment.cpu_list("") == environment.cpu_list("0-99999999999,5-2,x,-1") == ()


def test_affinity_is_cut_to_the_cpus_that_are_there(tmp_path):
    plant(tmp_path, {"proc/7/status": "Cpus_allowed_list:\t1-127", f"{CPU}/online": "0-2"})
    assert environment.cpus_available(tmp_path, 7) == (1, 2)
    assert environment.cpus_available(tmp_path) == (0, 1, 2)


def v2(outer, inner="max 100000"):
    return {
        "proc/self/cgroup": "0::/ci.slice/job.scope",
        "proc/self/mountinfo": f"garbage\n{MOUNT_V2}",
        f"{SLICE}/cpu.max": outer,
        f"{SLICE}/job.scope/cpu.max": inner,
    }


def v1(shown, group, quota, period="100000"):
    folder = "sys/fs/cgroup/cpu,cpuacct"
    return {
        "proc/self/cgroup": f"5:memory:/\n4:cpu,cpuacct:{group}\n0::/",
        "proc/self/mountinfo": MOUNT_V1.format(name="cpu,cpuacct", shown=shown),
        f"{folder}/job/cpu.cfs_quota_us": quota,
        f"{folder}/job/cpu.cfs_period_us": period,
        f"{folder}/cpu.cfs_quota_us": "300000",
        f"{folder}/cpu.cfs_period_us": "100000",
    }


# A process that left its namespace has a path with dots; its parents are none of what is mounted here.
OUTSIDE = {"sys/fs/cgroup/cpu.cfs_quota_us": "100", "sys/fs/cgroup/cpu.cfs_period_us": "1000"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        (v2("max 100000"), None),
        (v2("150000 100000"), 1.5),
        (v2("max 100000", "400000 100000"), 4.0),
        (v2("50000 100000", "250000 100000"), 0.5),
        (v2("50000 0"), None),
        (v2("half"), None),
        (v1("/", "/job", "250000"), 2.5),
        (v1("/", "/job", "-1"), 3.0),
        (v1("/docker/4f1c", "/docker/4f1c/job", "200000"), 2.0),
        (v1("/docker/4f1c", "/docker/other", "200000"), 3.0),
        (v1("/", "/../job", "200000") | OUTSIDE, 3.0),
    ],
)
def test_quota_is_that_of_the_strictest_parent(tmp_path, files, quota):
    assert environment.cpu_quota(plant(tmp_path, files)) == quota


@pytest.mark.parametrize(("limit", "usable"), [("max", 4), ("270000", 2), ("50000", 1), ("900000", 4)])
def test_pools_are_sized_from_whole_cpus_of_the_quota(tmp_path, limit, usable):
    files = v2(f"{limit} 100000") | {f"{CPU}/online": "0-3"}
    assert environment.usable_cpus(plant(tmp_path, files)) == usable


def test_weight_and_memory_limit(tmp_path):
    files = v2("max 100000") | {f"{SLICE}/cpu.weight": "20", f"{SLICE}/memory.max": "1073741824"}
    limits = environment.describe(plant(tmp_path, files), environ={})["limits"]
    assert (limits["cpu_weight"], limits["memory_limit_bytes"]) == (0.2, 2**30)


def test_a_v1_memory_limit_of_all_there_is_is_none(tmp_path):
    files = {
        "proc/self/cgroup": "5:memory:/",
        "proc/self/mountinfo": MOUNT_V1.format(name="memory", shown="/"),
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    assert environment.memory_limit_bytes(plant(tmp_path, files)) is None


# Advice


def test_advice_names_each_source_of_noise_on_bare_metal(tmp_path):
    root = plant(tmp_path, BARE_METAL)
    lines = environment.advice(environment.describe(root, environ={}), root, environment.load_now(root, seconds=0))
    expected = ("governor", "Turbo", "hpet", "share cores", "2 usable CPUs", "Swap", "Tasks waited", "1.0 GiB")
    assert [word for word in expected if any(word in line for line in lines)] == list(expected)
    assert "write tsc to current_clocksource" in " ".join(lines)
    assert not any("\n" in line for line in lines)


def test_advice_on_a_virtual_machine_with_half_a_cpu(tmp_path):
    lines = environment.advice(environment.describe(plant(tmp_path, VIRTUAL), environ={}), now={})
    assert any("virtual machine (kvm)" in line and "no hardware counters" in line for line in lines)
    assert any("0.5 CPUs, so even one thread" in line for line in lines)


def test_advice_on_load():
    lines = environment.advice({}, now={"busy_cores": 1.5, "stolen_cores": 0.1})
    assert [line.split(" now")[0] for line in lines] == ["Others use 1.5 cores", "The hypervisor withholds 0.10 cores"]


def test_a_quiet_machine_needs_no_advice():
    system = {"os": "Linux", "governor": "performance", "turbo": False, "clocksource": "tsc"}
    limits = {"usable_cpus": 8, "swap_bytes": 0, "cpu_weight": 1.0}
    calm = {"busy_cores": 0.01, "stolen_cores": 0.0, "pressure_share": 0.0, "available_bytes": 2**40}
    assert environment.advice({"hardware": {}, "system": system, "limits": limits}, now=calm) == []


# Odd files, other systems, this machine

FILES = {**VIRTUAL, **BARE_METAL, **v2("1 2")}
NASTY = [
    "",
    "cpu",
    "cpu  1 2 3 4 5 6 7",
    "-1 -1 -1",
    "9" * 5000,
    "99999999999999999999 1",
    "nan inf 1e999",
    "0-4294967295,7-",
    ": : :\n::\n \n:",
    "\0\0",
    "a/../../..:/:\\",
    "some avg10=999.99 avg60=0 avg300=0 total=999999999999999999",
    " - cgroup2\n1 2 3 4 5 - cgroup rw,cpu\n1 2 3 / / rw - cgroup cpu",
    "7 () R",
]
ODD = st.one_of(st.binary(max_size=60), st.sampled_from(NASTY).map(str.encode))


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("machine"), FILES)


@settings(max_examples=100, deadline=None)
@given(odd=st.dictionaries(st.sampled_from(sorted(FILES)), ODD, max_size=12))
def test_odd_files_never_raise(machine, odd):
    try:
        described = environment.describe(plant(machine, odd), environ={})
        json.dumps(described, allow_nan=False)
        assert len(environment.machine_class(described)) == 12
        json.dumps(environment.load_now(machine, seconds=0), allow_nan=False)
        assert environment.usable_cpus(machine) >= 1
        environment.advice(described, machine, {})
    finally:
        plant(machine, {name: FILES[name] for name in odd})


def test_folders_where_files_should_be(tmp_path):
    for name in FILES:
        Path(tmp_path, name).mkdir(parents=True, exist_ok=True)
    assert environment.describe(tmp_path, environ={})["hardware"]["cpu"]["name"] is None


def test_without_proc_psutil_answers(monkeypatch):
    monkeypatch.setattr(environment, "read", lambda root, name: "")
    monkeypatch.setattr(environment, "names", lambda root, folder, pattern="": [])
    described = environment.describe()
    assert described["hardware"]["logical_cpus"] == os.cpu_count()
    assert described["limits"]["memory_bytes"] > 2**28
    assert environment.cpus_available()
    assert environment.processor_ticks()[0] > 0


def test_this_machine():
    described = environment.describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert environment.describe() == described
    assert described["packages"].keys() == set(environment.PACKAGES)
    assert 1 <= environment.usable_cpus() <= len(environment.cpus_available())
    assert Path.home().as_posix() not in json.dumps(described) or Path.home() == Path("/")
    assert all(environment.advice(described, now=environment.load_now(seconds=0.02)))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_affinity_is_that_of_now():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
        assert environment.cpus_available() == (max(before),)
    finally:
        os.sched_setaffinity(0, before)


def test_importing_loads_nothing_heavy():
    code = "import sys, bench.environment, bench.telemetry; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=Path(environment.__file__).parents[1])
    assert {"numpy", "pandas", "psutil", "paddle", "onnxruntime", "openvino"}.isdisjoint(loaded.split())


# The project's commit

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def no_ci(monkeypatch):
    for name in (*environment.COMMIT_VARIABLES, *environment.GIT_PLACES):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkout(tmp_path, monkeypatch, no_ci):
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    folder = plant(tmp_path / "project", {"file": "1"})
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    for words in (("init", "-q"), ("add", "file"), (*identity, "commit", "-q", "--no-verify", "-m", "first")):
        subprocess.run(["git", "-C", folder, *words], check=True)
    return folder


def test_commit_and_whether_it_is_what_ran(checkout, monkeypatch):
    clean = environment.git_commit(checkout)
    assert environment.COMMIT.fullmatch(clean)
    plant(checkout, {"results/new.jsonl": ""})
    monkeypatch.setenv("GITHUB_SHA", SHA)
    monkeypatch.setenv("GIT_DIR", "elsewhere")
    assert environment.git_commit(checkout) == clean
    plant(checkout, {"file": "2"})
    assert environment.git_commit(checkout) == f"{clean}-dirty"


def test_without_a_checkout_the_ci_variable_counts(tmp_path, monkeypatch, no_ci):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment.git_commit(tmp_path) is None
    assert environment.git_commit(tmp_path / "missing") is None
    monkeypatch.setenv("GITHUB_SHA", "not a commit")
    monkeypatch.setenv("CI_COMMIT_SHA", SHA)
    assert environment.git_commit(tmp_path) == SHA


def test_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment.git_commit(checkout) is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script for git")
def test_a_git_that_hangs_is_given_up(tmp_path, monkeypatch, no_ci):
    plant(tmp_path, {"git": "#!/bin/sh\nexec sleep 60"})
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(environment, "GIT_TIMEOUT_S", 0.05)
    assert environment.git_commit(tmp_path) is None


def phone(**facts):
    return {"device": {"hardware": {"model": "MI 9", "soc": "SM8150", "unit": "c775", "memory_kb": 5, **facts}}}


def test_the_cpus_near_a_device_are_those_of_its_socket(tmp_path):
    files = {
        "proc/self/status": "Cpus_allowed_list:\t2-9",
        f"{CPU}/online": "0-15",
        "sys/bus/pci/devices/0000:3b:00.0/local_cpulist": "0-3,8-11",
    }
    plant(tmp_path, files)
    assert environment.cpus_near("00000000:3B:00.0", tmp_path) == (2, 3, 8, 9)
    assert environment.cpus_near("00000000:AF:00.0", tmp_path) == ()
    assert environment.cpus_near("", tmp_path) == ()


def test_a_gpu_counts_beside_its_machine():
    def of(**facts):
        gpu = {
            "name": "Tesla V100-SXM2-16GB",
            "capability": [7, 0],
            "memory_bytes": 16 << 30,
            "driver": "535.1",
            **facts,
        }
        return {"hardware": {"cpu": "a"}, "device": {"gpu": gpu}}

    assert environment.machine_class(of()) == environment.machine_class(of(driver="550.2", index=1))
    others = [of(name="Tesla V100-PCIE-16GB"), of(memory_bytes=32 << 30), {"hardware": {"cpu": "a"}}]
    assert environment.machine_class(of()) not in map(environment.machine_class, others)
    assert environment.machine_class({**of(), "hardware": {"cpu": "b"}}) != environment.machine_class(of())


def test_a_phone_is_the_machine_whatever_it_hangs_on():
    here, there = {"hardware": {"cpu": "a"}}, {"hardware": {"cpu": "b"}}
    assert environment.machine_class(phone() | here) == environment.machine_class(phone(memory_kb=6) | there)
    assert environment.machine_class(phone()) != environment.machine_class(phone(unit="0000"))
    assert environment.machine_class(phone()) != environment.machine_class({"hardware": {}})


def test_a_phone_is_named_for_a_reader():
    assert environment.phone_words({"hardware": {}}) == ""
    assert environment.phone_words({"device": {"gpu": {}}}) == ""
    told = phone(manufacturer="Xiaomi", abis=["arm64-v8a"])
    assert environment.phone_words(told) == "Xiaomi MI 9 (SoC SM8150, arm64-v8a)"


def test_what_a_home_holds_stands_beside_what_we_hold():
    description = {"packages": {"numpy": "2"}, "homes": {"paddle_lite": {"numpy": "1.26", "python": "3.10.13"}}}
    assert environment.in_homes(description) == {"paddle_lite: numpy": "1.26", "paddle_lite: python": "3.10.13"}
    assert environment.in_homes({}) == {}


def test_a_home_hides_no_change_of_ours():
    """Both hold a NumPy; the one that changed is named."""
    held = {"homes": {"paddle_lite": {"numpy": "1.26"}}, "hardware": {}}
    then, now = ({**held, "packages": {"numpy": version}} for version in ("2.3", "2.4"))
    with pytest.raises(UsageError, match=r"other packages; numpy 2\.3 then, 2\.4 now"):
        session._refuse_other_place(
            Header(run_id="r", started_at="2026-01-01", bench_version="0", environment=then), now
        )
