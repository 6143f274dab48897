"""The two command lines of the server."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sshoq import __version__
from sshoq.server import flags
from sshoq.server.config import ConfigError, ServerConfig
from sshoq.server.flags import Invocation, UsageError, parse_command_line
from sshoq.server.main import read_configuration
from tests.janitor import Janitor
from tests.needs import need_root


@pytest.fixture(autouse=True, scope="module")
def installed(janitor: Janitor) -> None:
    """A test of the configuration by root looks for the service user, too."""
    if os.geteuid() == 0:
        janitor.make_service_user()


def parse(*words: str) -> Invocation:
    return parse_command_line(list(words))


def configured(*words: str) -> ServerConfig:
    return read_configuration(parse(*words, "-f", "none"))


def refusal(*words: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(*words)
    return caught.value


# --------------------------------------------------------------------------- sshd's


def test_letters_may_stand_together() -> None:
    invocation = parse("-De", "-tffile", "-oPrintMotd=no", "-E", "log")
    assert (invocation.foreground, invocation.log_to_stderr) == (True, True)
    assert (invocation.mode, invocation.config_file) == ("test", "file")
    assert (invocation.overrides, invocation.log_file) == (["PrintMotd=no"], "log")


def test_no_file_is_named_none() -> None:
    assert parse("-f", "none").config_file is None
    assert parse("-f", "none").no_config_file is True


def test_debug_stays_in_the_foreground_and_says_more_with_each_letter() -> None:
    invocation = parse("-ddd")
    assert (invocation.debug, invocation.foreground, invocation.log_to_stderr) == (3, True, True)
    assert configured("-ddd").log_level == "DEBUG3"
    assert configured("-d", "-o", "LogLevel=ERROR").log_level == "DEBUG"
    assert configured("-q", "-o", "LogLevel=ERROR").log_level == "SILENT"


def test_ports_of_the_command_line_replace_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("Port 5\nListenAddress 127.0.0.1:6\n")
    config = read_configuration(parse("-p", "7", "-p8", "-f", str(file)))
    assert config.port == (7, 8)
    assert [end.port for end in config.listen_endpoints()] == [6]


def test_families_keys_and_grace_time() -> None:
    config = configured("-4", "-h", "/a b", "-g", "2m", "-o", "HostKey=/c")
    assert (config.address_family, config.login_grace_time) == ("inet", 120)
    assert config.host_key == ("/a b", "/c")
    assert configured("-6").address_family == "inet6"


def test_connection_specifications_add_up() -> None:
    assert parse("-T", "-C", "user=a,addr=::1", "-Chost=h").test_spec == {
        "user": "a",
        "addr": "::1",
        "host": "h",
    }


@pytest.mark.parametrize(
    ("words", "line", "status"),
    [
        (["-p", "x"], "Bad port number.", 1),
        (["-p", "0"], "Bad port number.", 1),
        (["-g", "x"], "Invalid login grace time.", 1),
        (["-Z"], "unknown option -- Z", 1),
        (["-o"], "option requires an argument -- o", 1),
        (["more"], "Extra argument more.", 1),
        (["-D", "--", "more"], "Extra argument more.", 1),
        (["-i"], "-i is not supported: QUIC needs the UDP socket itself", 255),
        (
            ["-C", "user=a"],
            "Config test connection parameter (-C) provided without test mode (-T)",
            255,
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], line: str, status: int) -> None:
    error = refusal(*words)
    assert (error.lines[0], error.status) == (line, status)


def test_a_bad_specification_is_refused() -> None:
    with pytest.raises(ConfigError, match="Invalid test mode specification x"):
        parse("-T", "-C", "x")


# --------------------------------------------------------------------------- the Go server's


@pytest.mark.parametrize("dash", ["-", "--"])
@pytest.mark.parametrize("joint", ["=", None])
def test_words_take_one_dash_or_two(dash: str, joint: str | None) -> None:
    def word(name: str, value: str) -> list[str]:
        return [f"{dash}{name}={value}"] if joint else [f"{dash}{name}", value]

    words = [*word("bind", "127.0.0.1:4433"), *word("url-path", "/p"), *word("cert", "c.pem")]
    config = configured(*words, f"{dash}enable-password-login", f"{dash}disable-sftp")
    assert [tuple(end) for end in config.listen_endpoints()] == [("127.0.0.1", 4433)]
    assert (config.url_path, config.certificate) == ("/p", os.path.abspath("c.pem"))
    assert config.certificate_key == os.path.abspath("priv.key")
    assert (config.password_authentication, config.disable_sftp) == (True, True)


def test_a_word_is_not_read_as_letters() -> None:
    invocation = parse("-cert", "c", "-key", "k")
    assert (invocation.certificate, invocation.key, invocation.go_style) == ("c", "k", True)


def test_the_go_style_stays_in_the_foreground_and_takes_no_passwords() -> None:
    invocation = parse("-bind", "[::1]:443")
    assert invocation.foreground is True
    config = read_configuration(invocation)
    assert (config.password_authentication, config.pid_file) == (False, None)
    assert config.method_lists == (("publickey",),)
    assert config.certificate == os.path.abspath("cert.pem")


def test_a_configuration_file_is_stronger_than_the_go_servers_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("PasswordAuthentication yes\nHostKey /k\nURLPath /file\n")
    config = read_configuration(parse("-f", str(file), "-url-path", "/flag"))
    assert (config.password_authentication, config.certificate) == (True, None)
    assert config.url_path == "/flag"


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("[::]:4", [("::", 4), ("0.0.0.0", 4)]),
        (":4", [("::", 4), ("0.0.0.0", 4)]),
        ("0.0.0.0:4", [("0.0.0.0", 4)]),
        ("[::1]:https", [("::1", 443)]),
    ],
)
def test_where_it_binds(bind: str, expected: list[tuple[str, int]]) -> None:
    assert [tuple(end) for end in configured("-bind", bind).listen_endpoints()] == expected


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "[::1]", "a:b:1", "h:0", "h:99999", ""])
def test_an_address_without_a_port_is_refused(bind: str) -> None:
    assert refusal("-bind", bind).lines == (f"-bind {bind}: an address and a port are needed",)


def test_public_certificates_are_left_to_others() -> None:
    error = refusal("-generate-public-cert", "example.org")
    assert "ACME" in error.lines[0]
    assert error.status == 255


def test_verbose_is_the_debug_log_on_stderr() -> None:
    assert parse("-v").log_to_stderr is True
    assert configured("-v").log_level == "DEBUG"
    assert parse("-v=false").go_style is False
    assert "invalid boolean" in refusal("-v=maybe").lines[0]


def test_a_word_without_its_value_is_refused() -> None:
    assert refusal("-bind").lines[0] == "flag needs an argument: -bind"


# --------------------------------------------------------------------------- the program


def run(
    *words: str, cwd: Path | None = None, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sshoq.server.main", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("flag", ["-V", "-version", "--version"])
def test_the_version_names_openssh_for_the_programs_that_look(flag: str) -> None:
    done = run(flag)
    assert done.returncode == 0
    assert done.stderr == f"sshoq-server {__version__}, OpenSSH_10.5p1\n"


def test_help_is_the_usage() -> None:
    done = run("-help")
    assert (done.returncode, done.stderr.split()[:2]) == (0, ["usage:", "sshoq-server"])


def test_a_configuration_can_be_tested_and_shown(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(key)], check=True)
    (tmp_path / "config").write_text(
        "HostKey key\nMatch User a\nBanner /b\nSubsystem sftp internal-sftp\n"
    )
    assert run("-t", "-f", "config", cwd=tmp_path).stderr == ""
    done = run("-T", "-f", "config", "-C", "user=a", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "banner /b\n" in done.stdout
    assert "subsystem sftp internal-sftp\n" in done.stdout


def test_whoever_reads_what_is_shown_may_stop(tmp_path: Path) -> None:
    """As in `sshoq-server -T | grep -q`."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(key)], check=True)
    reader, writer = os.pipe()
    os.close(reader)
    done = run("-T", "-f", "none", "-h", str(key), stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("config", "lines", "status"),
    [
        (
            "Foo 1\n",
            [
                "c: line 1: Bad configuration option: Foo",
                "c: terminating, 1 bad configuration options",
            ],
            255,
        ),
        (
            "HostKey /nowhere\n",
            [
                "Unable to load host key: /nowhere",
                "sshoq-server: no hostkeys available -- exiting.",
            ],
            1,
        ),
        (
            "ListenAddress a..b\nHostKey key\n",
            ["bad addr or host: a..b (Name or service not known)"],
            255,
        ),
        (
            "RSAAuthentication yes\nHostKey key\n",
            ["c line 1: Deprecated option RSAAuthentication"],
            0,
        ),
        (
            "HostKey key\nMatch User x RDomain y\nPermitTTY no\n",
            [
                "c line 2: Match RDomain never holds: "
                "the server's sockets are in no routing domain"
            ],
            0,
        ),
    ],
)
def test_a_test_says_what_is_wrong(
    tmp_path: Path, config: str, lines: list[str], status: int
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", str(key)], check=True)
    (tmp_path / "c").write_text(config)
    done = run("-t", "-f", "c", cwd=tmp_path)
    assert (done.stderr.splitlines(), done.returncode) == (lines, status)


NOT_INSTALLED = """
from sshoq.server import main, sandbox
sandbox.SERVICE_USER = "nobody-made-it"
raise SystemExit(main.main())
"""


def test_a_test_misses_the_service_user(tmp_path: Path) -> None:
    """As sshd's does: the server could not start."""
    need_root()
    key = str(tmp_path / "key")
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", key], check=True)
    done = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED, "-t", "-f", "none", "-h", key],
        capture_output=True,
        text=True,
    )
    lack = "Privilege separation user nobody-made-it does not exist; make it with: useradd "
    assert (done.returncode, done.stderr[: len(lack)]) == (255, lack)


def test_one_half_of_a_certificate_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "priv.key").write_text("precious")
    done = run("-bind", "127.0.0.1:1", "-t", cwd=tmp_path)
    assert done.returncode == 255
    assert "not overwriting" in done.stderr
    assert (tmp_path / "priv.key").read_text() == "precious"
    assert not (tmp_path / "cert.pem").exists()


def test_the_go_style_makes_its_certificate_once(tmp_path: Path) -> None:
    for _ in range(2):
        done = run("-bind", "127.0.0.1:1", "-t", cwd=tmp_path)
        assert (done.returncode, done.stderr.count("Generated")) in ((0, 1), (0, 0))
    assert done.stderr == ""
    assert (tmp_path / "priv.key").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cert.pem", "priv.key"]


# --------------------------------------------------------------------------- the manual


def test_the_manual_names_every_flag() -> None:
    page = (Path(__file__).parents[2] / "man" / "sshoq-server.8").read_text()
    named = set(re.findall(r"^\.It Fl ([\w-]+)", page, re.MULTILINE))
    words = flags._SWITCHES | flags._VALUES
    letters = {*flags._LETTERS, *flags._LETTER_LINES, *flags._WITH_ARGUMENT, "d"} - set("bku")
    assert named == words | letters
