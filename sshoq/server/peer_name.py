"""Process: monitor [root]. The name of the host that a connection comes from (UseDNS).

A name is believed only if it leads back to the address: whoever has an address may have it called
what he likes. Waits for the resolver as long as that waits; LoginGraceTime ends the whole process.
"""

import socket

from sshoq.server import log


def find_name(address: str) -> str:
    """The name in lower case, or the address itself. In sshd's steps and words."""
    log.debug(f"Trying to reverse map address {address}.", log.DEBUG3)
    try:
        name, _ = socket.getnameinfo((address, 0), socket.NI_NAMEREQD)
    except (OSError, UnicodeError):
        return address
    if _is_numeric(name):  # else 192.0.2.1 could call itself 198.51.100.7
        log.info(f'Nasty PTR record "{name}" is set up for {address}, ignoring')
        return address
    name = name.lower()
    try:
        back = _addresses_of(name, address)
    except (OSError, UnicodeError):
        log.info(f"reverse mapping checking getaddrinfo for {name} [{address}] failed.")
        return address
    if address not in back:
        log.info(
            f"Address {address} maps to {name}, but this does not map back to the address."
        )
        return address
    return name


def _is_numeric(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


def _addresses_of(name: str, address: str) -> set[str]:
    """Of the same family; the texts are the kernel's, as that of `address` is."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    return {str(sockaddr[0]) for _, _, _, _, sockaddr in found}
