"""A child that doesn't outlive its parent."""

import sys


def die_with_parent() -> None:
    """Has this process killed when its parent dies, where the system can; a death before goes unnoticed."""
    if sys.platform == "linux":
        import ctypes
        import signal

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
