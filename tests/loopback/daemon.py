"""The daemon of a phone: it accepts adb servers, opens services, and lets armed faults strike."""

import contextlib
import socket
import threading
from collections.abc import Mapping

from loopback.faults import GREETINGS, STATES, Fault, Faults
from loopback.phone import Phone
from loopback.shell import Shell
from loopback.sync import Sync
from loopback.wire import Connection, Dropped, Greeting, Stream

FEATURES = ("shell_v2", "cmd", "stat_v2", "ls_v2", "fixed_push_mkdir", "fixed_push_symlink_timestamp")
GONE = "gone"


class Daemon:
    """Serves `phone` on 127.0.0.1; `serial` is what `adb connect` takes."""

    def __init__(self, phone: Phone, port: int = 0) -> None:
        self.phone = phone
        self._faults = Faults()
        self._manner = ""  # one of GREETINGS, or GONE
        self._connections: list[Connection] = []
        self._lifted = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        # A thread that waits in accept() keeps the port until it is woken.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._lifted.set()
        self.drop()

    def arm(self, fault: Fault) -> None:
        if fault.is_immediate:
            self._begin(fault)
        else:
            self._faults.arm(fault)

    def lift(self) -> None:
        """Of all faults. Who was refused or ignored until now has to connect anew."""
        self._faults.lift()
        self._lifted.set()
        self._lifted = threading.Event()
        self.phone.recover()
        self.phone.set_read_only(False)
        if self._manner:
            self._manner = ""
            self.drop()

    def drop(self) -> None:
        """All connections."""
        for connection in self._connections:
            connection.drop()
        self._connections.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                if self._manner == GONE:
                    sock.close()
                    continue
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(sock, self._greeting(), self._serve)
                self._connections.append(connection)
                connection.start()

    def _greeting(self) -> Greeting:
        features = FEATURES[1:] if self._manner == "no-shell-v2" else FEATURES
        names = ("ro.product.name", "ro.product.model", "ro.product.device")
        shown = "".join(f"{name}={self.phone.properties[name]};" for name in names)
        return Greeting(
            banner=f"device::{shown}features={','.join(features)}",
            authorized=self._manner != "unauthorized",
            silent=self._manner == "offline",
        )

    def _begin(self, fault: Fault) -> None:
        if fault.kind in GREETINGS:
            self._manner = fault.kind
            self.drop()
        elif fault.kind == "read-only":
            self.phone.set_read_only(True)
        elif fault.kind == "overheat":
            self.phone.overheat()
        elif fault.kind == "cores-offline":
            self.phone.offline(5, 7)

    def _strike(self, number: int, step: str) -> Mapping[str, Fault]:
        """The faults of a service or transfer; those of the whole phone begin here."""
        struck = self._faults.strike(number, step)
        for fault in struck.values():
            if fault.kind in (*GREETINGS, *STATES):
                self._begin(fault)
            elif fault.kind == "slow":
                self._lifted.wait(fault.seconds)
            elif fault.kind == "drop" and not fault.times:
                self._manner = GONE
        if any(kind in GREETINGS for kind in struck):
            raise Dropped
        return struck

    def _serve(self, stream: Stream, name: str) -> None:
        number = self._faults.opened()
        kind, _, argument = name.partition(":")
        words = kind.split(",")
        if words[0] not in ("shell", "exec", "sync"):
            raise KeyError(name)
        stream.accept()
        if words[0] == "sync":
            Sync(stream, self.phone, lambda step: self._strike(number, step)).serve()
        else:
            self._run(stream, argument, "v2" in words, number)

    def _run(self, stream: Stream, command: str, v2: bool, number: int) -> None:
        struck = self._strike(number, f"shell {command}")
        if "hang" in struck:
            stream.wait_until_closed()
        else:
            Shell(stream, self.phone.spawn(command, apart=v2), v2, struck).serve()
