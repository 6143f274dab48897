"""SOCKS 4, 4a and 5 (RFC 1928) from the proxy's side, for dynamic forwards.

Pure: bytes in, answers out. Only CONNECT and no authentication, as in OpenSSH. What is asked for is
the caller's to open, and then to answer with `granted` or `failed`.
"""


from sshoq.named_tuple import NamedTuple
from sshoq.wire import Incomplete, Reader

MAX_REQUEST = 1024
"""The longest request there can be: SOCKS 4a with a user and a host of 255 bytes each, and room."""

MAX_NAME = 255

CONNECT = 1
NO_AUTHENTICATION = 0
NO_METHOD = 0xFF

_GRANTED_4, _FAILED_4 = b"\0\x5a", b"\0\x5b"
_NOWHERE_4 = bytes(6)
_GRANTED_5, _FAILED_5 = 0, 1
_NOT_ALLOWED_5, _REFUSED_5, _NO_COMMAND_5, _NO_FAMILY_5 = 2, 5, 7, 8
_NOWHERE_5 = b"\0\x01" + bytes(6)


class SocksError(Exception):
    """The client does not speak SOCKS, or asks for what is not done; `answer` is the last word."""

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.answer = answer


class SocksTarget(NamedTuple):
    host: str
    port: int


class SocksState:
    """One connection of a client to the proxy, up to its request."""

    def __init__(self) -> None:
        self.target: SocksTarget | None = None
        """Where to, once it is known."""
        self._held = b""
        self._version = 0
        self._greeted = False

    @property
    def rest(self) -> bytes:
        """What came behind the request, and is for the target."""
        return self._held if self.target is not None else b""

    def receive(self, data: bytes | memoryview) -> bytes:
        """More of the client's bytes; what to answer now. SocksError ends it."""
        self._held += bytes(data)
        answer = b""
        while self.target is None and self._held:
            reader = Reader(self._held)
            try:
                answer += self._read(reader)
            except Incomplete:
                if len(self._held) > MAX_REQUEST:
                    raise SocksError("too long a request") from None
                break
            self._held = self._held[reader.position:]
        return answer

    def _read(self, reader: Reader) -> bytes:
        version = self._version or reader.data[0]
        if version == 4:
            self._version = 4
            self._read_4(reader)
            return b""
        if version != 5:
            raise SocksError(f"SOCKS version {version}")
        self._version = 5
        if not self._greeted:
            return self._read_greeting(reader)
        self._read_5(reader)
        return b""

    def _read_4(self, reader: Reader) -> None:
        reader.take(1)
        command, port, raw = reader.u8(), reader.u16(), reader.take(4)
        _read_zero_ended(reader)  # the user's name
        host = ".".join(str(byte) for byte in raw)
        if raw[:3] == b"\0\0\0" and raw[3]:  # 4a: a name follows
            host = _read_zero_ended(reader)
        if command != CONNECT:
            raise SocksError(f"SOCKS 4 command {command}", _FAILED_4 + _NOWHERE_4)
        self.target = SocksTarget(_checked(host, _FAILED_4 + _NOWHERE_4), port)

    def _read_greeting(self, reader: Reader) -> bytes:
        reader.take(1)
        methods = reader.take(reader.u8())
        if NO_AUTHENTICATION not in methods:
            raise SocksError("SOCKS 5 with authentication only", bytes((5, NO_METHOD)))
        self._greeted = True
        return bytes((5, NO_AUTHENTICATION))

    def _read_5(self, reader: Reader) -> None:
        version, command, _, family = (reader.u8() for _ in range(4))
        if version != 5:
            raise SocksError(f"SOCKS version {version} in a request")
        if command != CONNECT:
            raise SocksError(f"SOCKS 5 command {command}", _answer_5(_NO_COMMAND_5))
        host = _read_host_5(reader, family)
        self.target = SocksTarget(_checked(host, _answer_5(_FAILED_5)), reader.u16())

    def granted(self) -> bytes:
        """The connection stands."""
        return _GRANTED_4 + _NOWHERE_4 if self._version == 4 else _answer_5(_GRANTED_5)

    def failed(self, *, is_prohibited: bool = False) -> bytes:
        """It does not, or may not."""
        if self._version == 4:
            return _FAILED_4 + _NOWHERE_4
        return _answer_5(_NOT_ALLOWED_5 if is_prohibited else _REFUSED_5)


def _answer_5(code: int) -> bytes:
    return bytes((5, code)) + _NOWHERE_5


def _read_zero_ended(reader: Reader) -> str:
    end = bytes(reader.data).find(b"\0", reader.position)
    if end < 0:
        raise Incomplete("a text that goes on")
    raw = reader.take(end - reader.position + 1)[:-1]
    if len(raw) > MAX_NAME:
        raise SocksError("a name of more than 255 bytes", _FAILED_4 + _NOWHERE_4)
    return raw.decode("utf-8", "surrogateescape")


def _read_host_5(reader: Reader, family: int) -> str:
    if family == 1:
        return ".".join(str(byte) for byte in reader.take(4))
    if family == 3:
        return reader.take(reader.u8()).decode("utf-8", "surrogateescape")
    if family == 4:
        from ipaddress import IPv6Address  # rare, and slow to load

        return str(IPv6Address(reader.take(16)))
    raise SocksError(f"SOCKS 5 address family {family}", _answer_5(_NO_FAMILY_5))


def _checked(host: str, answer: bytes) -> str:
    if not host or "\0" in host:
        raise SocksError("no host", answer)
    return host
