"""Process: main and router, before they fork. A heap of which children copy as little as can be.

A forked process shares its parent's memory until one of the two writes to it, page by page. What a
child makes anew should thus not land in the gaps between what it was given, and its garbage
collector should not touch that. Knows nothing of what is in the heap, and needs nothing that
another Python would not bear: the worst that can happen is that pages are copied.
"""

import gc
from collections.abc import Callable, Iterator

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

_stoppers: list[object] = []


def settle_heap() -> None:
    """Once everything is loaded that all children shall share."""
    gc.collect()
    for size in SMALL:
        _stoppers.extend(_fill_gaps(size))
    gc.freeze()


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
