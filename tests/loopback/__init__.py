"""For tests: a phone that the real `adb` client talks to, served from a folder over the loopback interface.

    with Phone(folder) as phone, Daemon(phone) as daemon, AdbServer(folder) as server:
        serial = server.connect(daemon)

It speaks the transport protocol, the shell service and the sync service of adbd well enough for `adb devices, connect,
shell, push, pull, reconnect`. `python -m loopback --help`, from tests/, serves one by hand.
"""

from loopback.daemon import Daemon
from loopback.faults import Fault
from loopback.phone import Phone
from loopback.server import AdbServer, serving

__all__ = ["AdbServer", "Daemon", "Fault", "Phone", "serving"]
