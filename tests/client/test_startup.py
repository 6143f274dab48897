"""What is loaded before the first packet leaves. Each module is paid for by every run, so that one
is added is to be noticed; that one is gone is to be written down here, too.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sshoq.auth.certificates import read_leaf
from sshoq.transport.late_modules import AFTER_THE_FIRST_FLIGHT
from tests.auth.keyring import make_key
from tests.client.little_server import client_environment, listening, run_client, say_and_exit
from tests.link import self_signed
from tests.programs import find_program

REPORT = """
import sys
before = set(sys.modules)
from sshoq.client import main
def report(*ignored):
    names = set(sys.modules) - before
    print(*(name for name in names if type(sys.modules[name]).__name__ != "LateModule"))
    raise SystemExit
"""

ANSWER = REPORT + "main.give_answer = report\nmain.run(main.resolve({words!r}))\n"
SHARING = REPORT + "from sshoq.client import mux_client, wishes\nreport({words!r})\n"
FLIGHT = REPORT + (
    "from sshoq.transport.udp import UdpSocket\nUdpSocket.send = report\n"
    "main.settle_process = lambda: None\nmain.run(main.resolve({words!r}))\n"
)


def loaded(program: str, *words: str) -> set[str]:
    code = program.format(words=["-F", "none", *words])
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {ROOT!r})\n{code}"],
        env=client_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    return set(done.stdout.decode().split())


def imported(profile: str) -> set[str]:
    """Of what PYTHONPROFILEIMPORTTIME made Python write."""
    return set(re.findall(r"^import time:.*\| +(\S+)$", profile, re.MULTILINE))


ROOT = client_environment()["PYTHONPATH"]

OURS_BEFORE_ANSWER = {
    "sshoq",
    "sshoq.client",
    "sshoq.client.log",
    "sshoq.client.main",
    "sshoq.config",
    "sshoq.config.algorithms",
    "sshoq.config.arguments",
    "sshoq.config.canonical",
    "sshoq.config.destination",
    "sshoq.config.dump",
    "sshoq.config.expansion",
    "sshoq.config.forward_spec",
    "sshoq.config.keywords",
    "sshoq.config.lexer",
    "sshoq.config.match",
    "sshoq.config.options",
    "sshoq.config.patterns",
    "sshoq.config.reader",
    "sshoq.config.resolve",
    "sshoq.config.surroundings",
    "sshoq.config.tokens",
    "sshoq.config.usage",
    "sshoq.config.values",
}

OURS_BEFORE_FLIGHT = (OURS_BEFORE_ANSWER - {"sshoq.config.dump"}) | {
    "sshoq.auth",
    "sshoq.auth.keys",
    "sshoq.auth.known_hosts",
    "sshoq.client.addresses",
    "sshoq.client.fallback",
    "sshoq.client.first_flight",
    "sshoq.client.host_keys",
    "sshoq.client.wishes",
    "sshoq.der",
    "sshoq.named_tuple",
    "sshoq.transport",
    "sshoq.transport.client_start",
    "sshoq.transport.events",
    "sshoq.transport.identity",
    "sshoq.transport.late_modules",
    "sshoq.transport.packets",
    "sshoq.transport.tls_groups",
    "sshoq.transport.udp",
    "sshoq.wire",
}

# Of Python itself, without those that only other modules of its own use (with an underscore).
PYTHONS_BEFORE_FLIGHT = {
    "array", "binascii", "collections", "contextlib", "copyreg", "enum", "errno", "functools",
    "gc", "importlib", "itertools", "keyword", "math", "operator", "pwd", "re", "reprlib",
    "select", "selectors", "signal", "socket", "struct", "threading", "types", "typing",
    "warnings",
}  # fmt: skip

OTHERS_BEFORE_FLIGHT = {"cryptography"}

TOO_SLOW_FOR_AN_ANSWER = {
    "aioquic", "argparse", "asyncio", "collections", "cryptography", "dataclasses", "enum",
    "functools", "inspect", "logging", "pathlib", "re", "socket", "subprocess", "typing",
}  # fmt: skip

# Where the environment has files of the kind .pth that import something.
AT_PYTHONS_OWN_START = set(
    subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, check=True
    )
    .stdout.decode()
    .split()
)

LOADED_BY_OLDER_PYTHONS = {"re", "warnings"} if sys.version_info < (3, 13) else set()
"""By `typing` and others that are needed before."""

LOADED_IN_THE_AIR = {
    "aioquic", "argparse", "asyncio", "logging", "pathlib", "pylsqpack", "sshoq.auth.certificates",
    "sshoq.auth.host_policy", "sshoq.client.online",
    "sshoq.client.prompt", "sshoq.client.terminal", "sshoq.forwarding", "sshoq.protocol",
    "stringprep", "subprocess",
}  # fmt: skip


@pytest.mark.parametrize("words", [["-V"], ["-Q", "kex"], ["-G", "host"]])
def test_answers_load_nothing_heavy(words: list[str]) -> None:
    modules = loaded(ANSWER, *words)
    assert not modules & TOO_SLOW_FOR_AN_ANSWER
    assert {name for name in modules if name.startswith("sshoq")} <= OURS_BEFORE_ANSWER


def test_a_shared_connection_is_used_without_anything_heavy() -> None:
    modules = loaded(SHARING, "host")
    assert "sshoq.client.mux_client" in modules
    assert not modules & TOO_SLOW_FOR_AN_ANSWER


def test_the_installed_program_answers_as_light_as_that() -> None:
    done = subprocess.run(
        [find_program("sshoq"), "-F", "none", "-G", "host"],
        env=client_environment() | {"PYTHONPROFILEIMPORTTIME": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    )
    assert "hostname host" in done.stdout.splitlines()
    modules = imported(done.stderr)
    assert "sshoq.config.dump" in modules
    assert not modules & (TOO_SLOW_FOR_AN_ANSWER - AT_PYTHONS_OWN_START)


def test_first_flight_leaves_before_the_rest_is_loaded() -> None:
    modules = loaded(FLIGHT, "-o", "Transport=quic", "-o", "UserKnownHostsFile=none", "127.0.0.1")
    assert not modules & LOADED_IN_THE_AIR
    assert {name for name in modules if name.startswith("sshoq")} == OURS_BEFORE_FLIGHT
    assert not modules & (set(AFTER_THE_FIRST_FLIGHT) - LOADED_BY_OLDER_PYTHONS)
    libraries = {name.partition(".")[0] for name in modules} - {"sshoq"}
    public = {name for name in libraries if not name.startswith("_")}
    assert public <= PYTHONS_BEFORE_FLIGHT | OTHERS_BEFORE_FLIGHT


# Late modules leave no trace of their own, but the modules that they import do.
NEVER_IN_A_SESSION = {
    "_ssl": "ssl",
    "_hashlib": "hashlib, hmac",
    "concurrent.futures._base": "threads",
    "certifi": "the library's way to verify chains",
    "cryptography.hazmat.primitives.serialization.ssh": "key files, but for those with Ed25519",
    "cryptography.x509.name": "what authorities vouch for",
    "dataclasses": "for the library's classes",
    "dis": "inspect",
    "ipaddress": "certificates",
    "json.decoder": "json",
    "linecache": "errors",
    "logging": "the libraries' warnings",
    "string": "logging",
    "traceback": "errors",
}


def test_a_plain_session_never_loads_some(tmp_path: Path) -> None:
    """With a host that is known and a key that lets in."""
    identity = make_key(tmp_path, "ed25519")

    async def test() -> str:
        async with listening(serve=say_and_exit(b"hello\n", 0)) as listener:
            known = tmp_path / "known_hosts"
            known.write_text(f"[127.0.0.1]:{listener.port} {read_leaf(self_signed()).key.line}\n")
            result = await run_client(
                *("-i", str(identity), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
                *("-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes"),
                f"alice@127.0.0.1:{listener.port}/secret",
                "say",
                environ={"PYTHONPROFILEIMPORTTIME": "1"},
            )
        assert (result.status, result.output) == (0, b"hello\n"), result.errors
        return result.errors

    modules = imported(asyncio.run(test()))
    assert "sshoq.client.session" in modules
    assert not modules & NEVER_IN_A_SESSION.keys()
