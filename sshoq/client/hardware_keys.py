"""Keys on hardware: smart cards by a PKCS#11 library, FIDO tokens by the files that name them.

OpenSSH's ssh-agent has the libraries and helpers that such keys take, so one is started for the
login, for these keys alone, and ends with it. Loaded only when the turn of such a key has come; may
block, and ask.
"""

import contextlib
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

from sshoq.auth.agent import Agent, AgentError, AgentSigner
from sshoq.client.identities import Candidate, Wishes
from sshoq.client.log import Log
from sshoq.client.prompt import Prompter

if TYPE_CHECKING:
    from sshoq.auth.keys import PublicKey

START_TIMEOUT = 10.0
ADD_TIMEOUT = 300.0
"""Somebody may have to type a passphrase."""

INTERNAL = "internal"
"""The provider of FIDO keys that OpenSSH has built in."""

# The agent lives as long as this command, and the command as long as its input, which is ours: so
# it goes with us, however we end (after ten seconds, if we are killed).
_COMMAND = ("sh", "-c", 'echo "$SSH_AUTH_SOCK $SSH_AGENT_PID"; exec cat >/dev/null')


class HardwareKeys:
    """The keys on hardware of one login."""

    def __init__(self, wishes: Wishes, prompter: Prompter, log: Log) -> None:
        self._wishes = wishes
        self._prompter = prompter
        self._log = log
        self._agent: PrivateAgent | None = None
        self._added: set[str] = set()

    def close(self) -> None:
        if self._agent is not None:
            self._agent.close()

    def on_card(self, provider: str) -> list[Candidate]:
        """The keys that the library of PKCS11Provider has. Asks for the PIN if it wants one; once,
        since a few wrong ones lock a card."""
        if not os.path.exists(provider):
            self._log.error(f"PKCS11Provider {provider}: No such file or directory")
            return []
        try:
            agent = self._started()
            if not self._opens(agent, provider):
                return []
            with Agent(agent.path) as connection:
                held = connection.identities()
        except AgentError as error:
            self._log.error(f"PKCS11Provider {provider}: {error}")
            return []
        return [Candidate(key.comment or provider, key, agent.path) for key in held]

    def _opens(self, agent: "PrivateAgent", provider: str) -> bool:
        with contextlib.suppress(AgentError):  # for want of a PIN, most likely
            agent.add_card(provider, "")
            return True
        if self._prompter.batch:
            self._log.error(f"PKCS11Provider {provider}: pin required")
            return False
        pin = self._prompter.secret(f"Enter PIN for '{provider}': ")
        if not pin:
            return False
        agent.add_card(provider, pin)
        return True

    def on_token(self, path: str, public: "PublicKey") -> AgentSigner | None:
        """For the key on a FIDO token that this private key file names."""
        try:
            agent = self._started()
            if path not in self._added:
                agent.add_file(path, self._wishes.token_provider, quietly=self._prompter.batch)
                self._added.add(path)
        except AgentError as error:
            self._log.error(f'Load key "{path}": {error}')
            return None
        return AgentSigner(agent.path, public)

    def _started(self) -> "PrivateAgent":
        if self._agent is None:
            wishes = self._wishes
            self._agent = PrivateAgent(wishes.card_provider, wishes.token_provider)
        return self._agent


class PrivateAgent:
    """An ssh-agent that nobody else knows of. It takes keys from these libraries and no others."""

    def __init__(self, *libraries: str | None) -> None:
        """AgentError when it cannot be started."""
        known = [os.path.realpath(path) for path in libraries if path and path != INTERNAL]
        allowed = ["-P", ",".join(known)] if known else []
        try:
            self._process = subprocess.Popen(
                ["ssh-agent", *allowed, *_COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise AgentError(f"ssh-agent, which asks such keys: {error.strerror}") from None
        self.path, self._pid = self._read_place()

    def _read_place(self) -> tuple[str, int]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT)
        words = self._process.stdout.readline(4096).split() if ready else []
        if len(words) != 2 or not words[1].isdigit():
            self._end()
            raise AgentError("ssh-agent, which asks such keys, does not start")
        return os.fsdecode(words[0]), int(words[1])

    def add_card(self, provider: str, pin: str) -> None:
        """AgentError when the library has no keys, or not for this PIN."""
        with Agent(self.path) as agent:
            agent.add_card(provider, pin)

    def add_file(self, path: str, provider: str, *, quietly: bool) -> None:
        """A private key file on a FIDO token. ssh-add asks for its passphrase, unless `quietly`."""
        rule = {"SSH_ASKPASS_REQUIRE": "never"} if quietly else {}
        try:
            done = subprocess.run(
                ["ssh-add", "-q", "-S", provider, path],  # else the environment names one
                env={**os.environ, **rule, "SSH_AUTH_SOCK": self.path},
                stdin=subprocess.DEVNULL if quietly else None,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=quietly,  # away from the terminal, where it would ask
                timeout=ADD_TIMEOUT,
            )
        except OSError as error:
            raise AgentError(f"ssh-add, which knows such keys: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise AgentError("ssh-add takes too long") from None
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise AgentError(lines[-1] if lines else f"ssh-add: status {done.returncode}")

    def close(self) -> None:
        """Its socket and the helpers that hold the hardware go with it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        self._end()

    def _end(self) -> None:
        with self._process:  # closes its input, on which the rest depends, and waits
            assert self._process.stdin is not None
            self._process.stdin.close()
