"""What ps shows in the place of a process's command line. Python has no call for it."""

import ctypes
import functools

_ARG_START, _ARG_END = 45, 46
"""In /proc/self/stat, counted from behind the name; see proc(5)."""


def set_title(title: str) -> None:
    """As far as the command line has room."""
    start, end = _command_line()
    if start < end:
        room = end - start  # one for the zero behind it, without which the kernel shows more
        text = title.encode("utf-8", "replace")
        ctypes.memmove(start, text[: room - 1].ljust(room, b"\0"), room)


@functools.cache
def _command_line() -> tuple[int, int]:
    """Where it stands in memory, which is the same in forked processes: those that are confined by
    now need not ask. From there Python has taken copies long ago."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return 0, 0
    return int(fields[_ARG_START]), int(fields[_ARG_END])
