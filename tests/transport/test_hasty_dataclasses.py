"""Dataclasses made in haste are dataclasses to whoever looks."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sshoq.transport.hasty_dataclasses import hasty_dataclasses

ROOT = Path(__file__).parents[2]

SOURCE = """
from dataclasses import dataclass, field

@dataclass
class Plain:
    '''With a text.'''
    number: int
    text: str = "default"
    items: list[int] = field(default_factory=list)
    not_a_field = 5

    @property
    def double(self):
        return 2 * self.number

@dataclass
class Empty:
    pass
"""

UNUSUAL = {
    "frozen": "@dataclass(frozen=True)\nclass C:\n    a: int = 1\n",
    "ordered": "@dataclass(order=True)\nclass C:\n    a: int = 1\n",
    "class variable": "@dataclass\nclass C:\n    b: ClassVar[int] = 2\n    a: int = 1\n",
    "after init": "@dataclass\nclass C:\n    a: int = 1\n    def __post_init__(self): self.a = 2\n",
    "a field's options": "@dataclass\nclass C:\n    a: int = field(default=1, repr=False)\n",
    "heirs": "@dataclass\nclass B:\n    z: int = 0\n@dataclass\nclass C(B):\n    a: int = 1\n",
    "keywords only": "@dataclass\nclass C:\n    _: KW_ONLY\n    a: int = 1\n",
    "called": "@dataclass()\nclass C:\n    a: int = 1\n",
    "own comparison": "@dataclass\nclass C:\n    a: int = 1\n    def __eq__(s, o): return True\n",
    "own start": "@dataclass\nclass C:\n    a: int = 1\n    def __init__(self): self.a = 9\n",
}
HEAD = "from typing import ClassVar\nfrom dataclasses import KW_ONLY, dataclass, field\n"


def made_by(source: str, *, haste: bool, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("sample")
    monkeypatch.setitem(sys.modules, "sample", module)
    if not haste:
        exec(source, vars(module))
        return module
    monkeypatch.delitem(sys.modules, "dataclasses")
    with hasty_dataclasses():
        exec(source, vars(module))
    monkeypatch.setitem(sys.modules, "dataclasses", dataclasses)
    return module


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return made_by(SOURCE, haste=True, monkeypatch=monkeypatch)


@pytest.mark.parametrize("made_before", [0, 100])
def test_an_object_is_made_as_its_fields_say(made_before: int, hasty: ModuleType) -> None:
    for _ in range(made_before):
        hasty.Plain(1)
        hasty.Empty()
    one: Any = hasty.Plain(3)
    assert vars(one) == {"number": 3, "text": "default", "items": []}
    assert one.double == 6
    assert hasty.Plain(3).items is not one.items
    assert vars(hasty.Plain(1, "a", items=[2])) == {"number": 1, "text": "a", "items": [2]}
    assert vars(hasty.Empty()) == {}
    wrong = [(hasty.Plain, (), {}), (hasty.Plain, (1,), {"none": 2}),
             (hasty.Plain, (1,), {"number": 2}), (hasty.Empty, (1,), {})]  # fmt: skip
    for make, values, named in wrong:
        with pytest.raises(TypeError):
            make(*values, **named)


def test_wrong_values_are_no_reason_to_take_wrong_ones_later(hasty: ModuleType) -> None:
    with pytest.raises(TypeError):
        hasty.Plain(1, number=2)
    assert vars(hasty.Plain(3, text="a")) == {"number": 3, "text": "a", "items": []}
    assert hasty.Plain.__init__.__defaults__ is not None, "written out by now"


def test_making_objects_is_not_enough_to_need_the_real_module(
    hasty: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "dataclasses")
    hasty.Plain(3)
    assert "dataclasses" not in sys.modules
    assert repr(hasty.Plain(3)) == "Plain(number=3, text='default', items=[])"
    assert "dataclasses" in sys.modules


def test_the_first_question_makes_it_a_real_one(hasty: ModuleType) -> None:
    before = hasty.Plain(3)
    assert [f.name for f in dataclasses.fields(hasty.Plain)] == ["number", "text", "items"]
    assert dataclasses.asdict(before) == {"number": 3, "text": "default", "items": []}
    assert dataclasses.replace(before, number=4) == hasty.Plain(4)


@pytest.mark.parametrize(
    "question",
    [
        lambda hasty: hasty.Plain(3) == hasty.Plain(3) and hasty.Plain(3) != hasty.Plain(4),
        lambda hasty: hasty.Plain(3) != 3,
        lambda hasty: repr(hasty.Plain(3)).startswith("Plain("),
        lambda hasty: repr(hasty.Empty()) == "Empty()",
        lambda hasty: hasty.Plain.__match_args__ == ("number", "text", "items"),
        lambda hasty: hasty.Plain.__hash__ is None,
        lambda hasty: dataclasses.is_dataclass(hasty.Empty),
        lambda hasty: dataclasses.is_dataclass(hasty.Empty()),
        lambda hasty: hasty.Plain.__dataclass_params__.frozen is False,
    ],
)
def test_it_answers_as_a_dataclass_does(
    question: object, hasty: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(question)
    assert question(made_by(SOURCE, haste=False, monkeypatch=monkeypatch))
    assert question(hasty)


@pytest.mark.parametrize("source", UNUSUAL.values(), ids=UNUSUAL)
def test_all_else_is_left_to_the_real_module(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = made_by(HEAD + source, haste=False, monkeypatch=monkeypatch).C
    hasty = made_by(HEAD + source, haste=True, monkeypatch=monkeypatch).C
    assert vars(hasty()) == vars(real())
    assert repr(hasty()) == repr(real())
    assert (hasty() == hasty()) is (real() == real())
    assert hasty.__dataclass_fields__.keys() == real.__dataclass_fields__.keys()
    assert str(inspect.signature(hasty)) == str(inspect.signature(real))
    assert vars(hasty).keys() == vars(real).keys()


def test_nobody_else_gets_to_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dataclasses")
    with hasty_dataclasses():
        assert sys.modules["dataclasses"] is not dataclasses
    assert "dataclasses" not in sys.modules


def test_a_module_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with hasty_dataclasses():
        assert sys.modules["dataclasses"] is dataclasses


LIBRARY = """
import json, sys
if {haste}:
    from sshoq.transport.hasty_dataclasses import hasty_dataclasses
    with hasty_dataclasses():
        import sshoq.transport.quic
    assert "dataclasses" not in sys.modules
import sshoq.transport.quic
import dataclasses, inspect
def describe(cls):
    names = [(f.name, repr(f.default).partition(" at 0x")[0], str(f.type))
             for f in dataclasses.fields(cls)]
    return [names, cls.__match_args__, sorted(vars(cls)), str(inspect.signature(cls))]
print(json.dumps({{
    f"{{name}}.{{own}}": describe(cls)
    for name, module in sorted(sys.modules.items()) if name.startswith("aioquic")
    for own, cls in sorted(vars(module).items())
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
}}))
"""


def test_the_library_is_the_same_either_way() -> None:
    """And is made without one question that only a real dataclass answers."""
    reports = [
        subprocess.run(
            [sys.executable, "-c", LIBRARY.format(haste=haste)],
            cwd=ROOT,
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for haste in (False, True)
    ]
    assert b"QuicConfiguration" in reports[0]
    assert reports[0] == reports[1]
