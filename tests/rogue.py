"""A peer that breaks the rules: what is under an engine, and packets that no engine would send."""

from aioquic import tls
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder

from sshoq.transport.quic import Connection
from tests.link import Side


def internal(side: Side) -> Connection:
    """The library's connection inside an engine, for tests that play a peer who breaks the
    rules."""
    return side.engine._connection


def forge(side: Side, frames: bytes) -> bytes:
    """A 1-RTT datagram of that side with whatever frames."""
    connection = internal(side)
    builder = QuicPacketBuilder(
        host_cid=connection.host_cid,
        peer_cid=connection._peer_cid.cid,
        version=connection._version or 0,
        is_client=connection._is_client,
        max_datagram_size=4000,
        packet_number=connection._packet_number,
    )
    builder.start_packet(QuicPacketType.ONE_RTT, connection._cryptos[tls.Epoch.ONE_RTT])
    builder._buffer.push_bytes(frames)
    datagrams, _ = builder.flush()
    connection._packet_number = builder.packet_number
    return datagrams[0]
