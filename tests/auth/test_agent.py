"""The agent: a real ssh-agent, and a false one that says whatever it likes."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sshoq.auth import agent as agent_module
from sshoq.auth.agent import Agent, AgentError, AgentSigner, agent_path
from sshoq.auth.keys import PublicKey, parse_public_key, put_mpint
from sshoq.auth.private_keys import PrivateKey, load_private_key
from sshoq.wire import put_string
from tests.auth.keyring import KEY_TYPES, make_certificate, make_key, public_line
from tests.needs import need_tools


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return {key_type: make_key(folder, key_type, "-C", f"my {key_type}") for key_type in KEY_TYPES}


@pytest.fixture
def agent_socket(tmp_path: Path) -> Iterator[str]:
    """A private ssh-agent without keys."""
    need_tools("ssh-agent", "ssh-add")
    path = str(tmp_path / "agent")
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline()  # it says where it listens once it does
        yield path
    finally:
        process.terminate()
        process.communicate()


def ssh_add(path: str, *arguments: str | Path) -> str:
    environment = {**os.environ, "SSH_AUTH_SOCK": path}
    command = ["ssh-add", *map(str, arguments)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return run.stdout


def test_identities_are_those_that_ssh_add_lists(agent_socket: str, keys: dict[str, Path]) -> None:
    ssh_add(agent_socket, *keys.values())
    with Agent(agent_socket) as agent:
        lines = [key.line for key in agent.identities()]
    assert lines == ssh_add(agent_socket, "-L").splitlines()
    assert len(lines) == len(KEY_TYPES)


def test_empty_agent_has_no_identities(agent_socket: str) -> None:
    with Agent(agent_socket) as agent:
        assert agent.identities() == []


def test_agent_signs_what_the_key_verifies(agent_socket: str, keys: dict[str, Path]) -> None:
    ssh_add(agent_socket, *keys.values())
    for path in keys.values():
        key = parse_public_key(public_line(path))
        assert key.verify(AgentSigner(agent_socket, key).sign(b"data"), b"data")


def test_added_key_is_held_with_its_comment(agent_socket: str, keys: dict[str, Path]) -> None:
    with Agent(agent_socket) as agent:
        for key_type, path in keys.items():
            agent.add(load_private_key(str(path)), f"my {key_type}")
    listed = ssh_add(agent_socket, "-L").splitlines()
    assert listed == [f"{public_line(path)} my {key_type}" for key_type, path in keys.items()]


def test_added_key_signs(agent_socket: str, keys: dict[str, Path]) -> None:
    with Agent(agent_socket) as agent:
        for path in keys.values():
            key = load_private_key(str(path))
            agent.add(key, "", lifetime=60)
            assert key.public_key.verify(agent.sign(key.public_key, b"data"), b"data")


def test_added_certificate_is_held_beside_its_key(
    agent_socket: str, keys: dict[str, Path], tmp_path: Path
) -> None:
    authority = make_key(tmp_path, "ed25519")
    for key_type, path in keys.items():
        copy = tmp_path / f"{key_type}.pub"
        copy.write_text(public_line(path))
        certificate = parse_public_key(make_certificate(authority, copy).read_bytes())
        key = load_private_key(str(path))
        with Agent(agent_socket) as agent:
            agent.add(key, "me")
            agent.add(key, "me", certificate=certificate, lifetime=60)
            assert agent.identities()[-2:] == [key.public_key, certificate]
            signature = agent.sign(key.public_key, b"data", held_as=certificate.blob)
        assert key.public_key.verify(signature, b"data")


def test_key_added_with_confirmation_is_not_used_without(
    agent_socket: str, keys: dict[str, Path]
) -> None:
    key = load_private_key(str(keys["ed25519"]))
    with Agent(agent_socket) as agent:  # which has no SSH_ASKPASS to ask with
        agent.add(key, "", confirm=True)
        with pytest.raises(AgentError, match="refused"):
            agent.sign(key.public_key, b"data")


def test_unknown_key_is_refused(agent_socket: str, keys: dict[str, Path]) -> None:
    with Agent(agent_socket) as agent, pytest.raises(AgentError, match="refused"):
        agent.sign(parse_public_key(public_line(keys["rsa"])), b"data")


def test_nobody_listening_is_an_agent_error(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="cannot connect"):
        Agent(str(tmp_path / "none"))


def test_overlong_socket_name_is_an_agent_error() -> None:
    with pytest.raises(AgentError, match="cannot connect"):
        Agent("/" + "x" * 200)


def test_identity_agent_says_where_the_agent_is() -> None:
    environment = {"SSH_AUTH_SOCK": "/sock", "OTHER": "/other", "EMPTY": ""}
    assert agent_path(None, environment) == "/sock"
    assert agent_path("SSH_AUTH_SOCK", environment) == "/sock"
    assert agent_path("none", environment) is None
    assert agent_path("$OTHER", environment) == "/other"
    assert agent_path("$MISSING", environment) is None
    assert agent_path("$EMPTY", environment) is None
    assert agent_path("/path", environment) == "/path"
    assert agent_path(None, {}) is None


# --------------------------------------------------------------------------- a false agent


@contextmanager
def false_agent(tmp_path: Path, answer: bytes) -> Iterator[str]:
    """Answers one request with these bytes, then closes."""
    path = str(tmp_path / "false")
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
                connection.recv(length, socket.MSG_WAITALL)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield path
        finally:
            thread.join()


def signature(algorithm: bytes, raw: bytes) -> bytes:
    return put_string(bytes((14,)) + put_string(put_string(algorithm) + put_string(raw)))


ED25519 = PublicKey(put_string(b"ssh-ed25519") + put_string(b"k" * 32))
RSA = PublicKey(put_string(b"ssh-rsa") + put_mpint(65537) + put_mpint((1 << 2047) | 1))
P256 = b"ecdsa-sha2-nistp256"
ECDSA = PublicKey(put_string(P256) + put_string(b"nistp256") + put_string(b"\x04" + b"p" * 64))


def test_rsa_signature_without_leading_zeros_gets_them_back(tmp_path: Path) -> None:
    with false_agent(tmp_path, signature(b"rsa-sha2-256", b"\1" * 255)) as path:
        assert AgentSigner(path, RSA).sign(b"data") == b"\0" + b"\1" * 255


def test_ecdsa_signature_becomes_two_numbers_of_full_width(tmp_path: Path) -> None:
    answer = signature(P256, put_mpint(5) + put_mpint(1 << 255))
    with false_agent(tmp_path, answer) as path:
        signed = AgentSigner(path, ECDSA).sign(b"data")
    assert signed == (5).to_bytes(32, "big") + (1 << 255).to_bytes(32, "big")


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        pytest.param(RSA, signature(b"ssh-rsa", b"\1" * 256), id="SHA-1, the flag ignored"),
        pytest.param(ED25519, signature(b"ssh-ed25519", b"\1" * 63), id="63 bytes of Ed25519"),
        pytest.param(ED25519, signature(b"ssh-rsa", b"\1" * 64), id="another algorithm"),
        pytest.param(ECDSA, signature(P256, put_mpint(1 << 256) * 2), id="numbers too large"),
        pytest.param(ECDSA, signature(P256, put_mpint(1)), id="one number alone"),
        pytest.param(ECDSA, signature(P256, put_string(b"\x80") * 2), id="negative numbers"),
        pytest.param(ED25519, put_string(b"\x05"), id="failure"),
        pytest.param(ED25519, put_string(b""), id="empty message"),
        pytest.param(ED25519, struct.pack("!I", 256 * 1024 + 1), id="message too long"),
        pytest.param(ED25519, b"\0\0", id="half a length"),
        pytest.param(ED25519, b"\0\0\0\x09\x0e", id="half a message"),
        pytest.param(ED25519, b"", id="nothing"),
    ],
)
def test_wrong_answers_are_agent_errors(tmp_path: Path, key: PublicKey, answer: bytes) -> None:
    with false_agent(tmp_path, answer) as path, pytest.raises(AgentError):
        AgentSigner(path, key).sign(b"data")


def test_list_that_announces_more_than_it_has_is_an_agent_error(tmp_path: Path) -> None:
    answer = put_string(b"\x0c" + struct.pack("!I", 0xFFFFFFFF))
    with false_agent(tmp_path, answer) as path, Agent(path) as agent, pytest.raises(AgentError):
        agent.identities()


def test_keys_of_unknown_kinds_are_left_out(tmp_path: Path) -> None:
    odd = put_string(put_string(b"ssh-future") + b"x") + put_string(b"odd")
    known = put_string(ED25519.blob) + put_string(b"known")
    answer = put_string(b"\x0c" + struct.pack("!I", 2) + odd + known)
    with false_agent(tmp_path, answer) as path, Agent(path) as agent:
        assert agent.identities() == [ED25519]


def test_silent_agent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "ANSWER_TIMEOUT", 0.01)
    path = str(tmp_path / "silent")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with Agent(path) as agent, pytest.raises(AgentError, match="timed out"):
            agent.identities()


def test_request_too_long_for_an_agent_is_not_sent(tmp_path: Path) -> None:
    with false_agent(tmp_path, put_string(b"\x05")) as path, Agent(path) as agent:
        with pytest.raises(AgentError, match="too long"):
            agent.sign(ED25519, b"x" * (256 * 1024))
        with pytest.raises(AgentError, match="refused"):
            agent.sign(ED25519, b"x")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(kind=st.sampled_from([12, 14]), body=st.binary(max_size=200))
def test_any_answer_is_a_result_or_an_agent_error(tmp_path: Path, kind: int, body: bytes) -> None:
    answer = put_string(bytes((kind,)) + body)
    for ask in (Agent.identities, lambda agent: agent.sign(ECDSA, b"data")):
        with false_agent(tmp_path, answer) as path, Agent(path) as agent, suppress(AgentError):
            ask(agent)


def test_private_key_is_a_signer(keys: dict[str, Path]) -> None:
    from sshoq.auth.keys import Signer

    signer: Signer = load_private_key(str(keys["ed25519"]))
    assert isinstance(signer, PrivateKey)
    assert signer.public_key.verify(signer.sign(b"x"), b"x")
