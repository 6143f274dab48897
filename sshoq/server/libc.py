"""Process: all of them. The calls of the C library and of the kernel that Python does not offer.

ctypes and not cffi: without a compiler cffi parses C declarations at every start, which takes 30 ms
and 5 MB; ctypes takes 2 ms and 0.3 MB, and every process of the server is forked with it loaded.
"""

import ctypes
import os

from sshoq.process_title import set_title

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2

_CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)
libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_prctl_with_text = libc["prctl"]
_prctl_with_text.argtypes = (ctypes.c_int, ctypes.c_char_p)
libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
libc.signal.restype = ctypes.c_void_p


class Capabilities(ctypes.Structure):
    """One half (32 capabilities) of what capget and capset carry."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def prctl(option: int, argument: int = 0, second: int = 0) -> None:
    _check(libc.prctl(option, argument, second, 0, 0))


def set_process_name(name: str, about: str = "") -> None:
    """What ps -e and top show, at most 15 bytes; with `about` behind it, what ps -f shows, as far
    as the command line has room."""
    _check(_prctl_with_text(PR_SET_NAME, name.encode()[:15]))
    set_title(f"{name}: {about}" if about else name)


def set_seccomp_filter(program: bytes) -> None:
    """Install a BPF program (8 bytes an instruction) for this process and its children, for
    ever."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    holder = Program(len(program) // 8, program)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(holder))


def get_capabilities() -> tuple[Capabilities, Capabilities]:
    halves = (Capabilities * 2)()
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    _check(libc.capget(ctypes.byref(header), halves))
    return halves[0], halves[1]


def set_capabilities(low: Capabilities, high: Capabilities) -> None:
    halves = (Capabilities * 2)(low, high)
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    _check(libc.capset(ctypes.byref(header), halves))


def clear_inheritable_capabilities() -> None:
    """What our own starter left there must not reach the programs of users; PAM may set it anew."""
    low, high = get_capabilities()
    low.inheritable = high.inheritable = 0
    set_capabilities(low, high)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def _check(result: int) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
