"""Process: session leader [the user]. What of forwarding a login may have.

sshd_config and the key's options must both allow it.
"""

from sshoq.config.permitted import LOOPBACK, may_listen, may_open, parse_places
from sshoq.listening import addresses_for, is_multicast
from sshoq.server.privsep import Dial
from sshoq.server.rights import LoginRights

FIRST_UNPRIVILEGED_PORT = 1024
MAX_PORT = 65535
"""The resolver would take port 65616 for port 80, past whatever was compared."""


class Permits:
    """The answers for one login."""

    def __init__(self, rights: LoginRights) -> None:
        config, key = rights.config, rights.key
        self._is_root = rights.account.uid == 0
        forwards = not config.disable_forwarding and not rights.must_change_password
        self._forwards = forwards and (key is None or key.port_forwarding)
        self._tcp: str = config.allow_tcp_forwarding
        self._unix: str = config.allow_stream_local_forwarding
        self._open = parse_places(config.permit_open)
        self._listen = parse_places(config.permit_listen)
        self._key_open = key.permit_open if key is not None and key.permit_open else None
        self._key_listen = key.permit_listen if key is not None and key.permit_listen else None
        self._gateway: str = config.gateway_ports
        self.agent: bool = (
            forwards and config.allow_agent_forwarding and (key is None or key.agent_forwarding)
        )
        self.x11: bool = (
            forwards and config.x11_forwarding and (key is None or key.x11_forwarding)
        )

    def may_dial(self, kind: int, host: str, port: int) -> bool:
        if not self._forwards or port > MAX_PORT:
            return False
        if kind == Dial.UNIX:
            # With a zero byte it is no path but an abstract socket: those are in every chroot, too.
            return self._unix in ("yes", "local") and "\0" not in host
        return (
            self._tcp in ("yes", "local")
            and may_open(self._open, host, port)
            and may_open(self._key_open, host, port)
        )

    def may_listen(self, kind: int, host: str, port: int) -> bool:
        if not self._forwards or port > MAX_PORT:
            return False
        if kind == Dial.UNIX:
            return self._unix in ("yes", "remote")
        if port and port < FIRST_UNPRIVILEGED_PORT and not self._is_root:
            return False
        return (
            self._tcp in ("yes", "remote")
            and may_listen(self._listen, host, port)
            and may_listen(self._key_listen, host, port)
        )

    def listen_addresses(self, host: str) -> tuple[str, ...]:
        """GatewayPorts: what becomes of the address that the client asked for. A group of
        multicast has no other address that would do."""
        if self._gateway == "yes" and not is_multicast(host):
            return addresses_for("", gateway=True)
        if self._gateway == "no" and host not in LOOPBACK:
            return addresses_for(None, gateway=False)
        return addresses_for(host, gateway=False)
