"""`bench.adb`: what adb lists, put into words, and commands and files against a phone that is served here."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback import AdbServer, Daemon, Phone, serving

from bench import adb
from bench.errors import BenchError, Failed, Unavailable, UsageError

HEAD = "List of devices attached\n"
UDEV = "no permissions (missing udev rules? user is in the plugdev group); see [http://developer.android.com/tools/device.html]"
READY = "8f3a2c1d               device usb:1-2 product:cepheus model:MI_9 device:cepheus transport_id:1\n"
OTHER = "emulator-5554          device product:sdk model:Android_SDK device:generic transport_id:2\n"
UNAUTHORIZED = "8f3a2c1d               unauthorized usb:1-2 transport_id:3\n"
HOSTILE = [
    "two words",
    "it's",
    'a "quote"',
    "$(touch pwned)",
    "`touch pwned`",
    "$HOME",
    "new\nline",
    "-rf",
    "--help",
    "*",
    "a;touch pwned",
    "a&b|c>d<e",
    "Ünïcödé 模型",
    "back\\slash",
    "tab\t",
    "!bang",
    "#hash",
    "a,b",
    "%s%n",
    "~",
]

OLD_GREP = """
case $1 in *F*) ;; *) exec {grep} "$@";; esac
shift; wanted=
while [ "$1" = -e ]; do wanted="$wanted -e $2"; shift 2; done
for file; do head -z -n 1 "$file" 2>/dev/null | {grep} -q $wanted && echo "$file"; done
"""

Serve = Callable[..., Path]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Puts an `adb` on PATH that answers any call alike."""

    def serve(out: str = "", err: str = "", code: int = 0) -> Path:
        (tmp_path / "out").write_text(out)
        (tmp_path / "err").write_text(err)
        program = tmp_path / "adb"
        program.write_text(
            f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\ncat {tmp_path}/out\ncat {tmp_path}/err >&2\nexit {code}\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)
        return program

    return serve


def refused(kind: type[BenchError], call: Callable[[], object]) -> str:
    """The one line of an error of exactly this kind."""
    with pytest.raises(kind) as raised:
        call()
    assert raised.type is kind
    line = str(raised.value)
    assert line.isprintable(), line
    return line


def test_the_only_phone_is_chosen(fake):
    program = fake(HEAD + READY + "\n", err="* daemon not running; starting now at tcp:5037\n* daemon started *\n")
    chosen = adb.choose()
    assert (chosen.serial, chosen.program) == ("8f3a2c1d", str(program))
    assert adb.devices() == [adb.Listed("8f3a2c1d", "device", "MI_9")]


def test_a_serial_number_may_hold_a_blank(fake):
    """Newer ones list a phone so that is there twice over Wi-Fi."""
    serial = "adb-8f3a2c1d-AbCdEf (2)._adb-tls-connect._tcp"
    fake(f"{HEAD}{serial} device product:cepheus model:MI_9 device:cepheus transport_id:4\n")
    assert adb.devices() == [adb.Listed(serial, "device", "MI_9")]
    assert adb.choose().serial == serial
    fake(f"{HEAD}{serial} offline transport_id:4\n{serial} {UDEV} transport_id:5\n")
    assert adb.devices() == [adb.Listed(serial, "offline", ""), adb.Listed(serial, UDEV, "")]


def test_of_several_phones_one_has_to_be_named(fake, monkeypatch):
    fake(HEAD + READY + OTHER)
    assert refused(UsageError, adb.choose) == (
        "2 phones and none chosen; there is 8f3a2c1d (MI_9), emulator-5554 (Android_SDK); "
        "choose with: --serial SERIAL or ANDROID_SERIAL"
    )
    assert adb.choose("emulator-5554").serial == "emulator-5554"
    monkeypatch.setenv("ANDROID_SERIAL", "emulator-5554")
    assert adb.choose().serial == "emulator-5554"
    assert adb.choose("8f3a2c1d").serial == "8f3a2c1d"


def test_a_phone_that_is_not_ready_still_makes_it_several(fake):
    fake(HEAD + OTHER + UNAUTHORIZED)
    line = refused(UsageError, adb.choose)
    assert "emulator-5554 (Android_SDK), 8f3a2c1d (unauthorized)" in line


@pytest.mark.parametrize("serial", ["8f3a2c1", "8F3A2C1D", "-d", "usb:1-2"])
def test_a_wrong_serial_number_never_means_another_phone(fake, monkeypatch, serial):
    fake(HEAD + READY)
    expected = f"no phone {serial!r}; there is 8f3a2c1d (MI_9); choose with: --serial SERIAL"
    assert refused(Unavailable, lambda: adb.choose(serial)) == expected
    monkeypatch.setenv("ANDROID_SERIAL", serial)
    assert refused(Unavailable, adb.choose) == expected


def test_no_phone(fake):
    fake(HEAD + "\n")
    assert refused(Unavailable, adb.choose).startswith("no phone; adb lists none; connect one with USB debugging on")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (UNAUTHORIZED, "phone 8f3a2c1d is unauthorized; it hasn't accepted this computer's key; unlock it"),
        ("8f3a2c1d  authorizing transport_id:3", "phone 8f3a2c1d is authorizing; unlock it and run this again"),
        ("8f3a2c1d  connecting transport_id:3", "phone 8f3a2c1d is connecting; unlock it and run this again"),
        (
            "8f3a2c1d  offline usb:1-2 transport_id:3",
            "is offline; connect it again, as with: adb -s 8f3a2c1d reconnect",
        ),
        ("10.0.0.7:5555  offline transport_id:3", "as with: adb disconnect 10.0.0.7:5555 && adb connect 10.0.0.7:5555"),
        (
            f"8f3a2c1d  {UDEV} usb:1-2 transport_id:3",
            "no permissions for the USB device of phone 8f3a2c1d; add its udev",
        ),
        (f"(no serial number)  {UDEV}", "no permissions for the USB device of phone (no serial number); add its udev"),
        *(
            (f"8f3a2c1d  {state} transport_id:3", f"phone 8f3a2c1d is in state {state!r}; Android doesn't run on it")
            for state in ("recovery", "sideload", "bootloader", "rescue", "host")
        ),
    ],
)
def test_a_phone_that_is_not_ready_is_named_with_what_helps(fake, line, what):
    fake(f"{HEAD}{line}\n\n")
    assert what in refused(Unavailable, adb.choose)


def test_without_adb_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = "no adb to talk to the phone with; it is not on PATH; install it, as with: apt-get install adb"
    assert refused(Unavailable, adb.choose) == expected
    assert "install it" in refused(Unavailable, lambda: adb.Adb("1").read("true"))


def test_a_server_that_does_not_start_is_named(fake):
    said = "* daemon not running; starting now at tcp:5037\nerror: cannot connect to daemon\n"
    fake(err=said, code=1)
    assert refused(Unavailable, adb.choose) == (
        "adb can't reach its server; cannot connect to daemon; try: adb start-server"
    )
    assert "adb can't reach its server" in refused(Unavailable, lambda: adb.Adb("1").shell("true"))


@pytest.mark.parametrize(
    ("err", "kind", "what"),
    [
        (
            "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is…\n",
            Unavailable,
            "is unauthorized",
        ),
        ("error: insufficient permissions for device: udev\n", Unavailable, "no permissions"),
        ("error: device offline\n", adb.Lost, "lost the connection to 1; device offline"),
        ("adb: device offline\n", adb.Lost, "lost the connection to 1; device offline"),
        ("error: device '1' not found\n", adb.Lost, "lost the connection to 1; device '1' not found"),
        ("error: closed\n", adb.Lost, "lost the connection to 1; closed"),
        ("", adb.Lost, "lost the connection to 1; its answer broke off"),
    ],
)
@pytest.mark.parametrize("code", [1, 255])
def test_a_client_that_fails_is_told_apart_from_a_command_that_fails(fake, err, kind, what, code):
    fake(err=err, code=code)
    assert what in refused(kind, lambda: adb.Adb("1").shell("true"))


def test_exit_code_zero_with_half_an_answer_is_a_lost_connection(fake):
    fake(out="avg = 12.3\n", err="error: unauthorized, says the program\n")
    assert "its answer broke off" in refused(adb.Lost, lambda: adb.Adb("1").shell("true"))


def test_each_call_names_the_device(fake, tmp_path):
    fake(err="error: closed\n", code=1)
    device = adb.Adb("8f3a2c1d")
    device.reconnect_s = 0.5
    (tmp_path / "file").touch()
    for call in (
        lambda: device.read("true"),
        lambda: device.push(tmp_path / "file", "/data/x"),
        lambda: device.pull("/data/x", tmp_path / "back"),
        lambda: device.folder().__enter__(),
    ):
        with pytest.raises(BenchError):
            call()
    calls = [line for line in (tmp_path / "calls").read_text().splitlines() if re.match(r"-|[a-z-]+$|devices", line)]
    assert {call for call in calls if not call.startswith("-s 8f3a2c1d ")} == {"devices -l"}
    assert {call.split()[2] for call in calls if call.startswith("-s ")} >= {"shell", "push", "wait-for-device"}
    assert "kill-server" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("serial", ["", "-s", "--help", "a  b", "a\tb", "a\n", " a", "a "])
def test_a_serial_number_is_never_an_option(serial):
    assert refused(UsageError, lambda: adb.Adb(serial)).startswith("no serial number of a device")


def test_a_path_on_the_device_has_to_be_absolute(tmp_path):
    assert "absolute path" in refused(UsageError, lambda: adb.Adb("1").push(tmp_path, "-x"))
    assert "absolute path" in refused(UsageError, lambda: adb.Adb("1").pull("x", tmp_path))


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Android Debug Bridge version 1.0.41\nVersion 29.0.6-debian\nInstalled as /usr/bin/adb\n", "29.0.6-debian"),
        ("Android Debug Bridge version 1.0.32\n", "1.0.32"),
    ],
)
def test_the_version_is_that_of_the_platform_tools(fake, said, version):
    assert adb.version(str(fake(out=said))) == version


def test_a_terminal_on_the_device_leaves_no_carriage_returns():
    assert adb._cut("one\r\ntwo\r\n\r\nTAG=0\r\n", "TAG") == ("one\ntwo\n", 0)
    assert adb._cut("one\r\ntwo\r\n\nTAG=7\n", "TAG") == ("one\r\ntwo\r\n", 7)
    assert adb._cut("one\nTAG=7\ntwo\n", "TAG") == ("one\nTAG=7\ntwo\n", None)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[AdbServer]:
    with serving(tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture(scope="module")
def daemon(request, tmp_path_factory, server) -> Iterator[Daemon]:
    mounts = getattr(request, "param", "mounted") == "mounted"
    with Phone(tmp_path_factory.mktemp("phone"), mounts=mounts) as phone, Daemon(phone) as daemon:
        server.connect(daemon)
        yield daemon
        server.adb("disconnect", daemon.serial)


@pytest.fixture
def phone(daemon) -> Iterator[Phone]:
    yield daemon.phone
    assert daemon.phone.leftovers() == []
    assert daemon.phone.running() == []


@pytest.fixture
def device(daemon, phone) -> adb.Adb:
    return adb.choose(daemon.serial)


both_ways = pytest.mark.parametrize("daemon", ["mounted", "rewritten"], indirect=True)


@pytest.mark.adb
class TestShell:
    def test_streams_and_exit_code_are_apart(self, device):
        assert device.shell("echo out; echo err >&2; exit 7") == adb.Answer(7, "out\n", "err\n")

    @pytest.mark.parametrize("code", [0, 1, 124, 126, 137, 255])
    def test_every_exit_code_comes_back(self, device, code):
        assert device.shell(["sh", "-c", f"exit {code}"]).code == code

    def test_a_signal_is_128_and_its_number(self, device):
        assert device.shell("kill -SEGV $$").code == 128 + signal.SIGSEGV

    @pytest.mark.parametrize("code", [124, 127])
    def test_exit_codes_are_not_those_of_the_devices_timeout(self, device, phone, code):
        """Toybox returns 124 for a program that crashed (to 0.8.8), or 127 where a child ends early (0.8.9)."""
        phone.tool("timeout", f'shift 3; "$@"; exit {code}')
        assert device.shell("kill -ABRT $$").code == 128 + signal.SIGABRT
        (phone.root / "system/bin/timeout").unlink()

    @pytest.mark.parametrize("script", ["'", "(", "if", "exit 3; }", "false; exit", "# nothing", ""])
    def test_odd_scripts_end_all_the_same(self, device, script):
        assert isinstance(device.shell(script).code, int)

    @pytest.mark.parametrize("script", ["-x", "--help", ["-c", "true"]])
    def test_a_script_is_no_option_of_the_shell(self, device, script):
        command_not_found = 127
        assert device.shell(script).code == command_not_found

    @pytest.mark.parametrize("text", ["", "no newline", "\n\n\n", "a\r\nb\r", "\0\1", "Ünï 模型 🦜\n", "x" * 300_000])
    def test_output_is_kept_to_the_byte(self, device, tmp_path, text):
        (tmp_path / "file").write_bytes(text.encode())
        with device.folder() as folder:
            device.push(tmp_path / "file", f"{folder}/file")
            assert device.shell(f"cat {folder}/file; cat {folder}/file >&2") == adb.Answer(0, text, text)

    def test_output_that_is_no_utf8_survives(self, device):
        data = device.read("printf '\\377\\376\\200'").encode("utf-8", "surrogateescape")
        assert data == b"\xff\xfe\x80"

    def test_hostile_arguments_arrive_as_they_are(self, device, phone):
        out = device.read(["printf", "%s\\0", *HOSTILE])
        assert out.split("\0")[:-1] == HOSTILE
        assert not list(phone.root.rglob("pwned"))

    def test_nothing_is_read_from_our_standard_input(self, device):
        assert device.shell("cat") == adb.Answer(0, "", "")

    def test_reading_needs_success(self, device):
        line = refused(Failed, lambda: device.read(["cat", "/data/no such file"]))
        assert line.startswith("\"cat '/data/no such file'\" failed on ")
        assert line.endswith("No such file or directory")
        assert refused(Failed, lambda: device.read("exit 5")).endswith("; exit code 5")

    def test_after_the_limit_nothing_goes_on_running(self, device, phone):
        script = "sleep 600 & (setsid sleep 601 &) ; trap '' TERM INT HUP; sleep 602"
        line = refused(adb._Late, lambda: device.shell(script, 0.5))
        assert line == f"no answer from {device.serial} within 0.5 s; {script!r}"
        assert phone.running() == []

    def test_what_is_left_is_found_whatever_its_first_variable_is(self, device, phone):
        """`grep -F` of toybox 0.7.6 to 0.8.8 reads a file as far as its first NUL."""
        phone.tool("grep", OLD_GREP.format(grep=shutil.which("grep")))
        script = f"env -i FIRST=1 {adb.JOB}=${adb.JOB} sleep 600"
        assert refused(adb._Late, lambda: device.shell(script, 0.5)).startswith("no answer from")
        assert phone.running() == []
        phone.path("/system/bin/grep").unlink()

    def test_what_cannot_be_ended_is_an_error_until_it_is_gone(self, device, phone):
        device._left.add("left")
        phone.tool("grep", "echo /proc/99999999/environ")
        expected = (
            f"can't end what was left running on {device.serial}; goes on running: /proc/99999999/environ; "
            "restart the phone"
        )
        assert refused(Failed, lambda: device.read("true")) == expected
        assert refused(Failed, lambda: device.read("true")) == expected
        phone.path("/system/bin/grep").unlink()
        assert device.read("echo gone") == "gone\n"

    def test_the_device_ends_it_itself_where_we_cannot(self, device, phone):
        mark = adb._name()
        script = adb._bounded("(setsid sleep 600 &); sleep 601", mark, 0.0)
        start = time.monotonic()
        process = phone.spawn(script, apart=True)
        process.communicate(timeout=20)
        assert 1 <= time.monotonic() - start < 20
        assert phone.running() == []

    def test_a_device_without_timeout_is_limited_from_here(self, device, phone):
        script = adb._bounded("sleep 600", "TAG", 0.0).replace("command -v timeout", "command -v nothing")
        process = phone.spawn(script, apart=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.2)
        assert phone.spawn(adb._stop(["TAG"]), apart=True).wait(10) == 0
        assert process.wait(10) == 0

    def test_keyboard_interrupt_leaves_nothing_after_the_folder(self, device, phone, monkeypatch):
        def interrupted(*arguments: object, **keywords: object) -> None:
            with subprocess.Popen(arguments[0], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
                client.stdout.readline()
                client.kill()
            monkeypatch.undo()
            raise KeyboardInterrupt

        def session() -> None:
            with device.folder():
                monkeypatch.setattr(subprocess, "run", interrupted)
                device.shell("echo; sleep 600")

        with pytest.raises(KeyboardInterrupt):
            session()


@pytest.mark.adb
class TestFiles:
    @pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
    def test_a_file_goes_there_and_back(self, device, tmp_path, size):
        data = (bytes(range(251)) * (size // 251 + 1))[:size]
        (tmp_path / "file").write_bytes(data)
        with device.folder() as folder:
            device.push(tmp_path / "file", f"{folder}/file")
            device.pull(f"{folder}/file", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data

    def test_hostile_names(self, device, phone, tmp_path):
        with device.folder() as folder:
            for name in HOSTILE:
                (tmp_path / name).write_text(name)
                device.push(tmp_path / name, f"{folder}/{name}")
            assert sorted(file.name for file in phone.path(folder).iterdir()) == sorted(HOSTILE)
            for name in HOSTILE:
                device.pull(f"{folder}/{name}", tmp_path / "back")
                assert (tmp_path / "back").read_text() == name
        assert not list(phone.root.rglob("pwned"))

    def test_md5_serves_where_sha256_is_missing(self, device, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("text")
        shell = device._shell
        monkeypatch.setattr(device, "_shell", lambda script, s: shell(script.replace("-v sha256sum", "-v nothing"), s))
        with device.folder() as folder:
            device.push(tmp_path / "file", f"{folder}/file")
            assert device._digest(f"{folder}/file", 10.0, "").algorithm == "md5"

    def test_what_is_missing_is_named(self, device, tmp_path):
        line = refused(Failed, lambda: device.pull("/data/local/tmp/none", tmp_path / "back"))
        assert line.startswith(f"can't copy '/data/local/tmp/none' from {device.serial}; ")
        assert "No such file" in line
        line = refused(Failed, lambda: device.push(tmp_path / "none", "/data/local/tmp/none"))
        assert line.startswith(f"can't copy '{tmp_path}/none' to '/data/local/tmp/none' on {device.serial}; ")
        assert list(tmp_path.iterdir()) == []

    def test_a_target_that_cannot_be_written_is_refused_at_once(self, device, tmp_path):
        (tmp_path / "file").write_text("text")
        with device.folder() as folder:
            device.read(["mkdir", "-p", f"{folder}/there/file"])
            line = refused(Failed, lambda: device.push(tmp_path / "file", f"{folder}/there"))
            assert line.endswith("Is a directory")
        line = refused(Failed, lambda: device.pull("/system/properties", tmp_path / "no folder" / "file"))
        assert "No such file or directory" in line


@pytest.mark.adb
@both_ways
class TestFolder:
    def test_it_is_there_and_gone_afterwards(self, device, phone):
        with device.folder() as folder, device.folder() as other:
            assert [f"/data/local/tmp/{name}" for name in phone.leftovers()] == sorted([folder, other])
            device.read(f"mkdir {folder}/deep; echo >{folder}/deep/file")
            assert adb.FOLDER.fullmatch(folder.removeprefix("/data/local/tmp/"))
        assert phone.leftovers() == []

    def test_it_is_gone_after_an_error(self, device, phone):
        with pytest.raises(ZeroDivisionError), device.folder():
            raise ZeroDivisionError
        assert phone.leftovers() == []

    def test_folders_of_dead_processes_of_this_host_are_swept_with_their_programs(self, device, phone):
        dead = subprocess.Popen(["true"])
        dead.wait()
        alive, host, random = os.getppid(), adb._host(), "0123abcd"
        stale = [f"bench-{host}-{dead.pid}-{random}", f"bench-{host}-{os.getpid()}-{random}"]
        kept = [
            f"bench-{host}-{alive}-{random}",
            f"bench-00000000-{dead.pid}-{random}",
            f"bench-{host}-{dead.pid}",
            f"{host}-{dead.pid}-{random}",
            "other",
        ]
        for name in (*stale, *kept):
            (phone.path("/data/local/tmp") / name / "sub").mkdir(parents=True)
        running = phone.spawn(f"{adb.JOB}={stale[0][:-8]}99999999 sleep 600", apart=False)
        with device.folder() as folder:
            assert phone.leftovers() == sorted([*kept, folder.rpartition("/")[2]])
        assert running.wait(10) in (-signal.SIGKILL, 128 + signal.SIGKILL)
        for name in kept:
            device.read(["rm", "-r", f"/data/local/tmp/{name}"])

    def test_a_killed_process_leaves_what_the_next_one_sweeps(self, device, phone):
        script = (
            "import sys, os, signal; from bench import adb\n"
            "device = adb.Adb(sys.argv[1])\n"
            "with device.folder() as folder:\n"
            "    device.read(f'echo >{folder}/file')\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        killed = subprocess.run([sys.executable, "-c", script, device.serial], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(phone.leftovers()) == 1
        with device.folder() as folder:
            assert phone.leftovers() == [folder.rpartition("/")[2]]


@pytest.mark.adb
@both_ways
class TestPhone:
    """The served phone says what a real one would, so that others may rely on it."""

    def test_it_poses_as_a_snapdragon_855(self, device):
        assert device.read(["getprop", "ro.soc.model"]) == "SM8150\n"
        assert device.read(["getprop", "ro.board.platform"]) == "msmnile\n"
        assert "[ro.product.cpu.abilist]: [arm64-v8a,armeabi-v7a,armeabi]\n" in device.read(["getprop"])
        assert device.read(["getprop", "no.such", "default"]) == "default\n"
        [found] = [listed for listed in adb.devices() if listed.serial == device.serial]
        assert found.model == "Loopback_855"

    def test_its_cores_are_those_of_one(self, device, phone):
        cpus = "/sys/devices/system/cpu"
        fastest = device.read(f"for cpu in 0 4 7; do cat {cpus}/cpu$cpu/cpufreq/cpuinfo_max_freq; done")
        assert fastest.split() == ["1785600", "2419200", "2841600"]
        phone.offline(5, 7)
        assert device.read(["cat", f"{cpus}/online"]) == "0-4,6\n"
        assert device.shell(["cat", f"{cpus}/cpu7/cpufreq/scaling_cur_freq"]).code == 1
        phone.recover()
        assert device.read(["cat", f"{cpus}/cpu7/online", f"{cpus}/online"]) == "1\n0-7\n"

    def test_its_temperature_is_what_a_test_says(self, device, phone):
        phone.overheat()
        assert "Thermal Status: 3\n" in device.read(["dumpsys", "thermalservice"])
        assert "mValue=95.0, mType=0, mName=cpu-1-3-usr" in device.read(["dumpsys", "thermalservice"])
        assert device.read(["cat", "/sys/class/thermal/thermal_zone1/temp"]) == "95000\n"
        assert device.read(["cat", "/sys/devices/system/cpu/cpu7/cpufreq/scaling_max_freq"]) == "1400000\n"
        phone.recover()
        assert "Thermal Status: 0\n" in device.read(["dumpsys", "thermalservice"])
        phone.set_battery(level=41, charging=False)
        assert "level: 41\n" in device.read(["dumpsys", "battery"])

    def test_a_session_whose_number_was_given_out_again_is_not_its_own(self, phone):
        with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:
            phone._leaders[other.pid] = "1"
            assert phone.running() == []
            del phone._leaders[other.pid]
            other.kill()

    def test_its_settings_are_kept_and_its_tools_noted(self, device, phone):
        assert device.read(["settings", "get", "global", "low_power"]) == "null\n"
        device.read("settings put global low_power 1; svc power stayon false; input keyevent 223")
        assert device.read(["settings", "get", "global", "low_power"]) == "1\n"
        assert phone.calls()[-3:-1] == ["svc power stayon false", "input keyevent 223"]


@pytest.mark.parametrize(("ci", "kind"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_adb_tests_fail_in_ci_alone(tmp_path, monkeypatch, ci, kind):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(kind, match="no adb on PATH"):
        AdbServer(tmp_path)


def test_names_of_folders_are_this_hosts_and_never_the_same():
    names = {adb._name() for _ in range(100)}
    assert len(names) == 100
    assert all(adb._is_ours(name) for name in names)
