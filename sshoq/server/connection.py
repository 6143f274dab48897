"""Process: main and monitor [root]. Whose connection it is: the addresses as main admitted them."""

from sshoq.named_tuple import NamedTuple


class ConnectionFacts(NamedTuple):
    peer_address: str
    peer_port: int
    local_address: str
    local_port: int
    peer_name: str | None = None
    """As far as it has been looked up, and leads back to the address."""

    @property
    def peer_host(self) -> str:
        """What rules for hosts are compared with, and PAM is told: with UseDNS a name."""
        return self.peer_name or self.peer_address

    @property
    def peer(self) -> str:
        """As sshd's log has it."""
        return f"{self.peer_address} port {self.peer_port}"
