"""curl through every kind of forward, from either side."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.echo import serving
from tests.needs import need_tools
from tests.programs import Client, free_port

pytestmark = pytest.mark.privileged

SIZE = 20_000_000


class QuietHandler(SimpleHTTPRequestHandler):
    """Keeps connections open, as the web's servers do."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None: ...


class Website:
    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.folder = folder
        content = os.urandom(SIZE)
        (folder / "large").write_bytes(content)
        (folder / "page").write_text("a page")
        self.digest = hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def website(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Website]:
    need_tools("curl")
    folder = tmp_path_factory.mktemp("website")
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))
    )
    server.daemon_threads = True
    with serving(server):
        yield Website(folder, server.server_address[1])


Running = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def running(client: Client) -> Iterator[Running]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> subprocess.Popen[bytes]:
        process = client.start(
            "echo ready; exec cat", flags=[*flags, "-o", "ExitOnForwardFailure=yes"]
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=10)


CURL = ["curl", "--silent", "--show-error", "--fail", "--max-time", "60", "--noproxy", ""]


def fetch(website: Website, base: str, *flags: str) -> None:
    """A large file, and ten pages over one connection."""
    done = subprocess.run(
        [*CURL, *flags, f"{base}/large"], capture_output=True, timeout=100, env={}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert hashlib.sha256(done.stdout).hexdigest() == website.digest
    pages = [f"{base}/page?{number}" for number in range(10)]
    done = subprocess.run([*CURL, *flags, *pages], capture_output=True, timeout=100, env={})
    assert (done.returncode, done.stdout) == (0, b"a page" * 10)


def test_through_a_local_port(running: Running, website: Website) -> None:
    port = free_port("tcp")
    running("-L", f"{port}:localhost:{website.port}")
    fetch(website, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("kind", ["socks4", "socks4a", "socks5", "socks5-hostname"])
def test_through_a_dynamic_port(running: Running, website: Website, kind: str) -> None:
    port = free_port("tcp")
    running("-D", f"127.0.0.1:{port}")
    host = "localhost" if kind in ("socks4a", "socks5-hostname") else "127.0.0.1"
    fetch(website, f"http://{host}:{website.port}", f"--{kind}", f"127.0.0.1:{port}")


def test_through_a_remote_port(running: Running, website: Website, client: Client) -> None:
    """curl runs at the server."""
    port = free_port("tcp")
    running("-R", f"{port}:localhost:{website.port}")
    told = client.output(f"curl -sSf http://127.0.0.1:{port}/large | sha256sum")
    assert told.split()[0].decode() == website.digest


@pytest.mark.parametrize("kind", ["socks4a", "socks5-hostname"])
def test_through_a_remote_dynamic_port(
    running: Running, website: Website, client: Client, kind: str
) -> None:
    port = free_port("tcp")
    running("-R", str(port))
    url = f"http://localhost:{website.port}/large"
    told = client.output(f"curl -sSf --{kind} 127.0.0.1:{port} {url} | sha256sum")
    assert told.split()[0].decode() == website.digest
