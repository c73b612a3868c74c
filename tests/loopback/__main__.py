"""Serves a phone until it is stopped, and prints its serial number."""

import argparse
import contextlib
import threading
from pathlib import Path

from loopback import Daemon, Phone
from loopback.faults import parse


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loopback", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the phone's files; made if missing")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--prop", action="append", default=[], metavar="NAME=VALUE", help="a property of the phone")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        type=parse,
        metavar="KIND[,FIELD=VALUE]…",
        help="such as drop,command=^push,after_bytes=1000,times=1; kinds and fields: faults.py",
    )
    given = parser.parse_args()
    props = dict(text.split("=", 1) for text in given.prop)
    with Phone(given.root, props) as phone, Daemon(phone, given.port) as daemon:
        for fault in given.fault:
            daemon.arm(fault)
        print(daemon.serial, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
