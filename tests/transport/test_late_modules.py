"""Modules that come late are there for whoever asks, and the same for everybody."""

from __future__ import annotations

import importlib
import ipaddress
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sshoq.transport.late_modules import LateModule, ip_address, put_off

ROOT = Path(__file__).parents[2]

FILES = {
    "__init__.py": "from latepackage import whole\nNAME = 'package'\n",
    "whole.py": "import latepackage.other\nVALUE = [1]\ndef value():\n    return VALUE\n",
    "other.py": "from latepackage import whole\nSEEN = whole.__name__\n",
    "broken.py": "raise ValueError('as ever')\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "latepackage"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "latepackage"
    for name in [name for name in sys.modules if name.startswith("latepackage")]:
        del sys.modules[name]


def is_late(name: str) -> bool:
    return isinstance(sys.modules[name], LateModule)


def test_it_is_loaded_when_it_is_used_and_stays_the_same_object(package: str) -> None:
    put_off({package: {}})
    late = importlib.import_module(package)
    assert is_late(package)
    assert late.NAME == "package"
    assert not is_late(package)
    assert importlib.import_module(package) is late
    assert late.__spec__ is not None
    assert late.__spec__.name == package


def test_names_that_are_had_elsewhere_do_not_load_it(package: str) -> None:
    put_off({"latepackage.whole": {"path": "os:path", "limit": 7}})
    late = sys.modules["latepackage.whole"]
    assert late.path is importlib.import_module("os").path
    assert late.limit == 7
    assert is_late("latepackage.whole")


def test_a_text_is_had_without_it(package: str) -> None:
    put_off({"latepackage.whole": {"VALUE": "=latepackage:text"}})
    assert sys.modules["latepackage.whole"].VALUE == "latepackage:text"
    assert is_late("latepackage.whole")


def test_a_function_loads_it_when_it_is_called(package: str) -> None:
    put_off({package: {}, "latepackage.whole": {"value": None}})
    late = sys.modules["latepackage.whole"]
    function = late.value
    assert is_late("latepackage.whole")
    assert function() == [1]
    assert not is_late("latepackage.whole")
    assert late.value is not function
    assert function() is late.value()


NO_ADDRESSES = [None, "", "host.example", "1.2.3.x", "localhost"]
ADDRESSES = ["127.0.0.1", "::1", "fe80::1%eth0", "::ffff:192.0.2.1", 1]
NEITHER = ["fe80", "1.2.3", "1.2.3.4.5", ":", "host:1", 1.5]


def judged(judge: Callable[..., object], address: object) -> str:
    try:
        return str(judge(address))
    except ValueError as error:
        return repr(error)


@pytest.mark.parametrize("address", [*NO_ADDRESSES, *ADDRESSES, *NEITHER])
def test_an_address_is_one_as_ever(address: object) -> None:
    assert judged(ip_address, address) == judged(ipaddress.ip_address, address)


def test_what_is_clearly_no_address_does_not_load_their_module() -> None:
    assert report_of(QUESTIONS.format(questions=NO_ADDRESSES)) == "LateModule\n"
    assert report_of(QUESTIONS.format(questions=["::1"])) == "module\n"


QUESTIONS = """
import sys
from sshoq.transport.late_modules import AFTER_THE_FIRST_FLIGHT, put_off
put_off(AFTER_THE_FIRST_FLIGHT)
import ipaddress
for address in {questions}:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        pass
print(type(sys.modules["ipaddress"]).__name__)
"""


@pytest.mark.parametrize("place", ["os:no.such.name", "no_such_module:name"])
def test_a_name_that_has_moved_comes_with_the_rest(package: str, place: str) -> None:
    put_off({package: {}, "latepackage.whole": {"VALUE": place}})
    assert importlib.import_module("latepackage.whole").VALUE == [1]


@pytest.mark.parametrize(
    "statement",
    [
        "from latepackage import NAME",
        "from latepackage import whole; whole.value()",
        "from latepackage.whole import value",
        "import latepackage.other; latepackage.other.SEEN",
        "from latepackage import *; NAME",
    ],
)
def test_every_way_to_import_finds_it(package: str, statement: str) -> None:
    put_off({package: {}, "latepackage.whole": {}})
    exec(statement, {})


def test_a_loaded_module_is_left_alone(package: str) -> None:
    loaded = importlib.import_module(package)
    put_off({package: {}})
    assert sys.modules[package] is loaded
    assert not is_late(package)


def test_its_errors_are_those_of_the_import(package: str) -> None:
    put_off({package: {}, "latepackage.broken": {}, "latepackage.missing": {}})
    importlib.import_module(package)
    with pytest.raises(ValueError, match="as ever"):
        _ = sys.modules["latepackage.broken"].NAME
    with pytest.raises(ModuleNotFoundError):
        _ = sys.modules["latepackage.missing"].NAME


def report_of(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


NOTHING_ELSEWHERE = """
import sys
from sshoq.transport.late_modules import AFTER_THE_FIRST_FLIGHT, LateModule, put_off
moved = {name: dict.fromkeys(places, "moved:away")
         for name, places in AFTER_THE_FIRST_FLIGHT.items()}
put_off(moved)
import sshoq.transport.quic
from cryptography import x509
from cryptography.hazmat.primitives import serialization
assert not isinstance(x509, LateModule), "x509 was asked for Certificate"
assert not isinstance(serialization, LateModule), "serialization was asked for Encoding"
print(x509.Name.__module__, serialization.load_ssh_private_key.__module__)
"""


def test_releases_that_need_more_at_their_start_get_it() -> None:
    """As if nothing were where this release has it."""
    assert report_of(NOTHING_ELSEWHERE).split() == [
        "cryptography.x509.name",
        "cryptography.hazmat.primitives.serialization.ssh",
    ]


EVERYTHING_TRUE = """
import importlib, sys
from sshoq.transport.late_modules import (
    AFTER_THE_FIRST_FLIGHT, ANY, LateModule, ip_address, put_off
)
put_off(AFTER_THE_FIRST_FLIGHT)
import asyncio
import sshoq.transport.quic
for name, places in AFTER_THE_FIRST_FLIGHT.items():
    early = {own: getattr(sys.modules[name], own) for own in places
             if places[own] not in (None, ANY)}
    module = importlib.import_module(name)
    module.__file__
    assert type(module) is not LateModule, name
    for own, value in early.items():
        real = getattr(module, own)
        assert value is real or value == real and isinstance(value, int | str) or (
            value is ip_address), (name, own)
print("all")
"""


def test_what_is_had_elsewhere_is_the_very_same() -> None:
    assert report_of(EVERYTHING_TRUE) == "all\n"
