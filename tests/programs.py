"""The real programs, started as a user or an administrator starts them: OpenSSH's pair and ours,
behind one shape.

A scenario that is written against this runs with both, so what it expects is held against OpenSSH
itself. The bench uses the same pairs.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.accounts import make_key, unique_name
from tests.janitor import Janitor
from tests.needs import SEARCH_PATH
from tests.processes import (
    Process,
    descendants,
    end_process,
    processes_with,
    read_process,
    wait_until,
)

START_TIMEOUT = 30.0
RUN_TIMEOUT = 60.0
# Below the range the kernel takes client ports from, so that nobody takes a port between our look
# and the bind.
PORTS = range(20_000, 32_000)
MARK = "SSHOQ_TEST_SERVER"
URL_PATH = "/hidden-path"
SCRIPTS = Path(sysconfig.get_path("scripts"))


class ProgramMissing(Exception):
    """A program that the scenario needs is not there, or is there and does not start."""


class Programs:
    """A client and a server that belong together, and how they are told the same things."""

    name: str
    transport: str  # "tcp" or "udp": where the server listens, as /proc/net names it

    def client(self) -> str:
        raise NotImplementedError

    def prepare_machine(self, janitor: Janitor) -> None:
        """What installing the server would have made; as root, before it starts."""

    def server_command(self, config: Path, service: str | None, directory: Path) -> list[str]:
        raise NotImplementedError

    def server_settings(self) -> list[str]:
        return []

    def client_options(self) -> list[str]:
        return []

    def destination(self, user: str, host: str) -> str:
        return f"{user}@{host}"


class OpenSSH(Programs):
    name = "openssh"
    transport = "tcp"

    def client(self) -> str:
        return find_program("ssh")

    def prepare_machine(self, janitor: Janitor) -> None:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    def server_command(self, config: Path, service: str | None, directory: Path) -> list[str]:
        """sshd 9.2 has no PAMServiceName: the service is the name by which sshd was called."""
        program = find_program("sshd")
        if service is not None:
            link = directory / service
            link.symlink_to(program)
            program = str(link)
        return [program, "-D", "-e", "-f", str(config)]


class Sshoq(Programs):
    name = "sshoq"
    transport = "udp"

    def client(self) -> str:
        return find_program("sshoq")

    def prepare_machine(self, janitor: Janitor) -> None:
        janitor.make_service_user()

    def server_command(self, config: Path, service: str | None, directory: Path) -> list[str]:
        named = ["-o", f"PAMServiceName={service}"] if service is not None else []
        return [find_program("sshoq-server"), "-D", "-e", "-f", str(config), *named]

    def server_settings(self) -> list[str]:
        """All tests come from one address, and many fail to log in on purpose; sshd 9.2 has no
        penalties."""
        return [f"URLPath {URL_PATH}", "PerSourcePenalties no"]

    def client_options(self) -> list[str]:
        return ["-o", "Transport=quic"]

    def destination(self, user: str, host: str) -> str:
        bracketed = f"[{host}]" if ":" in host else host
        return f"{user}@{bracketed}{URL_PATH}"


PROGRAMS: dict[str, Programs] = {"openssh": OpenSSH(), "sshoq": Sshoq()}


def find_program(name: str) -> str:
    """Our own programs come from the environment that runs the tests, the others from the
    system."""
    own = SCRIPTS / name
    if own.exists():
        return str(own)
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise ProgramMissing(f"{name} is not installed")
    return found


def free_port(transport: str, host: str = "127.0.0.1") -> int:
    """A port that nobody uses now; random, since the tests of several workers look at once."""
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    for _ in range(100):
        port = random.choice(PORTS)
        with socket.socket(socket.AF_INET, kind) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise RuntimeError("no free port")


def is_bound(pid: int, transport: str, port: int) -> bool:
    """Whether somebody in that process's network namespace listens on the port: no probe, no log
    text."""
    listening = {"tcp": "0A", "udp": "07"}[transport]
    for file_name in (transport, f"{transport}6"):
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{pid}/net/{file_name}", encoding="ascii") as table,
        ):
            for line in table:
                words = line.split()
                if words[1].endswith(f":{port:04X}") and words[3] == listening:
                    return True
    return False


def quiet_environment(home: Path, extra: dict[str, str] | None = None) -> dict[str, str]:
    """What a client or server gets from us: nothing of the tester's own keys, agent or settings."""
    environment = {
        "PATH": SEARCH_PATH,
        "HOME": str(home),
        "USER": "tester",
        "LANG": "C.UTF-8",
        "TERM": "xterm",
    }
    return environment | (extra or {})


class Server:
    """A server that runs for a test: where it listens, who its processes are, what it logged."""

    def __init__(
        self,
        programs: Programs,
        janitor: Janitor,
        directory: Path,
        settings: Iterable[str] = (),
        *,
        service: str | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        owner: tuple[int, int] | None = None,
    ) -> None:
        """`prefix` is put before the command: into a namespace, or as another user, who is then the
        `owner`."""
        self.programs = programs
        self.host = host
        self.port = free_port(programs.transport) if not prefix else random.choice(PORTS)
        self.directory = directory
        self.service = service
        self._janitor = janitor
        self._prefix = list(prefix)
        self._owner = owner
        self._log = directory / "server.log"
        self._mark = uuid.uuid4().hex
        self._host_key = make_key(directory / "host_key")
        self.write_settings(settings)
        if os.geteuid() == 0:
            programs.prepare_machine(janitor)
        self.start()

    def write_settings(self, settings: Iterable[str]) -> None:
        """The test's own settings come first, since the first value wins; Match blocks last."""
        settings = list(settings)
        blocks = [at for at, line in enumerate(settings) if line.startswith("Match ")]
        end = blocks[0] if blocks else len(settings)
        base = [
            f"Port {self.port}",
            f"ListenAddress {self.host}",
            f"HostKey {self._host_key}",
            f"PidFile {self.directory}/server.pid",
            f"UsePAM {'yes' if self.service else 'no'}",
            "LogLevel VERBOSE",
            *self.programs.server_settings(),
        ]
        lines = settings[:end] + base + settings[end:]
        (self.directory / "server_config").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Returns when the port is bound: whatever is sent from then on waits in the socket."""
        links = self.directory / unique_name("run")
        links.mkdir()
        if self._owner:
            for path in (self.directory, links, self._host_key):
                os.chown(path, *self._owner)
        command = self.programs.server_command(
            self.directory / "server_config", self.service, links
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=quiet_environment(self.directory, {MARK: self._mark}),
                start_new_session=True,
            )
        self._owe(self._process.pid)
        wait_until(self._is_ready, START_TIMEOUT, f"{self.programs.name} server listening")

    def _owe(self, pid: int) -> None:
        if process := read_process(pid):
            self._janitor.owe("process", f"{process.pid} {process.started}")

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise ProgramMissing(
                f"the {self.programs.name} server ended with status "
                f"{self._process.returncode}:\n{self.log()}"
            )
        return is_bound(self._process.pid, self.programs.transport, self.port)

    @property
    def host_key(self) -> Path:
        """Its private half; an Ed25519 key."""
        return self._host_key

    @property
    def pid(self) -> int:
        """The main process."""
        return self._process.pid

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def known_hosts(self) -> str:
        """The lines that vouch for this server, as ssh would have recorded them."""
        kind, key, *_ = Path(f"{self._host_key}.pub").read_text().split()
        return f"{self.host} {kind} {key}\n[{self.host}]:{self.port} {kind} {key}\n"

    def processes(self) -> list[Process]:
        """Every process of the server, the main process included, also those that outlived it."""
        return processes_with(MARK, self._mark)

    def family(self) -> list[Process]:
        """The main process and everything below it, the users' programs included."""
        main = read_process(self.pid)
        return ([main] if main else []) + descendants(self.pid)

    def end_main(self, number: int = signal.SIGTERM) -> None:
        """End the main process alone, and so what listens; connections are its heirs."""
        self._process.send_signal(number)
        self._process.wait(timeout=30)
        transport = self.programs.transport
        wait_until(lambda: not is_bound(os.getpid(), transport, self.port), 30, "port given up")

    def reload(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End everything that this server started, politely at first."""
        leftovers = self.family()
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30)
        for process in [*leftovers, *self.processes()]:
            end_process(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)


class Client:
    """The client program, told how to reach one server as one user; nothing else comes from the
    tester's home."""

    def __init__(
        self,
        server: Server,
        user: str,
        key: Path | None,
        directory: Path,
        prefix: Sequence[str] = (),
    ) -> None:
        self.server = server
        self.user = user
        self.key = key
        self.directory = directory
        self.prefix = list(prefix)
        self.more_options: list[str] = []
        self.known_hosts = directory / "known_hosts"
        self.known_hosts.write_text(server.known_hosts())

    def options(self) -> list[str]:
        """Flags that -o, scp, sftp and rsync all take."""
        identity = ["-i", str(self.key), "-o", "IdentitiesOnly=yes"] if self.key else []
        chosen = [
            f"UserKnownHostsFile={self.known_hosts}",
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            f"Port={self.server.port}",
        ]
        return [
            *["-F", "none", *identity],
            *[word for option in chosen for word in ("-o", option)],
            *self.server.programs.client_options(),
            *self.more_options,
        ]

    def command(self, *words: str, flags: Sequence[str] = ()) -> list[str]:
        """Own flags stand first, because the first value given wins."""
        destination = self.server.programs.destination(self.user, self.server.host)
        program = self.server.programs.client()
        return [*self.prefix, program, *flags, *self.options(), destination, *words]

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        return quiet_environment(self.directory, extra)

    def run(
        self,
        *words: str,
        flags: Sequence[str] = (),
        input: bytes | None = None,
        env: dict[str, str] | None = None,
        timeout: float = RUN_TIMEOUT,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run to the end. Without input, stdin is /dev/null; BatchMode unless something is to be
        asked."""
        flags = [*flags] if env and "SSH_ASKPASS" in env else [*flags, "-o", "BatchMode=yes"]
        return subprocess.run(
            self.command(*words, flags=flags),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            env=self.environment(env),
            timeout=timeout,
            cwd=self.directory,
            start_new_session=True,
        )

    def output(self, *words: str, **options: object) -> bytes:
        """Standard output of a command that must succeed."""
        done = self.run(*words, **options)  # type: ignore[arg-type]  # handed on as they are
        assert done.returncode == 0, (done.returncode, done.stderr, self.server.log()[-2000:])
        return done.stdout

    def start(
        self, *words: str, flags: Sequence[str] = (), stdout: int | None = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start and go on; the test that starts it waits for it or kills it."""
        return subprocess.Popen(
            self.command(*words, flags=[*flags, "-o", "BatchMode=yes"]),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=self.environment(),
            cwd=self.directory,
            start_new_session=True,
        )


def as_user(name: str, uid: int, gid: int) -> list[str]:
    """Words that run a command as that user, on machines where the interpreter is in root's private
    home, too.

    There a private mount namespace shows the user an empty /root with nothing but the interpreter
    in it.
    """
    become = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--"]
    prefix = Path(sys.base_prefix)
    if not prefix.is_relative_to("/root"):
        return become
    script = (
        f"set -e; mount --bind {prefix} /mnt; mount -t tmpfs -o mode=755 none /root; "
        f'mkdir -p {prefix}; mount --move /mnt {prefix}; exec "$@"'
    )
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *become]
