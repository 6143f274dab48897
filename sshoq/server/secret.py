"""Process: router [service user, sandboxed]. A secret that no network process inherits.

Each of them is a fork of the router, with all of its memory; but this page the kernel fills with
zeros in a child. Whoever uses the secret takes it from here each time and makes no copy.
"""

import ctypes
import mmap
import os

from sshoq.server.libc import libc

MADV_WIPEONFORK = 18
"""Linux 4.14."""


class Secret:
    """Random bytes, for this process alone. `key` is to be lent, not kept."""

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._page = mmap.mmap(-1, mmap.PAGESIZE, flags=flags)
        self._page.madvise(MADV_WIPEONFORK)
        self.key = memoryview(self._page)[:size]
        # os.urandom would leave a copy somewhere in our memory.
        if libc.getrandom((ctypes.c_char * size).from_buffer(self._page), size, 0) != size:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
