"""Runs in a private namespace: gives each case to ssh -G and to resolve(), prints both answers.

Started by test_against_openssh.py as `unshare -unm python oracle.py`, with the cases as JSON on
stdin. In the namespace the host has a fixed name, no network, and a hosts file of our own; ~/.ssh
and /etc/ssh are directories that each case fills. A helper program, not a test.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypedDict

from sshoq.config.resolve import Answer, resolve
from sshoq.config.surroundings import Surroundings, account_of
from sshoq.config.usage import UsageError

HOST_NAME = "client.example.net"
HOSTS = """\
127.0.0.1 localhost
10.1.2.3 known.example.com
10.1.2.4 cname.example.com www.alias.example.com
"""
SSH = "/usr/bin/ssh"


class Case(TypedDict):
    """What a case consists of. files: name under ~/.ssh ("config") or "/etc/ssh/..." to text."""

    name: str
    argv: list[str]
    files: dict[str, str]
    environ: dict[str, str]


class Outcome(TypedDict):
    status: int
    stdout: str
    stderr: str


def prepare(work: Path) -> tuple[Path, Path]:
    """Make the namespace ours: name, resolver, and the two directories."""
    subprocess.run(["hostname", HOST_NAME], check=True)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    home = Path(account_of(os.getuid())[1]) / ".ssh"
    home.mkdir(mode=0o700, exist_ok=True)
    for name, text in (("hosts", HOSTS), ("nsswitch.conf", "hosts: files\nservices: files\n")):
        (work / name).write_text(text)
        subprocess.run(["mount", "--bind", str(work / name), f"/etc/{name}"], check=True)
    system = Path("/etc/ssh")
    for directory, name in ((home, "user"), (system, "system")):
        (work / name).mkdir()
        subprocess.run(["mount", "--bind", str(work / name), str(directory)], check=True)
    return home, system


def fill(case: Case, home: Path, system: Path) -> None:
    """Lay out the files of one case in place of the last one's."""
    for directory in (home, system):
        for entry in directory.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for name, text in case["files"].items():
        path = Path(name) if name.startswith("/") else home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        path.chmod(0o644)


def run_openssh(case: Case, environ: dict[str, str]) -> Outcome:
    """What ssh says. It is named by its path, but calls itself "ssh" in messages."""
    done = subprocess.run(
        [os.fsencode(word) for word in (SSH, *case["argv"])],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    return Outcome(
        status=done.returncode,
        stdout=_decode(done.stdout),
        stderr=without_debug(_decode(done.stderr)),
    )


def without_debug(text: str) -> str:
    """Messages for the user: debugging output and the version in front of it are not compared."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("debug", "OpenSSH_")))


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def run_sshoq(case: Case, environ: dict[str, str]) -> Outcome:
    """What resolve() says in the same place. Commands of Match exec write to a file of ours."""
    surroundings = Surroundings(environ, stdin_is_terminal=lambda: False)
    with _standard_error_in_file() as captured:
        try:
            invocation = resolve(case["argv"], surroundings=surroundings)
        except UsageError as error:
            answer: Answer | None = Answer(stderr=error.lines, status=error.status)
        else:
            answer = invocation.answer
        assert answer is not None, case
        os.lseek(captured, 0, os.SEEK_SET)
        spoken = _decode(os.read(captured, 1 << 20))
    return Outcome(
        status=answer.status,
        stdout=_lines(answer.stdout),
        stderr=without_debug(spoken + _lines(answer.stderr)),
    )


def _lines(lines: tuple[str, ...]) -> str:
    return "".join(f"{line}\n" for line in lines)


@contextlib.contextmanager
def _standard_error_in_file():  # type: ignore[no-untyped-def]  # a generator of int, told by its name
    captured = os.memfd_create("stderr")
    original = os.dup(2)
    os.dup2(captured, 2)
    try:
        yield captured
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(captured)


def main() -> None:
    cases: list[Case] = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as temporary:
        home, system = prepare(Path(temporary))
        outcomes = []
        for case in cases:
            fill(case, home, system)
            environ = {"PATH": "/usr/bin:/bin", "HOME": str(home.parent), "SHELL": "/bin/sh"}
            environ |= case["environ"]
            outcomes.append((run_openssh(case, environ), run_sshoq(case, environ)))
        json.dump(outcomes, sys.stdout)
        sys.stdout.flush()
        for directory in ("/etc/hosts", "/etc/nsswitch.conf", str(home), str(system)):
            subprocess.run(["umount", directory], check=True)


if __name__ == "__main__":
    main()
