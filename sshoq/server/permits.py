"""Process: session leader [the user]. What of forwarding a login may have.

sshd_config and the key's options must both allow it. Names are compared as they are written, as
sshd does: what they stand for may change between the check and the use.
"""

from sshoq.auth.authorized_keys import Permission
from sshoq.config.lexer import parse_port_number
from sshoq.listening import addresses_for
from sshoq.server.privsep import Dial
from sshoq.server.rights import LoginRights

FIRST_UNPRIVILEGED_PORT = 1024
ANY_HOST = "*"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Permits:
    """The answers for one login."""

    def __init__(self, rights: LoginRights) -> None:
        config, key = rights.config, rights.key
        self._is_root = rights.account.uid == 0
        self._forwards = (
            not config.disable_forwarding
            and not rights.must_change_password
            and (key is None or key.port_forwarding)
        )
        self._tcp: str = config.allow_tcp_forwarding
        self._unix: str = config.allow_stream_local_forwarding
        self._open = _permissions(config.permit_open)
        self._listen = _permissions(config.permit_listen)
        self._key_open = key.permit_open if key is not None and key.permit_open else None
        self._key_listen = key.permit_listen if key is not None and key.permit_listen else None
        self._gateway: str = config.gateway_ports
        self.agent: bool = (
            config.allow_agent_forwarding
            and not config.disable_forwarding
            and not rights.must_change_password
            and (key is None or key.agent_forwarding)
        )

    def may_dial(self, kind: int, host: str, port: int) -> bool:
        if not self._forwards:
            return False
        if kind == Dial.UNIX:
            return self._unix in ("yes", "local")
        return (
            self._tcp in ("yes", "local")
            and _allows(self._open, host, port)
            and _allows(self._key_open, host, port)
        )

    def may_listen(self, kind: int, host: str, port: int) -> bool:
        if not self._forwards:
            return False
        if kind == Dial.UNIX:
            return self._unix in ("yes", "remote")
        if port and port < FIRST_UNPRIVILEGED_PORT and not self._is_root:
            return False
        return (
            self._tcp in ("yes", "remote")
            and _allows_listening(self._listen, host, port)
            and _allows_listening(self._key_listen, host, port)
        )

    def listen_addresses(self, host: str) -> tuple[str, ...]:
        """GatewayPorts: what becomes of the address that the client asked for."""
        if self._gateway == "yes":
            return addresses_for("", gateway=True)
        if self._gateway == "no" and host not in _LOOPBACK:
            return addresses_for(None, gateway=False)
        return addresses_for(host, gateway=False)


def _permissions(words: tuple[str, ...]) -> list[Permission] | None:
    """PermitOpen or PermitListen; None: anything."""
    if words == ("any",):
        return None
    if words == ("none",):
        return []
    return [_permission(word) for word in words]


def _permission(word: str) -> Permission:
    host, _, port = word.rpartition(":")
    if host.startswith("["):
        host = host[1:-1]
    return Permission(host, 0 if port == "*" else parse_port_number(port))


def _allows(permissions: list[Permission] | None, host: str, port: int) -> bool:
    return permissions is None or any(
        one.host in (ANY_HOST, host) and one.port in (0, port) for one in permissions
    )


def _allows_listening(permissions: list[Permission] | None, host: str, port: int) -> bool:
    """Loopback is one place, however it is written."""
    return permissions is None or any(
        (one.host in (ANY_HOST, host) or (one.host in _LOOPBACK and host in _LOOPBACK))
        and one.port in (0, port)
        for one in permissions
    )
