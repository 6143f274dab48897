"""Modules that are loaded when somebody asks them for something that they do not have yet.

Libraries import at their top what only some of their users need. A late module stands in
`sys.modules` as itself, with a few names at most, and fills itself from its file as soon as any
other one is wanted. Nothing is replaced and nothing is missing, whoever asks: a release of a
library that needs more at its start is slower there, and that is all.
"""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module, reload
from types import ModuleType

Places = Mapping[str, str | int | None]
"""A name in a module, and where the very same object is to be had without it, as module:attribute;
or its value where that is a number, or a text after "="; or None for a function, which loads the
module when it is called; or ANY for a type that only annotates. A place that a release does not
have is no loss."""

ANY = "typing:Any"

_RUST = "cryptography.hazmat.bindings._rust"
_SERIALIZATION = "cryptography.hazmat.primitives._serialization"

AFTER_THE_FIRST_FLIGHT: Mapping[str, Places] = {
    # for qlog, for prime numbers, for annotations, for errors, for PEM files, for child processes
    "json": {},
    "random": {},
    "datetime": {"datetime": "_datetime:datetime"},
    "inspect": {},
    "linecache": {},
    "locale": {},
    "re": {"split": None},
    "subprocess": {"PIPE": -1, "STDOUT": -2, "DEVNULL": -3},
    "textwrap": {},
    "tokenize": {},
    "traceback": {"extract_stack": None},
    "warnings": {"warn": "_warnings:warn"},
    # for certificates, and for servers that have a second address
    "ipaddress": {"ip_address": f"{__name__}:ip_address"},
    # for threads
    "concurrent": {},
    "concurrent.futures": {
        "FIRST_COMPLETED": "=FIRST_COMPLETED",
        "FIRST_EXCEPTION": "=FIRST_EXCEPTION",
        "ALL_COMPLETED": "=ALL_COMPLETED",
    },
    # for TLS over TCP
    "ssl": {"CERT_NONE": 0, "CERT_OPTIONAL": 1, "CERT_REQUIRED": 2},
    "asyncio.sslproto": {},
    # maps the system's OpenSSL, beside the one of cryptography
    "hmac": {},
    "cryptography.hazmat.primitives.asymmetric.types": {
        "CertificateIssuerPublicKeyTypes": ANY,
        "PrivateKeyTypes": ANY,
    },
    # the half that is written in Python: names and extensions of certificates, and SSH's key files
    "cryptography.x509": {"Certificate": f"{_RUST}:x509.Certificate"},
    "cryptography.hazmat.primitives.serialization": {
        "Encoding": f"{_SERIALIZATION}:Encoding",
        "PublicFormat": f"{_SERIALIZATION}:PublicFormat",
        "load_der_public_key": f"{_RUST}:openssl.keys.load_der_public_key",
    },
}
"""What aioquic, cryptography and asyncio import, and a client does not need to begin, if at all."""


class LateModule(ModuleType):
    """Not loaded yet."""

    def __getattr__(self, name: str) -> object:
        if name == "__path__":  # every `from … import` looks whether that is a package
            self.__path__ = _path_of(self.__name__)
        else:
            load(self)
        return getattr(self, name)


def put_off(modules: Mapping[str, Places]) -> None:
    """Make those late that are not loaded already."""
    for name, places in modules.items():
        if name not in sys.modules:
            _put_off(name, places)


def _put_off(name: str, places: Places) -> None:
    module = LateModule(name)
    for own, place in places.items():
        try:
            vars(module)[own] = _late_function(module, own) if place is None else _fetch(place)
        except (ImportError, AttributeError):
            continue
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], own, module)


def _late_function(module: ModuleType, name: str) -> Callable[..., object]:
    def call(*values: object, **named: object) -> object:
        load(module)  # which puts the real one in the place of this
        return getattr(module, name)(*values, **named)

    return call


def ip_address(address: object) -> object:
    """`ipaddress.ip_address`, which need not be loaded to say that something is none."""
    if address is None or (
        isinstance(address, str) and ":" not in address and not address[-1:].isdigit()
    ):
        raise ValueError(f"{address!r} does not appear to be an IPv4 or IPv6 address")
    module = sys.modules["ipaddress"]
    load(module)
    return module.ip_address(address)


def _fetch(place: str | int) -> object:
    if isinstance(place, int):
        return place
    if place.startswith("="):
        return place[1:]
    module, _, path = place.partition(":")
    found: object = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _path_of(name: str) -> list[str]:
    """Where a package's modules are; AttributeError for other modules."""
    from importlib.machinery import PathFinder

    parent = name.rpartition(".")[0]
    spec = PathFinder.find_spec(name, sys.modules[parent].__path__ if parent else None)
    if spec is None or spec.submodule_search_locations is None:
        raise AttributeError("__path__")
    return spec.submodule_search_locations


def load(module: ModuleType) -> None:
    """Fill a late module from its file, now; another one is left as it is."""
    is_late = type(module) is LateModule
    if not is_late:
        return
    # First, so that a circular import finds what it always does: a module that is half there.
    module.__class__ = ModuleType
    reload(module)
