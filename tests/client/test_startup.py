"""What is loaded before the first packet leaves. Each module is paid for by every run, so that one
is added is to be noticed; that one is gone is to be written down here, too.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.client.little_server import client_environment

REPORT = """
import json, sys
before = set(sys.modules)
from sshoq.client import main
def report(*ignored):
    print(json.dumps(sorted(set(sys.modules) - before)))
    raise SystemExit
"""

ANSWER = REPORT + "main.give_answer = report\nmain.run(main.resolve({words!r}))\n"
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
    return set(json.loads(done.stdout))


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
    "sshoq.transport",
    "sshoq.transport.congestion",
    "sshoq.transport.credit",
    "sshoq.transport.events",
    "sshoq.transport.fast_receive",
    "sshoq.transport.fast_send",
    "sshoq.transport.frames",
    "sshoq.transport.identity",
    "sshoq.transport.number_ranges",
    "sshoq.transport.pacing",
    "sshoq.transport.packets",
    "sshoq.transport.path_mtu",
    "sshoq.transport.protection",
    "sshoq.transport.quic",
    "sshoq.transport.stand_ins",
    "sshoq.transport.stream_halves",
    "sshoq.transport.tls_groups",
    "sshoq.transport.udp",
    "sshoq.wire",
}

TOO_SLOW_FOR_AN_ANSWER = {
    "aioquic", "argparse", "asyncio", "cryptography", "dataclasses", "enum", "inspect", "logging",
    "pathlib", "re", "socket", "subprocess", "typing",
}  # fmt: skip

LOADED_IN_THE_AIR = {
    "argparse", "asyncio", "pathlib", "pylsqpack", "sshoq.auth.certificates",
    "sshoq.auth.host_policy", "sshoq.client.online",
    "sshoq.client.prompt", "sshoq.client.terminal", "sshoq.forwarding", "sshoq.protocol",
    "stringprep", "subprocess",
}  # fmt: skip


@pytest.mark.parametrize("words", [["-V"], ["-Q", "kex"], ["-G", "host"]])
def test_answers_load_nothing_heavy(words: list[str]) -> None:
    modules = loaded(ANSWER, *words)
    assert not modules & TOO_SLOW_FOR_AN_ANSWER
    assert {name for name in modules if name.startswith("sshoq")} <= OURS_BEFORE_ANSWER


def test_first_flight_leaves_before_the_rest_is_loaded() -> None:
    modules = loaded(FLIGHT, "-o", "Transport=quic", "127.0.0.1")
    assert not modules & LOADED_IN_THE_AIR
    assert {name for name in modules if name.startswith("sshoq")} == OURS_BEFORE_FLIGHT
