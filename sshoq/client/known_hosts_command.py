"""KnownHostsCommand: a program that knows host keys, asked as ssh asks it.

Loaded only where one is configured. A command that cannot be run knows nothing; one that fails ends
the run, as it might have known better.
"""

import os
import subprocess

from sshoq.auth.keys import PublicKey
from sshoq.auth.known_hosts import host_with_port
from sshoq.client.log import Failure, Log
from sshoq.config.lexer import ConfigSyntaxError, split_words
from sshoq.config.options import Options
from sshoq.config.tokens import ExpansionError, expand
from sshoq.config.usage import ERROR


def ask_for_order(options: Options, log: Log) -> bytes:
    """What is known of the host before it has shown a key: of which kinds that one may be."""
    return _ask("ORDER", options.host_key_alias or options.hostname, None, options, log)


def ask_for_key(
    options: Options, address: str | None, key: PublicKey, log: Log
) -> bytes:
    """What is known of the host, and of its address if that is checked, too."""
    port = options.quic_port
    name = options.host_key_alias or host_with_port(options.hostname, port)
    output = _ask("HOSTNAME", name, key, options, log)
    if options.check_host_ip and address is not None:
        output += _ask("ADDRESS", host_with_port(address, port), key, options, log)
    return output


def _ask(reason: str, name: str, key: PublicKey | None, options: Options, log: Log) -> bytes:
    tokens = {
        **options.tokens,
        "C": options.tokens["C"],
        "f": key.fingerprint() if key else "NONE",
        "H": name,
        "I": reason,
        "K": key.base64 if key else "NONE",
        "t": key.algorithm if key else "NONE",
    }
    tag, command = f"KnownHostsCommand-{reason}", options.known_hosts_command or ""
    try:
        program, *words = split_words(command)
        argv = [program, *(expand(word, tokens, os.environ) for word in words)]
    except ExpansionError as error:
        raise Failure(*error.lines) from None
    except (ConfigSyntaxError, ValueError):
        log.error(f'KnownHostsCommand "{command}" contains invalid quotes')
        return b""
    if not program.startswith("/"):
        log.error(f"{tag} path is not absolute")
        return b""
    try:
        os.stat(program)
    except (OSError, ValueError) as error:
        log.error(f'Could not stat {tag} "{program}": {getattr(error, "strerror", error)}')
        return b""
    return _run(argv, tag, command)


def _run(argv: list[str], tag: str, command: str) -> bytes:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
        )
    except OSError as error:
        line = f"{tag} {command}: {error.strerror}"
    else:
        if done.returncode == 0:
            return done.stdout
        line = f"{tag} {command} failed, status {done.returncode}"
        if done.returncode < 0:
            line = f"{tag} {command} exited on signal {-done.returncode}"
    raise Failure(line, "KnownHostsCommand failed", level=ERROR)
