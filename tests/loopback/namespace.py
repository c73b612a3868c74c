"""Commands of a phone run on this machine, with the phone's files where its paths say they are.

Root gets a mount namespace in which the phone's top folders stand in place of the machine's; nothing of it is seen
outside. Where that can't be had, paths are rewritten in the text of a command.
"""

import contextlib
import os
import re
import subprocess
from pathlib import Path
from typing import Protocol

# Into an empty tree: the phone's own top folders, and the machine's for what it lacks. It lives until stdin is closed.
HOLDER = """
set -e
tree=$1 root=$2
mount -t tmpfs none "$tree"
for entry in /*; do
    name=${entry#/}
    if [ -e "$root/$name" ]; then continue
    elif [ -L "$entry" ]; then cp -P "$entry" "$tree/$name"
    elif [ -d "$entry" ]; then mkdir "$tree/$name"; mount --rbind "$entry" "$tree/$name"
    fi
done
for entry in "$root"/*; do
    name=${entry##*/}
    mkdir "$tree/$name"
    mount --bind "$entry" "$tree/$name"
done
echo ready
exec chroot "$tree" cat
"""
WRITERS = ("chmod", "cp", "mkdir", "mv", "rm", "rmdir", "touch")
REFUSAL = """#!/bin/sh
echo "${0##*/}: $*: Read-only file system" >&2
exit 1
"""


class Namespace(Protocol):
    """Where commands run."""

    def argv(self, command: str) -> list[str]: ...
    def set_read_only(self, read_only: bool) -> None:
        """Of /data."""

    def close(self) -> None: ...


def namespace(root: Path, tree: Path) -> Namespace:
    """The best that may be had here; `tree` is an empty folder beside `root`."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            return Mounted(root, tree)
    return Rewritten(root)


class Mounted:
    """Raises OSError where mounts aren't allowed."""

    def __init__(self, root: Path, tree: Path) -> None:
        self._data = tree / "data"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", HOLDER, "sh", tree, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"ready\n":
            self.close()
            raise OSError("no mount namespace may be made here")

    def argv(self, command: str) -> list[str]:
        return [*self._enter(), "--root", "--wd", "/bin/sh", "-c", command]

    def set_read_only(self, read_only: bool) -> None:
        options = f"remount,bind,{'ro' if read_only else 'rw'}"
        subprocess.run([*self._enter(), "mount", "-o", options, self._data], check=True)

    def close(self) -> None:
        assert self._holder.stdin
        assert self._holder.stdout
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self._holder.pid), "--mount"]


class Rewritten:
    """Knows only the paths that stand in the command itself. Where it is read-only, the usual tools say so."""

    def __init__(self, root: Path) -> None:
        self._root = root
        names = "|".join(re.escape(entry.name) for entry in root.iterdir())
        self._path = re.compile(rf"(?<![\w./-])(?=/(?:{names})(?![\w-]))")

    def argv(self, command: str) -> list[str]:
        return ["/bin/sh", "-c", self._path.sub(lambda _: str(self._root), command)]

    def set_read_only(self, read_only: bool) -> None:
        for name in WRITERS:
            tool = self._root / "system/bin" / name
            tool.unlink(missing_ok=True)
            if read_only:
                tool.write_text(REFUSAL)
                tool.chmod(0o755)

    def close(self) -> None:
        pass
