"""The request that starts a conversation, and its answers: fields of HTTP/3, built and checked.

The client sends an Extended CONNECT (RFC 9220) with the user's name in the query and the
credentials in `authorization`. Whether these are good is for others to say; here stands what is
well-formed and what each answer looks like.
"""


from sshoq.protocol.extensions import Extension
from sshoq.protocol.http3 import Fields, encode_data, encode_headers
from sshoq.protocol.outcome import Code, ProtocolError
from sshoq.protocol.version import (
    OUR_VERSION,
    PeerTraits,
    Version,
    VersionError,
    parse_version,
    refusal_of,
)
from sshoq.wire import decode_text, encode_text

PROTOCOL = "ssh3"
BANNER_FIELD = b"sshoq-banner"
"""How many bytes of banner, in UTF-8, follow as DATA; only between peers that announced BANNER."""
METHODS_FIELD = b"sshoq-methods"
"""With a 401, to peers that announced extensions: a comma list of what may be tried."""
PARTIAL_FIELD = b"sshoq-partial-success"
"""With a 401, likewise: 1 if the method has succeeded and another one is wanted besides."""
INTERACTIVE_FIELD = b"sshoq-interactive"
"""With a 401, between peers that announced KEYBOARD_INTERACTIVE: what the user is asked."""
MAX_BANNER = 128 * 1024
"""Longer ones are cut; and one message between the server's processes still holds it."""

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
_PSEUDO = frozenset({":method", ":scheme", ":path", ":authority", ":protocol"})
_ONCE = frozenset({"authorization", "user-agent"})


# --------------------------------------------------------------------------- percent encoding


def escape(text: str, *, also: bytes = b"") -> str:
    """`text` with all but letters, digits, ``-_.~`` and `also` as ``%XX`` of its UTF-8."""
    return "".join(chr(byte) if byte in _UNRESERVED or byte in also else f"%{byte:02X}"
                   for byte in encode_text(text))


def unescape(text: str) -> str:
    """The text behind ``%XX``; ValueError if a ``%`` is not followed by two hexadecimal digits."""
    first, *rest = encode_text(text).split(b"%")
    out = bytearray(first)
    for part in rest:
        digits = part[:2]
        if len(digits) < 2 or not digits.isalnum():
            raise ValueError(f"a bad escape in {text[:80]!r}")
        out.append(int(digits, 16))
        out += part[2:]
    return decode_text(bytes(out))


def query_value(query: str, key: str) -> str | None:
    """The first value of `key` in a form-encoded query; what cannot be decoded does not count."""
    for pair in query.split("&"):
        name, _, value = pair.replace("+", " ").partition("=")
        try:
            if ";" not in pair and unescape(name) == key:
                return unescape(value)
        except ValueError:
            continue
    return None


# --------------------------------------------------------------------------- request


class ConnectRequest:
    """What a client asks for. `is_ssh3` is false for what else HTTP clients may want."""

    __slots__ = ("authority", "authorization", "is_ssh3", "path", "user", "user_agent")

    def __init__(self, *, authority: str, path: str, user: str | None, authorization: str | None,
                 user_agent: str | None = None, is_ssh3: bool = True) -> None:
        self.authority = authority
        self.path = path
        self.user = user
        self.authorization = authorization
        self.user_agent = str(OUR_VERSION) if user_agent is None else user_agent
        self.is_ssh3 = is_ssh3

    def fields(self) -> list[tuple[bytes, bytes]]:
        path = escape(self.path, also=b"/:@!$&'()*+,;=")
        if self.user is not None:
            path += "?user=" + escape(self.user, also=b" ").replace(" ", "+")
        fields = {":method": "CONNECT", ":protocol": PROTOCOL, ":scheme": "https",
                  ":authority": self.authority, ":path": path}
        if self.authorization is not None:
            fields["authorization"] = self.authorization
        fields["user-agent"] = self.user_agent
        return [(name.encode(), encode_text(value)) for name, value in fields.items()]

    def encode(self) -> bytes:
        """The HEADERS frame; the stream stays open behind it."""
        return encode_headers(self.fields())

    def is_for(self, url_path: str) -> bool:
        """Exact, unless the registered path ends in a slash and so covers what is below it."""
        from hmac import compare_digest  # not needed by clients

        path = self.path[:len(url_path)] if url_path.endswith("/") else self.path
        return compare_digest(encode_text(path), encode_text(url_path))


def parse_request(fields: Fields) -> ConnectRequest:
    """ProtocolError MESSAGE_ERROR for what RFC 9114 4.1.2 calls malformed."""
    values = _check_fields(fields, _PSEUDO)
    for name in (":method", ":scheme", ":path", ":authority"):
        if not values.get(name):
            raise ProtocolError(f"a request without {name}", Code.MESSAGE_ERROR)
    path, _, query = values[":path"].partition("?")
    try:
        path = unescape(path)
    except ValueError as error:
        raise ProtocolError(str(error), Code.MESSAGE_ERROR) from None
    return ConnectRequest(
        authority=values[":authority"], path=path, user=_login_name(query),
        authorization=values.get("authorization"), user_agent=values.get("user-agent", ""),
        is_ssh3=values[":method"] == "CONNECT" and values.get(":protocol") == PROTOCOL,
    )


def _login_name(query: str) -> str | None:
    name = query_value(query, "user")
    return name if name and name.isprintable() else None


def _check_fields(fields: Fields, pseudo: frozenset[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    regular = False
    for raw_name, raw_value in fields:
        name, value = decode_text(raw_name), decode_text(raw_value)
        is_pseudo = name.startswith(":")
        regular = regular or not is_pseudo
        if is_pseudo and (regular or name not in pseudo or name in values):
            raise ProtocolError(f"field {name[:40]!r} out of place", Code.MESSAGE_ERROR)
        if not name or name != name.lower() or (name in _ONCE and name in values):
            raise ProtocolError(f"field {name[:40]!r} is malformed", Code.MESSAGE_ERROR)
        if any((c < " " and c != "\t") or c == "\x7f" for c in name + value):
            raise ProtocolError("control characters in a field", Code.MESSAGE_ERROR)
        values.setdefault(name, value)
    return values


# --------------------------------------------------------------------------- response


class Response:
    """A server's answer. `ends`: its stream ends behind it, as for all but the 200."""

    __slots__ = ("banner", "body", "extra", "status")

    def __init__(
        self, status: int, body: str = "", extra: Fields = (), banner: bytes = b""
    ) -> None:
        self.status = status
        self.body = body
        self.extra = extra
        self.banner = banner

    @property
    def ends(self) -> bool:
        return self.status != 200

    def fields(self, wall_clock: float) -> list[tuple[bytes, bytes]]:
        fields = [(b":status", b"%d" % self.status), (b"server", str(OUR_VERSION).encode()),
                  (b"date", http_date(wall_clock).encode())]
        if self.body:
            fields += [(b"content-length", b"%d" % len(encode_text(self.body))),
                       (b"content-type", b"text/plain; charset=utf-8"),
                       (b"x-content-type-options", b"nosniff")]
        if self.banner:
            fields.append((BANNER_FIELD, b"%d" % len(self.banner)))
        return [*fields, *self.extra]

    def encode(self, wall_clock: float) -> bytes:
        content = self.banner or encode_text(self.body)
        data = encode_data(content) if content else b""
        return encode_headers(self.fields(wall_clock)) + data


NOT_FOUND = Response(404, "404 page not found\n")
UNAUTHORIZED = Response(401)
TOO_EARLY = Response(425)
FAILED = Response(500)


def accepted(traits: PeerTraits, banner: str = "") -> Response:
    """The login succeeded. The banner goes to clients that announced that they show one."""
    return Response(200, banner=_banner_for(traits, banner))


def refused(
    traits: PeerTraits,
    banner: str = "",
    methods: str = "",
    *,
    is_partial: bool = False,
    challenge: str = "",
) -> Response:
    """These credentials do not let in. sshd shows its banner ahead of the first try, too.

    Clients of ours are told what might let in, as RFC 4252 5.1 has it: publickey, password. And
    what the user is asked, if that is how it goes on.
    """
    told = [] if traits.is_go else [(METHODS_FIELD, encode_text(methods))]
    if told and is_partial:
        told.append((PARTIAL_FIELD, b"1"))
    if challenge and traits.supports(Extension.KEYBOARD_INTERACTIVE):
        told.append((INTERACTIVE_FIELD, encode_text(challenge)))
    return Response(401, extra=told, banner=_banner_for(traits, banner))


def _banner_for(traits: PeerTraits, banner: str) -> bytes:
    return encode_text(banner)[:MAX_BANNER] if traits.supports(Extension.BANNER) else b""


def refuse_request(request: ConnectRequest, url_path: str) -> Response | None:
    """The answer that needs no look at the credentials; None if they have to be looked at.

    Whatever is not for our path, in our protocol, gets the answer of a server that knows nothing of
    ssh.
    """
    if not request.is_ssh3 or not request.is_for(url_path):
        return NOT_FOUND
    refusal = refusal_of(request.user_agent)
    if refusal is not None:
        return Response(403, refusal)
    return UNAUTHORIZED if request.user is None else None


class ResponseHead:
    """A server's answer as the client sees it."""

    __slots__ = (
        "banner", "banner_size", "challenge", "is_partial", "methods", "server", "status", "version"
    )

    def __init__(
        self,
        status: int,
        server: str,
        version: Version | None,
        banner_size: int = 0,
        methods: tuple[str, ...] | None = None,
        is_partial: bool = False,
        challenge: str = "",
    ) -> None:
        self.status = status
        self.server = server
        """The text of the `server` field."""
        self.version = version
        """None if that text is no version."""
        self.banner_size = banner_size
        self.banner = ""
        """Filled in once that many bytes of DATA are here."""
        self.methods = methods
        """What may be tried after a 401; None from a server that does not say."""
        self.is_partial = is_partial
        """The method of the 401 has succeeded; it is not enough."""
        self.challenge = challenge
        """What the user is asked, still encoded."""


def parse_response(fields: Fields) -> ResponseHead:
    values = _check_fields(fields, frozenset({":status"}))
    status = values.get(":status", "")
    if len(status) != 3 or not (status.isascii() and status.isdigit()):
        raise ProtocolError("a response without a status", Code.MESSAGE_ERROR)
    server = values.get("server", "")
    try:
        version = parse_version(server)
    except VersionError:
        version = None
    methods = values.get(METHODS_FIELD.decode())
    told = None if methods is None else tuple(filter(None, methods.split(",")))
    is_partial = values.get(PARTIAL_FIELD.decode()) == "1"
    challenge = values.get(INTERACTIVE_FIELD.decode(), "")
    return ResponseHead(
        int(status), server, version, _banner_size(values), told, is_partial, challenge
    )


def _banner_size(values: dict[str, str]) -> int:
    text = values.get(BANNER_FIELD.decode(), "0")
    size = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else MAX_BANNER + 1
    if size > MAX_BANNER:
        raise ProtocolError(f"a banner of {text[:20]} bytes", Code.EXCESSIVE_LOAD)
    return size


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(wall_clock: float) -> str:
    """RFC 9110 5.6.7, whatever the locale says."""
    from datetime import UTC, datetime  # not needed by clients

    t = datetime.fromtimestamp(wall_clock, UTC)
    return f"{_DAYS[t.weekday()]}, {t.day:02} {_MONTHS[t.month - 1]} {t.year} {t:%H:%M:%S} GMT"
