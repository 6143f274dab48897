"""Process: main and monitor [root]. Whose connection it is: the addresses as main admitted them."""

from typing import NamedTuple


class ConnectionFacts(NamedTuple):
    peer_address: str
    peer_port: int
    local_address: str
    local_port: int
