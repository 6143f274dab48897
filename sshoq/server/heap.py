"""Process: main and router, before they fork. A heap of which children copy as little as can be.

A forked process shares its parent's memory until one of the two writes to it, page by page. What a
child makes anew should thus not land in the gaps between what it was given; nobody should count who
uses what stays for ever; the garbage collector should not touch it; and code, into which Python
notes what it finds when it runs, should lie together. Knows nothing of what is in the heap, and
needs nothing that another Python would not bear: the worst that can happen is that pages are
copied.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType

SMALL = (16, *range(48, 513, 16))
"""Sizes of the blocks that Python manages itself; larger ones are the C library's. Of 32 bytes are
the numbers that this counts with, so it cannot do those."""

BLOCK_HEADER = 33
"""Bytes of a `bytes` object beside its content."""

SIDE_BY_SIDE = 8192
"""Bytes in a row that were handed out in order: they come from unused memory, no longer from
gaps."""

MOST_BLOCKS = 20_000
"""Of one size; a Python that hands them out in another order is left alone after that."""

IMMORTAL_SINCE, IMMORTAL_UNTIL = (3, 12), (3, 14)
"""The versions whose objects can be immortal (PEP 683) in a way that is known here."""

_stoppers: list[object] = []


def settle_heap() -> None:
    """Once everything is loaded that all children shall share."""
    gc.collect()
    for size in SMALL:
        _stoppers.extend(_fill_gaps(size))
    gc.freeze()


def gather_code(used: set[CodeType]) -> None:
    """Put that side by side: what is written into it later is fewer pages. To be run before it is
    settled, or Python has nothing noted in it."""
    functions: list[FunctionType] = [
        one for one in gc.get_objects() if type(one) is FunctionType and one.__code__ in used
    ]
    for function in functions:
        function.__code__ = function.__code__.replace()


# --------------------------------------------------------------------------- what is not counted


def _knows_immortals() -> bool:
    """Elsewhere each count is counted, or is not kept in this form: without a GIL, for one."""
    return (
        sys.implementation.name == "cpython"
        and IMMORTAL_SINCE <= sys.version_info < IMMORTAL_UNTIL
        and sys.maxsize > 1 << 32
        and "t" not in sys.abiflags
    )


def make_immortal() -> None:
    """All that there is. It is never freed, also when it could be, so this comes before anything
    secret is read: a child that is to forget it must be able to.

    PEP 683 wants this for servers that fork, and Python has no call for it yet. An object begins
    with its count of references, and that of None is the count that is left alone.
    """
    if not _knows_immortals():
        return
    gc.collect()
    forever = ctypes.c_ssize_t.from_address(id(None)).value
    at = ctypes.c_ssize_t.from_address
    for address in _all_objects():
        at(address).value = forever


def _all_objects() -> Iterable[int]:
    """The address of each, also of those that the garbage collector does not know."""
    layer = gc.get_objects()
    found: dict[int, object] = {}
    while layer:
        fresh = {id(one): one for one in layer if id(one) not in found}
        found |= fresh
        layer = gc.get_referents(*fresh.values())
        for one in fresh.values():
            if type(one) is CodeType:  # which the collector cannot look into
                layer += _parts_of_code(one)
    return found


def _parts_of_code(code: CodeType) -> list[object]:
    names = (code.co_names, code.co_name, code.co_qualname, code.co_filename)
    return [code.co_consts, *names, code.co_linetable, code.co_exceptiontable]


# --------------------------------------------------------------------------- what has no gaps


def _fill_gaps(size: int) -> Iterator[object]:
    """Blocks of that size until there is no gap left that another one would fit into."""
    make = _maker(size)
    expected = in_row = 0
    for _ in range(MOST_BLOCKS):
        block = make()
        yield block
        in_row = in_row + size if id(block) == expected else 0
        expected = id(block) + size
        if in_row >= SIDE_BY_SIDE:
            return


def _maker(size: int) -> Callable[[], object]:
    return object if size == SMALL[0] else lambda: bytes(size - BLOCK_HEADER)
