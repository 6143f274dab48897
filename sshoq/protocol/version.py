"""The version string of User-Agent and Server, what is decided by it, and what a peer is.

The version says who speaks, never what it can do: the Go programs' says 0.2.1 since long. What a
peer can be told is in its announced extensions (`extensions.py`); `PeerTraits` brings both
together.
"""

from sshoq import __version__
from sshoq.protocol.extensions import NONE, OURS, Extension

PROTOCOL = (3, 0)
SPEC = "alpha-00"
IMPLEMENTATION = "sshoq-python/sshoq"
GO_IMPLEMENTATION = "h4sh5/sshoq"
MAX_LENGTH = 512
"""Longer than any version string in use; more is not looked at."""

_LEGACY_SOFTWARE = ((0, 1, 3), (0, 1, 4), (0, 1, 5))
"""Go clients of the time before the specification was named in the string."""


class VersionError(ValueError):
    """The text is no version string."""


class Version:
    """``SSH 3.0 h4sh5/sshoq 0.2.1 experimental_spec_version=alpha-00``, taken apart."""

    __slots__ = ("implementation", "protocol", "software", "spec")

    def __init__(self, protocol: tuple[int, int], spec: str, implementation: str,
                 software: tuple[int, int, int]) -> None:
        self.protocol = protocol
        self.spec = spec
        self.implementation = implementation
        self.software = software

    def __str__(self) -> str:
        major, minor = self.protocol
        software = ".".join(str(number) for number in self.software)
        spec = f" experimental_spec_version={self.spec}" if self.spec else ""
        return f"SSH {major}.{minor} {self.implementation} {software}{spec}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def is_supported(self) -> bool:
        """Protocol 3.0 of the known specification, or of Go programs from before it had a name."""
        if self.protocol != PROTOCOL:
            return False
        if self.spec == SPEC:
            return True
        return (not self.spec and self.implementation == GO_IMPLEMENTATION
                and self.software in _LEGACY_SOFTWARE)


def parse_version(text: str) -> Version:
    """VersionError without four words and the numbers in place; unknown words are skipped."""
    words = text.split() if len(text) <= MAX_LENGTH else []
    if len(words) < 4:
        raise VersionError(f"not a version string: {text[:80]!r}")
    number, _, spec = words[1].partition("_")
    protocol = _numbers(number, 2)
    software = _numbers(words[3], 3)
    for word in words[4:]:
        key, _, value = word.partition("=")
        if key == "experimental_spec_version":
            spec = value
    major, minor, patch = software
    return Version((protocol[0], protocol[1]), spec, words[2], (major, minor, patch))


def _numbers(text: str, count: int) -> list[int]:
    parts = text.split(".")
    plain = all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts)
    if len(parts) != count or not plain:
        raise VersionError(f"not {count} plain numbers: {text[:40]!r}")
    return [int(part) for part in parts]


def _own_software() -> tuple[int, int, int]:
    """Go peers read three plain integers, or refuse it all: a suffix such as rc1 is cut off."""
    parts = __version__.split(".")
    numbers = [int("".join(c for c in part if c.isdigit()) or "0") for part in parts]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


OUR_VERSION = Version(PROTOCOL, SPEC, IMPLEMENTATION, _own_software())


def refusal_of(user_agent: str | None) -> str | None:
    """Why a server does not talk to this client, as the body of the 403; None if it does."""
    try:
        version = parse_version(user_agent or "")
    except VersionError:
        return f"Unsupported user-agent: {(user_agent or '')[:MAX_LENGTH]}"
    return None if version.is_supported else f"Unsupported version: {user_agent}"


class PeerTraits:
    """What the peer is and can be told; without announced extensions it counts as a Go program."""

    __slots__ = ("announced", "extensions", "version")

    def __init__(self, announced: Extension | None = None, ours: Extension = OURS,
                 version: Version | None = None) -> None:
        self.version = version
        """None until the peer has said, or if what it said is no version."""
        self.learn(announced, ours)

    def learn(self, announced: Extension | None, ours: Extension) -> None:
        """The peer's SETTINGS are there; `announced` is None if our setting is not among them."""
        self.announced = announced
        self.extensions = ours & (announced or NONE)
        """What both sides announced."""

    @property
    def is_go(self) -> bool:
        """Whether the guard rails for the Go programs apply."""
        return self.announced is None

    def supports(self, extension: Extension) -> bool:
        return extension & self.extensions == extension

    @property
    def knows_fork_channels(self) -> bool:
        """A francoismichel/ssh3 server dies of reverse and sftp channels, and of window-change."""
        if not self.is_go:
            return True
        return self.version is not None and self.version.implementation == GO_IMPLEMENTATION
