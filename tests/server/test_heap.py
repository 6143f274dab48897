"""What a parent does to its heap so that its children copy little of it."""

import sys

import pytest

from tests.processes import run_python

START = """\
import gc
from sshoq.server.heap import SMALL, make_immortal, settle_heap
"""


def run(code: str) -> str:
    """In an interpreter of its own: what is frozen there stays so."""
    said, _ = run_python(START + code)
    return said


def test_what_is_made_later_falls_into_no_gap() -> None:
    code = """\
blocks = [bytes(47) for _ in range(5000)]
gaps = {id(block) for block in blocks[::3]}
del blocks[::3]
settle_heap()
later = [bytes(47) for _ in range(len(gaps))]
print(len(gaps), len(gaps & set(map(id, later))))
"""
    count, fallen = map(int, run(code).split())
    assert count > 1000
    assert fallen == 0


def test_the_collector_no_longer_looks_at_what_was_there() -> None:
    code = """\
there = [[]]
settle_heap()
print(gc.get_freeze_count() > 1000, any(one is there for one in gc.get_objects()))
"""
    assert run(code) == "True False"


def test_it_takes_a_bounded_amount_of_memory() -> None:
    code = """\
from sshoq.server import heap
settle_heap()
print(sum(map(len, filter(None, (b for b in heap._stoppers if isinstance(b, bytes))))))
"""
    assert int(run(code)) < 4 * 1024 * 1024


@pytest.mark.skipif(sys.version_info < (3, 12), reason="before 3.12 no object is immortal")
def test_to_use_what_was_there_writes_nothing_into_it() -> None:
    code = """\
from ctypes import c_ssize_t
from types import SimpleNamespace
word = "".join(["not ", "interned"])
def function():
    return 3.5
there = [object(), word, (1.5, [word]), {"key": word}, SimpleNamespace(of=word), function, type]
code = function.__code__
inside = [there[2][0], code, code.co_consts, code.co_consts[-1]]
make_immortal()
settle_heap()
def counts():
    return [c_ssize_t.from_address(id(one)).value for one in (*there, *inside)]
before = counts()
held = [*there, *inside] * 1000
print(before == counts(), function(), there[3]["key"], len(set(before)))
"""
    assert run(code) == "True 3.5 not interned 1"


def test_what_is_made_later_goes_when_nobody_uses_it() -> None:
    code = """\
import weakref
class Thing:
    pass
there = {}
make_immortal()
settle_heap()
there["one"] = Thing()
seen = weakref.ref(there["one"])
del there["one"]
print(seen() is None)
"""
    assert run(code) == "True"


GATHERING = """\
from sshoq.server.heap import gather_code
apart = []
functions = []
for number in range(50):
    scope = {}
    exec(f"def outer(x):\\n def inner(y=x):\\n  yield from (x, y, {number})\\n return inner", scope)
    functions.append(scope["outer"])
    apart.append([bytearray(600) for _ in range(200)])
def span(chosen):
    places = sorted(id(one.__code__) for one in chosen)
    return places[-1] - places[0]
hot = functions[::10]
cold = [one.__code__ for one in functions if one not in hot]
"""


def test_code_that_is_used_comes_to_lie_together() -> None:
    code = """\
before = span(hot)
gather_code({one.__code__ for one in hot})
print(span(hot) < before / 10, [list(one(7)()) for one in hot[:2]],
      cold == [one.__code__ for one in functions if one not in hot])
"""
    assert run(GATHERING + code) == "True [[7, 7, 0], [7, 7, 10]] True"
