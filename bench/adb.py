"""Phones, through the system's own `adb` client: argument lists, the device named in each call, a limit on each.

The client's word proves nothing: adb 29 returns 0 and part of the output when the connection is lost, and leaves a
command running on the device when it is killed itself. So each command ends with a mark on both of its streams and
carries one in its environment, and each file that was copied is hashed on the device.
"""

import contextlib
import hashlib
import math
import os
import platform
import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.errors import BenchError, Failed, Unavailable, UsageError

#: where the user of `adb shell` may write and execute
PARENT = "/data/local/tmp"
#: the variable by which a command and its children are known on the device
JOB = "BENCH_JOB"
#: the most that tidying up after a failure may add to a call, in seconds
TIDY_S = 5.0
#: between looks at whether what was killed is gone
STOP_PAUSE_S = 0.05
FOLDER = re.compile(r"bench-(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]{1,7})-[0-9a-f]{8}")
# What the device's side of a transfer complains of; with anything else the connection is to blame.
REFUSED = re.compile(
    r"remote couldn't create file|remote write failed|No space left|Read-only file system|Permission denied"
    r"|Is a directory|is not a directory|cannot stat|failed to stat remote object|does not exist|cannot create"
)
# A serial may hold a blank, as of a second wireless entry of a phone, and the reason for "no permissions" any text.
LISTED = re.compile(
    r"(\S.*?)\s+(device|offline|unauthorized|authorizing|connecting|recovery|sideload|bootloader|rescue|host|detached"
    r"|unknown|no device|no permissions.*?)((?:\s+\w+:\S*)*)\s*"
)
ADB_TO_INSTALL = "install it, as with: apt-get install adb"
LISTING = "see: adb devices -l"
T = TypeVar("T")


class Answer(NamedTuple):
    """What a command on the device came to.

    Bytes that are no UTF-8 are kept as `surrogateescape` does. A device without shell_v2 (before Android 7) has both
    streams in `out`.
    """

    code: int
    out: str
    err: str


class Listed(NamedTuple):
    """A line of `adb devices -l`; `model` is "" where adb doesn't know it."""

    serial: str
    state: str
    model: str


class Lost(Failed):
    """The connection to the device was lost."""


class _Late(Failed):
    """A client had to be killed, as it didn't end within its limit."""


class Adb:
    """One device. Not to be shared by threads."""

    #: how long to wait for a lost connection before an operation is tried again
    reconnect_s = 12.0

    def __init__(self, serial: str, program: str = "adb") -> None:
        if not re.fullmatch(r"[^\s-]\S*( \S+)*", serial):
            raise UsageError("no serial number of a device", repr(serial), LISTING)
        self.serial = serial
        self.program = program
        self._left: set[str] = set()  # marks of commands that may go on running on the device

    def shell(self, command: Sequence[str] | str, timeout_s: float = 30.0, *, retry: bool = False) -> Answer:
        """Runs a program with its arguments, or a script of the device's shell.

        With `retry` it is run once more where the connection was lost. Afterwards nothing of it goes on running: not
        after the limit, and, once the device is back, not after a loss either. Raises Lost, Unavailable, and Failed
        after `timeout_s`, to which tidying up adds at most two times the lesser of it and `TIDY_S`.
        """
        script = _script(command)
        if retry:
            return self._again(lambda: self._shell(script, timeout_s))
        return self._shell(script, timeout_s)

    def read(self, command: Sequence[str] | str, timeout_s: float = 30.0) -> str:
        """What a command writes that must succeed, and that may be run twice."""
        return self._again(lambda: self._read(command, timeout_s, f"{_shown(command)} failed on {self.serial}"))

    def push(self, file: Path, to: str, timeout_s: float = 300.0) -> None:
        """Copies `file` to the absolute path `to` of a file; `to` is gone again after a failure."""
        _check_absolute(to)
        try:
            self._again(lambda: self._push(file, to, timeout_s))
        except BaseException:
            with contextlib.suppress(BenchError):
                self._shell(shlex.join(["rm", "-f", to]), min(timeout_s, TIDY_S))
            raise

    def pull(self, path: str, file: Path, timeout_s: float = 300.0) -> None:
        """Copies the file at the absolute `path` to `file`, which is written only once it is whole."""
        _check_absolute(path)
        partial = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
        try:
            self._again(lambda: self._pull(path, partial, timeout_s))
            partial.replace(file)
        except OSError as error:
            raise Failed(f"can't write {str(file)!r}", error.strerror or "") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def folder(self, timeout_s: float = 30.0) -> AbstractContextManager[str]:
        """A folder of our own on the device, with a limit for each call that makes or removes it.

        Folders that processes of this host left behind are removed first. Where the device can't be reached at the
        end, this one is left to the next call.
        """
        return self._folder(timeout_s)

    def reconnect(self, limit_s: float = reconnect_s) -> None:
        """Gets a lost device to answer again, and ends there what was left running.

        Raises Lost where it doesn't answer within about `limit_s`, and Unavailable where something must be done first.
        """
        here = ("-s", self.serial)
        attempts: list[list[tuple[str, ...]]] = [[], [(*here, "reconnect")]]
        if re.fullmatch(r"\S+:[0-9]+", self.serial):
            connect = ("connect", self.serial)
            # Twice, as it does nothing where the server is about to give the old connection up.
            attempts += [[("disconnect", self.serial), connect], [connect]]
        share_s = limit_s / len(attempts)
        for calls in attempts:
            if self._answers(calls, time.monotonic() + share_s):
                return self._stop_left(limit_s)
        raise self._absent()

    def _call(self, *arguments: str, timeout_s: float) -> "subprocess.CompletedProcess[bytes]":
        return _run(self.program, "-s", self.serial, *arguments, timeout_s=timeout_s)

    def _again(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except Lost:
            self.reconnect(self.reconnect_s)
            return operation()

    def _shell(self, script: str, timeout_s: float) -> Answer:
        self._stop_left(timeout_s)
        mark = _name()
        try:
            return self._marked(script, mark, timeout_s)
        except _Late as error:
            self._left.add(mark)
            with contextlib.suppress(BenchError):
                self._stop_left(timeout_s)
            raise _Late(str(error), _shown(script)) from error
        except BaseException:
            self._left.add(mark)
            raise

    def _marked(self, script: str, mark: str, timeout_s: float) -> Answer:
        """Raises Lost where a stream lacks its mark: the rest of it is lacking, too."""
        done = self._call("shell", _bounded(script, mark, timeout_s), timeout_s=timeout_s)
        out, code = _cut(_text(done.stdout), mark)
        err, ended = _cut(_text(done.stderr), mark)
        if ended is None:  # without shell_v2 there is one stream
            out, ended = _cut(out, mark)
        if done.returncode or code is None or ended is None:
            raise self._trouble(done)
        return Answer(code, out, err)

    def _stop_left(self, timeout_s: float) -> None:
        """Nothing that was left behind may disturb what comes next, so failing to end it is an error."""
        if not self._left:
            return
        answer = self._marked(_stop(self._left), _name(), min(timeout_s, TIDY_S))
        if answer.code:
            said = _last_line(answer.err or answer.out)
            raise Failed(f"can't end what was left running on {self.serial}", said, "restart the phone")
        self._left.clear()

    def _read(self, command: Sequence[str] | str, timeout_s: float, failure: str) -> str:
        answer = self._shell(_script(command), timeout_s)
        if answer.code:
            raise Failed(failure, _last_line(answer.err or answer.out) or f"exit code {answer.code}")
        return answer.out

    def _push(self, file: Path, to: str, timeout_s: float) -> None:
        failure = f"can't copy {str(file)!r} to {to!r} on {self.serial}"
        self._check_copied(self._call("push", str(file.absolute()), to, timeout_s=timeout_s), failure)
        self._check_same(self._digest(to, timeout_s, failure), file, failure)

    def _pull(self, path: str, file: Path, timeout_s: float) -> None:
        failure = f"can't copy {path!r} from {self.serial}"
        expected = self._digest(path, timeout_s, failure)
        self._check_copied(self._call("pull", path, str(file.absolute()), timeout_s=timeout_s), failure)
        self._check_same(expected, file, failure)

    def _check_copied(self, done: "subprocess.CompletedProcess[bytes]", failure: str) -> None:
        said = _error_line(_text(done.stdout + done.stderr))
        if done.returncode and REFUSED.search(said):
            room = f"make room below {PARENT}" if "No space left" in said else ""
            raise Failed(failure, said.rpartition("': ")[2], room)
        if done.returncode:
            raise self._trouble(done)

    def _check_same(self, found: "_Digest", file: Path, failure: str) -> None:
        expected = _digest(file, found.algorithm)
        if found != expected:
            raise Failed(
                failure,
                f"the copy is damaged: {found.size} bytes with {found.algorithm} {found.value[:12]} on the device, "
                f"{expected.size} with {expected.value[:12]} here",
                "try another cable or port",
            )

    def _digest(self, path: str, timeout_s: float, failure: str) -> "_Digest":
        """Of a file on the device; by redirection, as these tools escape odd names in what they print."""
        file = shlex.quote(path)
        hashed = f"if command -v sha256sum >/dev/null; then sha256sum <{file}; else md5sum <{file}; fi"
        words = self._read(f"wc -c <{file} && {hashed}", timeout_s, failure).split()
        if len(words) < 2 or not words[0].isdigit():
            raise Failed(failure, f"{self.serial} says {' '.join(words)!r} for its size and hash")
        return _Digest(int(words[0]), "sha256" if len(words[1]) == 64 else "md5", words[1])

    @contextmanager
    def _folder(self, timeout_s: float) -> Iterator[str]:
        self._sweep(timeout_s)
        name = _name()
        path = f"{PARENT}/{name}"
        _in_use.add(name)
        try:
            # With -p, as it may be done twice.
            command = ["mkdir", "-p", path]
            self._again(lambda: self._read(command, timeout_s, f"can't make a folder on {self.serial}"))
            yield path
        finally:
            _in_use.discard(name)
            with contextlib.suppress(BenchError):
                self.read(["rm", "-rf", path], timeout_s)

    def _sweep(self, timeout_s: float) -> None:
        stale = [name for name in self.read(["ls", PARENT], timeout_s).splitlines() if _is_stale(name)]
        if stale:
            owners = {name.rpartition("-")[0] + "-" for name in stale if not _is_ours(name)}
            remove = shlex.join(["rm", "-rf", *(f"{PARENT}/{name}" for name in stale)])
            script = f"{_stop(owners)} && {remove}" if owners else remove
            failure = f"can't tidy up what an earlier run left on {self.serial}"
            self._again(lambda: self._read(script, timeout_s, failure))

    def _answers(self, calls: list[tuple[str, ...]], end: float) -> bool:
        """Whether the device answers by then, in seconds of `time.monotonic`, after these calls to adb."""
        try:
            for call in [*calls, ("-s", self.serial, "wait-for-device")]:
                _run(self.program, *call, timeout_s=max(0.1, end - time.monotonic()))
            self._marked(":", _name(), max(0.1, end - time.monotonic()))
        except Failed:
            return False
        return True

    def _absent(self) -> BenchError:
        found = [listed for listed in devices(self.program, TIDY_S) if listed.serial == self.serial]
        if found and found[0].state not in ("device", "offline"):
            return unready(found[0])
        state = f"adb lists it as {found[0].state}" if found else "adb lists it no longer"
        return Lost(f"lost the connection to {self.serial}", state, "check its cable or network and run this again")

    def _trouble(self, done: "subprocess.CompletedProcess[bytes]") -> BenchError:
        """What kept the client from its work; with exit code 0 its streams hold nothing but the command's own words."""
        said = _error_line(_text(done.stderr + b"\n" + done.stdout)) if done.returncode else ""
        for word, state in (("unauthorized", "unauthorized"), ("insufficient permissions", "no permissions")):
            if word in said:
                return unready(Listed(self.serial, state, ""))
        if "cannot connect to daemon" in said:
            return _no_server(said)
        return Lost(f"lost the connection to {self.serial}", said or "its answer broke off")


def program() -> str:
    """The path of adb; raises Unavailable where there is none."""
    if found := shutil.which("adb"):
        return found
    raise Unavailable("no adb to talk to the phone with", "it is not on PATH", ADB_TO_INSTALL)


def version(program: str, timeout_s: float = 20.0) -> str:
    """Of the platform tools, such as "29.0.6-debian"."""
    said = _text(_run(program, "version", timeout_s=timeout_s).stdout)
    found = re.search(r"^Version (\S+)", said, re.MULTILINE) or re.search(r"version (\S+)", said)
    if not found:
        raise Failed(f"{program} doesn't say its version", _last_line(said))
    return found[1]


def devices(program: str = "adb", timeout_s: float = 20.0) -> list[Listed]:
    """All that adb knows of, ready or not; starts adb's server if none runs."""
    done = _run(program, "devices", "-l", timeout_s=timeout_s)
    _, head, lines = _text(done.stdout).partition("List of devices attached")
    if done.returncode or not head:
        raise _no_server(_error_line(_text(done.stderr + done.stdout)))
    return [_listed(line) for line in lines.splitlines() if line.strip()]


def choose(serial: str = "", timeout_s: float = 20.0) -> Adb:
    """The device of that serial number, or else of ANDROID_SERIAL, or else the only one.

    Raises UsageError where none of several was named, and Unavailable where it isn't there or not ready.
    """
    adb = program()
    wanted = serial or os.environ.get("ANDROID_SERIAL", "")
    known = devices(adb, timeout_s)
    found = [listed for listed in known if wanted in ("", listed.serial)]
    if not known:
        raise Unavailable(
            "no phone", "adb lists none", "connect one with USB debugging on, or over a network with: adb connect"
        )
    there = ", ".join(f"{listed.serial} ({listed.model or listed.state})" for listed in known)
    if not found:
        raise Unavailable(f"no phone {wanted!r}", f"there is {there}", "choose with: --serial SERIAL")
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} phones and none chosen",
            f"there is {there}",
            "choose with: --serial SERIAL or ANDROID_SERIAL",
        )
    if found[0].state != "device":
        raise unready(found[0])
    return Adb(found[0].serial, adb)


def unready(listed: Listed) -> Unavailable:
    """Why a device in another state than `device` can't be used, and what helps."""
    serial, state, _ = listed
    if state == "unauthorized":
        return Unavailable(
            f"phone {serial} is unauthorized", "it hasn't accepted this computer's key", "unlock it and allow debugging"
        )
    if state in ("authorizing", "connecting"):
        return Unavailable(f"phone {serial} is {state}", "", "unlock it and run this again in a few seconds")
    if state == "offline":
        again = f"adb disconnect {serial} && adb connect {serial}" if ":" in serial else f"adb -s {serial} reconnect"
        return Unavailable(f"phone {serial} is offline", "", f"connect it again, as with: {again}")
    if state.startswith("no permissions"):
        return Unavailable(
            f"no permissions for the USB device of phone {serial}",
            "",
            "add its udev rule, as with: apt-get install android-sdk-platform-tools-common; then plug it in again",
        )
    return Unavailable(f"phone {serial} is in state {state!r}", "Android doesn't run on it", "start it up normally")


class _Digest(NamedTuple):
    size: int
    algorithm: str
    value: str


#: names of the folders that this process is using, on whatever device
_in_use: set[str] = set()


def _run(program: str, *arguments: str, timeout_s: float) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except (FileNotFoundError, PermissionError) as error:
        raise Unavailable(f"can't run {program}", error.strerror or "", ADB_TO_INSTALL) from error
    except subprocess.TimeoutExpired as error:
        asked = arguments[1] if arguments[0] == "-s" else f"adb {arguments[0]}"
        raise _Late(f"no answer from {asked} within {timeout_s:g} s") from error


def _no_server(said: str) -> Unavailable:
    return Unavailable("adb can't reach its server", said, "try: adb start-server")


def _script(command: Sequence[str] | str) -> str:
    return command if isinstance(command, str) else shlex.join(command)


def _bounded(script: str, mark: str, timeout_s: float) -> str:
    """The script with a mark in its environment, a limit of its own, and at the end of both streams its exit code.

    The limit comes after ours and matters only where the device can't be reached by then. Versions of `timeout` differ:
    some end their child alone, so the others are ended here, and some return 124 for a program that crashed, or now and
    then 127 for one that did not, so the exit code is written below it. The blank keeps a script from being an option.
    """
    limit = f"timeout -s KILL {math.ceil(timeout_s) + 1}"
    end = f'echo; echo "{mark}=$r"'
    run = f'sh -c "$1"; r=$?; {{ {end}; }} >&2; {end}'
    return (
        f"t='{limit}'; command -v timeout >/dev/null || t=; "
        f"{JOB}={mark} $t sh -c {shlex.quote(run)} sh {shlex.quote(' ' + script)} || {{ {_stop([mark])}; }}; exit 0"
    )


def _stop(marks: Iterable[str]) -> str:
    """A script that kills what has one of these marks in its environment, and fails where something is left.

    More than once, as it may be forking, and as the killed take a moment to be gone. Without `grep -F`, which in toybox
    0.7.6 to 0.8.8 sees the first variable alone; marks hold no special characters.
    """
    wanted = " ".join(f"-e {JOB}={mark}" for mark in sorted(marks))
    return (
        "( for again in 1 2 3 4 5 6 7 8 9; do "
        f'files=$(grep -l {wanted} /proc/[0-9]*/environ 2>/dev/null); [ -n "$files" ] || exit 0; '
        "for file in $files; do file=${file%/environ}; kill -KILL ${file##*/} 2>/dev/null; done; "
        f"sleep {STOP_PAUSE_S} 2>/dev/null; done; echo goes on running: $files >&2; exit 1 )"
    )


def _cut(text: str, mark: str) -> tuple[str, int | None]:
    """The text without the mark at its end, and the exit code there; None if the end is lacking.

    Devices without shell_v2 write through a terminal, which ends lines with CR LF.
    """
    found = re.search(rf"\n{mark}=([0-9]+)(\r?)\n\Z", text)
    if not found:
        return text, None
    rest = text[: found.start()]
    return rest.removesuffix("\r").replace("\r\n", "\n") if found[2] else rest, int(found[1])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _shown(command: Sequence[str] | str) -> str:
    """A command for a message: on one line and not too long."""
    line = repr(_script(command))
    return line if len(line) <= 80 else f"{line[:76]}…{line[-1]}"


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line.strip())


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return _printable(lines[-1]) if lines else ""


def _error_line(text: str) -> str:
    """What adb says was wrong; hints may follow it, and transfers report on other lines."""
    lines = [line for line in text.splitlines() if "error:" in line or "cannot connect to daemon" in line]
    line = _printable(lines[0]) if lines else _last_line(text)
    return re.sub(r"^(adb: )?(error: )?", "", line)


def _listed(line: str) -> Listed:
    found = LISTED.fullmatch(line)
    if not found:
        raise Failed("adb lists a device that bench can't read", _printable(line), LISTING)
    model = re.search(r"\smodel:(\S+)", found[3])
    return Listed(found[1], found[2], model[1] if model else "")


def _check_absolute(path: str) -> None:
    if not path.startswith("/"):
        raise UsageError(f"{path!r} is no absolute path of a file on the device")


def _digest(file: Path, algorithm: str) -> _Digest:
    hashed, size = hashlib.new(algorithm, usedforsecurity=False), 0
    try:
        with file.open("rb") as stream:
            while part := stream.read(1 << 20):
                hashed.update(part)
                size += len(part)
    except OSError as error:
        raise Failed(f"can't read {str(file)!r}", error.strerror or "") from error
    return _Digest(size, algorithm, hashed.hexdigest())


def _host() -> str:
    """Tells hosts apart; a process id means something only within one of them, and within its container."""
    try:
        container = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        container = ""
    return hashlib.sha256(f"{platform.node()} {container}".encode()).hexdigest()[:8]


def _name() -> str:
    """A new name, for a folder or a command, that tells whose it is."""
    return f"bench-{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


def _is_ours(name: str) -> bool:
    found = FOLDER.fullmatch(name)
    return found is not None and found["host"] == _host() and int(found["pid"]) == os.getpid()


def _is_stale(name: str) -> bool:
    """Whether a folder of this host is used by nobody any more. A number that was given out again passes for alive."""
    found = FOLDER.fullmatch(name)
    if found is None or found["host"] != _host():
        return False
    return name not in _in_use if _is_ours(name) else not _is_alive(int(found["pid"]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
