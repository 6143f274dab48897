"""Ours beside the library's: what one says of such a class, the other does, too."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from collections.abc import Callable
from typing import Any

import pytest

from sshoq import named_tuple


class Ours(named_tuple.NamedTuple):
    """A place."""

    host: str
    port: int = 443
    path: str = "/"

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    def beside(self) -> Ours:
        return self._replace(port=self.port + 1)


class Theirs(typing.NamedTuple):
    """A place."""

    host: str
    port: int = 443
    path: str = "/"

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    def beside(self) -> Theirs:
        return self._replace(port=self.port + 1)


class Empty(named_tuple.NamedTuple):
    pass


class Heir(Ours):
    """A class of its own, with nothing more in it."""

    def beside(self) -> Ours:
        return super().beside()._replace(path="/c")


WAYS: dict[str, Callable[[Any], Any]] = {
    "in order": lambda cls: cls("a", 1, "/b"),
    "by name": lambda cls: cls(path="/b", port=1, host="a"),
    "both": lambda cls: cls("a", path="/b"),
    "defaults": lambda cls: cls("a"),
    "make": lambda cls: cls._make(["a", 1, "/b"]),
    "replace": lambda cls: cls("a", 1)._replace(host="b", path="/c"),
    "a method": lambda cls: cls("a").beside(),
    "a copy": lambda cls: copy.deepcopy(cls("a", 1)),
    "a pickle": lambda cls: pickle.loads(pickle.dumps(cls("a", 1))),
    "none": lambda cls: cls(),
    "too many": lambda cls: cls("a", 1, "/b", 2),
    "unknown": lambda cls: cls("a", user="b"),
    "twice": lambda cls: cls("a", host="b"),
    "make too few": lambda cls: cls._make([]),
    "make too many": lambda cls: cls._make("abcd"),
}


def outcome(cls: type, way: Callable[[Any], Any]) -> object:
    """What comes of it: the values, the type and the text, or the error's type."""
    try:
        made = way(cls)
    except TypeError:
        return TypeError
    return tuple(made), type(made) is cls, repr(made).replace(cls.__name__, "Place"), made.name


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_object_comes_about_as_the_librarys_does(way: Callable[[Any], Any]) -> None:
    assert outcome(Ours, way) == outcome(Theirs, way)


def test_objects_are_tuples() -> None:
    place = Ours("a", 1)
    host, port, path = place
    assert (host, port, path) == ("a", 1, "/")
    assert tuple(place) == place
    assert place == tuple(Theirs("a", 1))
    assert hash(place) == hash(("a", 1, "/"))
    assert place._asdict() == Theirs("a", 1)._asdict()
    assert _port_of(place) == _port_of(Theirs("a", 1)) == 1


def _port_of(place: object) -> int:
    match place:
        case Ours("a", port) | Theirs("a", port):
            return port
    raise AssertionError(place)


def test_the_class_says_what_it_is() -> None:
    for name in ("_fields", "_field_defaults", "__match_args__", "__doc__", "__mro__"):
        ours, theirs = getattr(Ours, name), getattr(Theirs, name)
        assert [*ours][-2:] == [*theirs][-2:]
    assert (Ours.__name__, Ours.__module__) == ("Ours", __name__)
    assert inspect.get_annotations(Ours, eval_str=True) == {"host": str, "port": int, "path": str}
    assert not hasattr(Ours("a"), "__dict__")


@pytest.mark.parametrize("cls", [Ours, Theirs])
def test_what_is_made_stays_as_it_is(cls: Any) -> None:
    place = cls("a")
    with pytest.raises(AttributeError):
        place.host = "b"
    with pytest.raises(AttributeError):
        place.other = "b"


@pytest.mark.parametrize("cls", [Ours, Theirs])
def test_only_fields_can_be_replaced(cls: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        cls("a")._replace(user="b")


def test_there_may_be_no_field_at_all() -> None:
    assert Empty() == ()
    with pytest.raises(TypeError):
        Empty(1)  # type: ignore[call-arg]  # what is tested


def test_a_class_can_inherit() -> None:
    heir = Heir("a")
    assert (heir, type(heir)) == (("a", 443, "/"), Heir)
    assert (heir.beside(), type(heir.beside())) == (("a", 444, "/c"), Heir)
