"""Which of its keys the server is asked to show: one that it is known by.

A server with several keys shows one of them, and any other than the recorded one counts as changed.
So what is recorded is looked up before the first packet leaves, as ssh does it; whether the key
that then comes is the right one is decided in trust.py.
"""

import os

from sshoq.auth.known_hosts import KnownHosts, KnownHostsError, host_with_port, read_go_pins
from sshoq.client.log import Log
from sshoq.config.algorithms import DEFAULT_KEYS
from sshoq.config.options import Options
from sshoq.transport.identity import SSH_SCHEMES

_KEYS = {"rsa-sha2-512": "ssh-rsa", "rsa-sha2-256": "ssh-rsa"}
_KEYS |= {algorithm: algorithm for algorithm in SSH_SCHEMES if algorithm != "ssh-rsa"}
"""From the names in HostKeyAlgorithms to the keys; "ssh-rsa" there means signatures with SHA-1."""


def preferred_schemes(options: Options, log: Log) -> tuple[int, ...]:
    """For `Engine.client`, most wanted first; () where the server's own choice will do."""
    if options.insecure or _is_pinned(options):
        return ()
    names = options.host_key_algorithms.split(",")
    wanted = list(dict.fromkeys(_KEYS[name] for name in names if name in _KEYS))
    if _is_in_default_order(names):  # an order of the user's own is kept, as ssh keeps it
        recorded = _recorded_algorithms(options, log)
        wanted.sort(key=lambda algorithm: algorithm not in recorded)
    schemes = [SSH_SCHEMES[algorithm] for algorithm in wanted]
    return () if schemes == [*SSH_SCHEMES.values()] else tuple(schemes)


def _is_pinned(options: Options) -> bool:
    """A certificate was pinned as the server shows it to those who ask for nothing."""
    path = os.path.join(options.config_dir, "known_hosts")
    pins = read_go_pins(path, options.hostname, options.quic_port, options.url_path)
    return bool(options.server_certificate or pins)


def _is_in_default_order(names: list[str]) -> bool:
    places = [DEFAULT_KEYS.index(name) for name in names if name in DEFAULT_KEYS]
    return places == sorted(places)


def _recorded_algorithms(options: Options, log: Log) -> list[str]:
    """None where the files cannot be read: that ends the run when the key is to be judged."""
    host = options.hostname.lower()
    names = [host_with_port(host, options.quic_port), host]
    if options.host_key_alias:
        names = [options.host_key_alias.lower()]
    files = [*options.user_known_hosts_files, *options.global_known_hosts_files]
    try:
        known = KnownHosts.from_files(file for file in files if file != "none")
        if options.known_hosts_command:
            from sshoq.client.known_hosts_command import ask_for_order

            known.add_text("KnownHostsCommand", ask_for_order(options, log))
    except KnownHostsError:
        return []
    return known.key_algorithms(*names)
