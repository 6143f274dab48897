"""The command line of `~C`: forwardings added and cancelled while a session runs, and `!command`.

Loaded when it is first opened. What a line says is parsed here, in OpenSSH's words; what is done
about it is that of the forwardings. Needs EnableEscapeCommandline.
"""

import os
import subprocess
from typing import TYPE_CHECKING

from sshoq.client.log import Log
from sshoq.client.prompt import Prompter, run_with_prompts
from sshoq.config.forward_spec import Forward, parse_forward
from sshoq.config.lexer import ConfigSyntaxError, parse_port

if TYPE_CHECKING:
    from sshoq.client.forwards import Forwards

PROMPT = "\r\nssh> "

HELP = """\
Commands:
      -L[bind_address:]port:host:hostport    Request local forward
      -R[bind_address:]port:host:hostport    Request remote forward
      -D[bind_address:]port                  Request dynamic forward
      -KL[bind_address:]port                 Cancel local forward
      -KR[bind_address:]port                 Cancel remote forward
      -KD[bind_address:]port                 Cancel dynamic forward"""
LOCAL_COMMAND_HELP = "      !args                                  Execute local command"

_KINDS = {"L": "local", "R": "remote", "D": "dynamic"}


class CommandLine:
    """One for a session. `run` asks for a line and obeys it."""

    def __init__(
        self, forwards: "Forwards", prompter: Prompter, log: Log, *, permits_programs: bool
    ) -> None:
        """`permits_programs`: PermitLocalCommand."""
        self._forwards = forwards
        self._prompter = prompter
        self._log = log
        self._permits_programs = permits_programs

    async def run(self) -> None:
        """The terminal must not be in raw mode."""
        line = await run_with_prompts(self._prompter, lambda: self._prompter.answer(PROMPT))
        await self.obey(line or "")

    async def obey(self, line: str) -> None:
        line = line.strip()
        command = line.removeprefix("-")
        if not command:
            return
        if command[0] in "hH?":
            self._explain()
        elif command[0] == "!" and self._permits_programs:
            await run_with_prompts(self._prompter, lambda: _run(command[1:]))
        elif command[0] == "K" and command[1:2] in _KINDS:
            self._cancel(command[1], command[2:].strip())
        elif command[0] in _KINDS:
            await self._add(command[0], command[1:].strip())
        else:
            self._log.info("Invalid command.")

    def _explain(self) -> None:
        for text in HELP.split("\n"):
            self._log.info(text)
        if self._permits_programs:
            self._log.info(LOCAL_COMMAND_HELP)

    async def _add(self, kind: str, spec: str) -> None:
        try:
            forward = _parse(kind, spec)
        except ConfigSyntaxError:
            self._log.info(f"Bad {_KINDS[kind]} forwarding specification.")
            return
        if kind == "R":
            granted = await self._forwards.remote.add(forward) is not None
        else:
            granted = await self._forwards.local.add(forward)
        self._log.info("Forwarding port." if granted else "Port forwarding failed.")

    def _cancel(self, kind: str, spec: str) -> None:
        try:
            place = parse_place(spec)
        except ConfigSyntaxError:
            self._log.info("Bad forwarding close specification.")
            return
        forwards = self._forwards.remote if kind == "R" else self._forwards.local
        was_there = forwards.cancel(place)
        self._log.info("Canceled forwarding." if was_there else "Unknown port forwarding.")


def _parse(kind: str, spec: str) -> Forward:
    """As on the command line, where -R without a target is a remote SOCKS proxy."""
    if kind == "R":
        try:
            return parse_forward(spec, remote=True)
        except ConfigSyntaxError:
            return parse_forward(spec, dynamic=True, remote=True)
    return parse_forward(spec, dynamic=kind == "D")


def parse_place(spec: str) -> Forward:
    """[bind_address:]port, or the path of a socket."""
    if spec.startswith("/"):
        return Forward(listen_path=spec)
    host, colon, port = spec.rpartition(":")
    if colon and host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return Forward(listen_host=host if colon else None, listen_port=parse_port(port))


def _run(command: str) -> None:
    shell = os.environ.get("SHELL") or "/bin/sh"
    subprocess.run([shell, "-c", command], check=False)
