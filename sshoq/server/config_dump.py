"""Process: main [root]. The test modes `-T` and `-C`: which values hold, for all or for
one login.
"""

import os
from collections.abc import Mapping

from sshoq.config.lexer import ConfigSyntaxError, ascii_lower, parse_port_number
from sshoq.server.admission_values import show_endpoint
from sshoq.server.config import ConfigError, LoginConfig, ServerConfig
from sshoq.server.keywords import KEYWORDS, REFUSED, VOID


def dump(config: ServerConfig, login: LoginConfig) -> list[str]:
    """`-T`: the values that hold, a line each, as sshd prints them."""
    lines = [f"port {port}" for port in config.port]
    for keyword in KEYWORDS.values():
        if keyword.name == "Port" or keyword.treatment in (VOID, REFUSED):
            continue
        if keyword.name == "ListenAddress":
            lines += [f"listenaddress {show_endpoint(*end)}" for end in config.listen_endpoints()]
            continue
        value = getattr(login, keyword.attribute)
        name = ascii_lower(keyword.name)
        lines += [f"{name} {text}" for text in keyword.kind.show(value)]
    return lines


def parse_test_spec(text: str, known: Mapping[str, str]) -> dict[str, str]:
    """`-C user=…,host=…,addr=…,laddr=…,lport=…,rdomain=…`, added to what earlier ones said."""
    spec = dict(known)
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if part == "invalid-user":
            spec["invalid-user"] = "yes"
        elif not equals or name not in ("user", "host", "addr", "laddr", "lport", "rdomain"):
            raise ConfigError([f"Invalid test mode specification {part}"], 1)
        else:
            if name == "lport":
                _check_test_port(part, value)
            spec[name] = value
    return spec


def _check_test_port(part: str, value: str) -> None:
    try:
        parse_port_number(value)
    except ConfigSyntaxError:
        message = f"Invalid port '{value}' in test mode specification {part}"
        raise ConfigError([message], 1) from None


def login_for_test(config: ServerConfig, spec: Mapping[str, str]) -> LoginConfig:
    """The values for a `-C` specification; groups come from the user database."""
    user = spec.get("user")
    return config.for_connection(
        user=user,
        groups=groups_of(user) if user else (),
        host=spec.get("host"),
        address=spec.get("addr"),
        local_address=spec.get("laddr"),
        local_port=int(spec.get("lport", "-1")),
        invalid_user="invalid-user" in spec,
    )


def groups_of(user: str) -> tuple[str, ...]:
    """The names of a user's groups, () for an unknown one."""
    import grp
    import pwd

    try:
        record = pwd.getpwnam(user)
    except (KeyError, UnicodeError):
        return ()
    names = []
    for gid in os.getgrouplist(user, record.pw_gid):
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return tuple(names)
