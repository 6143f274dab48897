"""A machine of paper: files in a directory, names from a table."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sshoq.config.resolve import Invocation, resolve
from sshoq.config.surroundings import Paths, Resolved, ResolveError, Surroundings
from sshoq.config.usage import UsageError

USER, HOST = "alice", "laptop.example.net"
NAMES = {
    "db.example.com.": Resolved("db.example.com", ("10.0.0.5",)),
    "www.example.com.": Resolved("Real.Example.ORG", ("10.0.0.6",)),
    "www": Resolved("real.example.org", ("10.0.0.6",)),
    "odd.example.com.": Resolved("not a domain", ("10.0.0.7",)),
}


def look_up(name: str, port: int, family: str) -> Resolved | None:
    if name.startswith("broken"):
        raise ResolveError("Temporary failure in name resolution")
    return NAMES.get(name)


class Machine:
    """Someone's account, with ~/.ssh and /etc/ssh below a temporary directory."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.system = root / "etc"
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        self.system.mkdir()
        self.environ: dict[str, str] = {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
        self.uid: int | None = None
        self.only_owner_in_group = False
        self.is_terminal = True
        self.interfaces: Callable[[], list[str]] = lambda: ["127.0.0.1", "192.0.2.7", "fe80::1"]

    def write(self, text: str | bytes, name: str = "config") -> Path:
        """A file of ~/.ssh."""
        path = self.home / ".ssh" / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(0o600)
        return path

    def surroundings(self) -> Surroundings:
        return Surroundings(
            self.environ,
            Paths(
                str(self.home),
                system_own=str(self.system / "sshoq_config"),
                system=str(self.system / "ssh_config"),
            ),
            user=USER,
            uid=self.uid,
            home=str(self.home),
            host=HOST,
            stdin_is_terminal=lambda: self.is_terminal,
            resolver=look_up,
            interfaces=self.interfaces,
            only_owner_in_group=lambda descriptor, status: self.only_owner_in_group,
        )

    def resolve(self, *argv: str) -> Invocation:
        return resolve(argv, surroundings=self.surroundings())

    def refusal(self, *argv: str) -> tuple[str, ...]:
        """The lines of the UsageError that these words end in."""
        with pytest.raises(UsageError) as refusal:
            self.resolve(*argv)
        assert refusal.value.status == 255
        return refusal.value.lines

    def dump(self, *argv: str) -> list[str]:
        answer = self.resolve("-G", *argv).answer
        assert answer is not None
        return list(answer.stdout)
