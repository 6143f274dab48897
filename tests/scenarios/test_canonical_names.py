"""CanonicalizeHostname on the way to a real server, with names of the test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.needs import need_tools
from tests.programs import Client

pytestmark = pytest.mark.privileged

# The first name of a line is the canonical one, as the target of a CNAME is. The resolver is asked
# for names with a dot at the end.
HOSTS = """\
127.0.0.1 web.example.test web.example.test.
127.0.0.1 real.farm.test alias.example.test. alias.example.test
127.0.0.1 plain
"""
DOMAINS = "CanonicalDomains nowhere.test example.test"


class Names:
    """A client whose machine knows the names above and no others."""

    def __init__(self, client: Client, folder: Path) -> None:
        need_tools("unshare", "mount")
        self.client = client
        self.config = folder / "config"
        self.folder = folder
        (folder / "hosts").write_text(HOSTS)
        (folder / "nsswitch.conf").write_text("hosts: files\n")

    def knows(self, *names: str) -> None:
        """known_hosts has the server under these names alone."""
        place, kind, key = self.client.server.known_hosts().splitlines()[1].split()
        port = place.rpartition("]:")[2]
        lines = [f"[{name}]:{port} {kind} {key}\n" for name in names]
        self.client.known_hosts.write_text("".join(lines))

    def run(self, host: str, *lines: str) -> subprocess.CompletedProcess[bytes]:
        client = self.client
        self.config.write_text("\n".join(lines) + "\n")
        options = [str(self.config) if word == "none" else word for word in client.options()]
        destination = client.server.programs.destination(client.user, host)
        program = client.server.programs.client()
        bind = "mount --bind {0}/hosts /etc/hosts && mount --bind {0}/nsswitch.conf"
        script = f'{bind.format(self.folder)} /etc/nsswitch.conf && exec "$@"'
        in_namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        flags = ["-v", "-o", "BatchMode=yes", *options]
        return subprocess.run(
            [*in_namespace, program, *flags, destination, "echo $SCENARIO_NAME"],
            env=client.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )


@pytest.fixture
def names(client: Client, tmp_path: Path) -> Names:
    return Names(client, tmp_path)


def block(name: str) -> str:
    return f"Host {name}\nSetEnv SCENARIO_NAME={name}"


def test_a_name_is_completed_and_its_own_block_counts(names: Names) -> None:
    names.knows("web.example.test")
    done = names.run("web", "CanonicalizeHostname yes", DOMAINS, block("web.example.test"))
    assert (done.returncode, done.stdout) == (0, b"web.example.test\n"), done.stderr
    assert b'Canonicalized hostname "web" => "web.example.test"' in done.stderr


def test_without_it_the_short_name_stays(names: Names) -> None:
    names.knows("plain")
    done = names.run("plain", DOMAINS, block("plain.example.test"), block("plain"))
    assert (done.returncode, done.stdout) == (0, b"plain\n"), done.stderr


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("*.example.test:*.farm.test", "real.farm.test"),
        ("*.example.test:*.elsewhere.test", "alias.example.test"),
        ("none", "alias.example.test"),
    ],
)
def test_an_alias_is_followed_where_that_is_permitted(names: Names, rule: str, name: str) -> None:
    names.knows(name)
    settings = ("CanonicalizeHostname yes", DOMAINS, f"CanonicalizePermittedCNAMEs {rule}")
    done = names.run("alias", *settings, block(name))
    assert (done.returncode, done.stdout) == (0, f"{name}\n".encode()), done.stderr


def test_a_name_that_no_domain_knows_is_left_to_the_resolver(names: Names) -> None:
    names.knows("plain")
    settings = ("CanonicalizeHostname yes", DOMAINS, block("plain"))
    done = names.run("plain", *settings)
    assert (done.returncode, done.stdout) == (0, b"plain\n"), done.stderr
    done = names.run("plain", "CanonicalizeFallbackLocal no", *settings)
    assert done.returncode == 255
    assert b'Could not resolve host "plain"' in done.stderr


def test_a_name_with_more_dots_than_wanted_is_not_completed(names: Names) -> None:
    names.knows("web.example.test")
    settings = ("CanonicalizeHostname yes", "CanonicalDomains test", block("web.example.test"))
    done = names.run("web.example", *settings)
    assert (done.returncode, done.stdout) == (0, b"web.example.test\n"), done.stderr
    done = names.run("web.example", "CanonicalizeMaxDots 0", *settings)
    assert done.returncode == 255
    assert b"Could not resolve hostname web.example" in done.stderr
