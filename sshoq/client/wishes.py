"""The options of a run as the wishes of its parts, and the one line for each wish that cannot be
granted yet.

Pure, but for the environment and the terminal it is asked to look at.
"""

from __future__ import annotations

import os

from sshoq.client.log import Failure
from sshoq.config.keywords import (
    ACCEPTED,
    DEFAULT_IDENTITIES,
    KEYS_CHANGE,
    NOT_BUILT,
    ROWS,
    TLS,
)
from sshoq.config.options import Options
from sshoq.config.patterns import match_pattern
from sshoq.config.resolve import Invocation, default_of
from sshoq.config.tokens import ExpansionError, Tokens, expand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_NAME = 256
MAX_VALUE = 16384
"""Longer variables are not sent: the protocol has no room for them."""

_NOTHING_FOLLOWS = (ACCEPTED, KEYS_CHANGE, NOT_BUILT, TLS)

_NO_BYTES = "ProxyCommand carries bytes, and QUIC needs datagrams: use ProxyJump or Transport ssh"
_NOT_YET = "{} is not supported yet by sshoq"


def not_supported(invocation: Invocation) -> str | None:
    """The line that says what this run asks for in vain; None if it can go on."""
    options = invocation.options
    asked = {
        _NO_BYTES: options.proxy_command is not None and not _leads_here(invocation),
        _NOT_YET.format("-w (Tunnel)"): options.tunnel != "no",
        _NOT_YET.format("-use-oidc"): options.use_oidc is not None,
    }
    return next((line for line, wanted in asked.items() if wanted), None)


def _leads_here(invocation: Invocation) -> bool:
    """Whether the ProxyCommand is there to put us under plain ssh, or it is us that it runs: then
    it is not for us to run."""
    words = (invocation.options.proxy_command or "").split()
    runs_us = words[:1] != [] and os.path.basename(words[0]) == "sshoq" and "--stdio" in words
    return invocation.action == "stdio" or runs_us


def without_effect(options: Options) -> list[str]:
    """A line for -v for each wish that comes to nothing, though it was said and understood."""
    lines = []
    for row in ROWS:
        wished = getattr(options, row.attribute)
        if row.quic in _NOTHING_FOLLOWS and wished not in (None, "no", default_of(row)):
            lines.append(f"{row.name}: {row.quic}")
    return lines


# --------------------------------------------------------------------------- authentication


def authentication_methods(options: Options) -> tuple[str, ...]:
    """PreferredAuthentications, without what is switched off."""
    text = options.preferred_authentications or "publickey,keyboard-interactive,password"
    if options.use_password and _has_default_keys(options):
        text = "password,publickey"  # the Go client's -use-password, when no key was named
    off = set()
    if options.pubkey_authentication == "no":
        off.add("publickey")
    if not options.password_authentication:
        off.add("password")
    if not options.kbd_interactive_authentication or not _wants_pam(options):
        off.add("keyboard-interactive")
    return tuple(method for method in text.split(",") if method not in off)


def _wants_pam(options: Options) -> bool:
    """KbdInteractiveDevices: servers have no other."""
    devices = options.kbd_interactive_devices
    return not devices or "pam" in devices.split(",")


def _has_default_keys(options: Options) -> bool:
    default = tuple(path for path, _ in DEFAULT_IDENTITIES)
    return options.identity_files == default and options.agent_public_key is None


def identity_paths(options: Options) -> tuple[str, ...]:
    """The key files, "none" left out, expanded, each once."""
    return _paths(options, options.identity_files)


def certificate_paths(options: Options) -> tuple[str, ...]:
    return _paths(options, options.certificate_files)


def _paths(options: Options, names: tuple[str, ...]) -> tuple[str, ...]:
    paths = [options.expand_path(name) for name in names if name.lower() != "none"]
    return tuple(dict.fromkeys(paths))


def updates_host_keys(options: Options) -> bool:
    """UpdateHostKeys, where there is a file to update, and somebody to be asked if need be."""
    has_file = any(file != "none" for file in options.user_known_hosts_files)
    rule = options.update_host_keys
    return has_file and rule != "no" and not (rule == "ask" and options.batch_mode)


# --------------------------------------------------------------------------- session


def environment_of(options: Options, environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """SendEnv by name, then SetEnv, which so has the last word at the server."""
    sent = [
        (name, value)
        for name, value in environ.items()
        if any(match_pattern(name, pattern) for pattern in options.send_env)
    ]
    sent += [_split_variable(text) for text in options.set_env]
    return tuple(pair for pair in sent if _fits(*pair))


def _split_variable(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _fits(name: str, value: str) -> bool:
    return 0 < len(os.fsencode(name)) <= MAX_NAME and len(os.fsencode(value)) <= MAX_VALUE


def terminal_type(options: Options, environ: Mapping[str, str]) -> str:
    """TERM of SetEnv wins over the user's own."""
    for text in options.set_env:
        name, value = _split_variable(text)
        if name == "TERM":
            return value
    return environ.get("TERM", "")


def escape_character(options: Options) -> bytes | None:
    return None if options.escape_char is None else bytes((options.escape_char,))


def local_command_text(invocation: Invocation) -> str:
    """LocalCommand with its tokens; there is no tunnel, so %T is NONE."""
    options = invocation.options
    try:
        return expand(options.local_command or "", Tokens({**options.tokens, "T": "NONE"}))
    except ExpansionError as error:
        raise Failure(*error.lines) from None


# --------------------------------------------------------------------------- forwarding


def forwarded_agent(options: Options, environ: Mapping[str, str]) -> str | None:
    """Where the agent listens that is to be taken along; None without one, as for ssh."""
    if not options.forward_agent:
        return None
    from sshoq.auth.agent import agent_path  # this module is loaded ahead of the first flight

    path = agent_path(options.forward_agent_path or options.identity_agent, environ)
    return path if path is not None and os.path.exists(path) else None


def forwarded_display(options: Options, environ: Mapping[str, str]) -> str | None:
    """DISPLAY, if the user's X display is to be taken along and there is one."""
    return environ.get("DISPLAY") or None if options.forward_x11 else None


def is_master(options: Options) -> bool:
    """Whether others may come to share our connection."""
    return options.control_path is not None and options.control_master != "no"


def forwards_anything(options: Options, agent: str | None, display: object) -> bool:
    return bool(options.local_forwards or options.remote_forwards or agent or display)
