"""What a vendor's library writes to a file descriptor of this process, past Python: to elsewhere, or to be read."""

import contextlib
import ctypes
import os
import stat
import sys
import tempfile
from collections.abc import Iterator

STDERR = 2


@contextlib.contextmanager
def redirected(number: int, to: int) -> Iterator[None]:
    """Descriptor `number` of the process, the C library's buffers included, leads to where `to` does."""
    libc = ctypes.CDLL(None)
    stream = {1: sys.stdout, STDERR: sys.stderr}[number]
    stream.flush()
    libc.fflush(None)
    saved = os.dup(number)
    os.dup2(to, number)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(saved, number)
        os.close(saved)


class Heard:
    """`text` is there once the block has ended."""

    text = ""


@contextlib.contextmanager
def standard_error() -> Iterator[Heard]:
    """What is written to standard error in the block, where it arrives none the less.

    Where that is a file, as it is in a worker, it is only read: the last words of a crash stay in it.
    """
    heard = Heard()
    if stat.S_ISREG(os.fstat(STDERR).st_mode):
        begin = os.fstat(STDERR).st_size
        try:
            yield heard
        finally:
            ctypes.CDLL(None).fflush(None)
            with open(f"/proc/self/fd/{STDERR}", "rb") as log:  # noqa: PTH123 - a descriptor, and no path
                log.seek(begin)
                heard.text = log.read().decode(errors="replace")
        return
    with tempfile.TemporaryFile() as log:
        try:
            with redirected(STDERR, log.fileno()):
                yield heard
        finally:
            log.seek(0)
            words = log.read()
            heard.text = words.decode(errors="replace")
            os.write(STDERR, words)
