"""The requests of one login: what each holds, and what the server's answer means.

Knows neither keys nor connections: authentication.py says what to try, online.py sends it.
"""

from sshoq.client.authentication import Reply
from sshoq.client.log import Failure, Log, printable, write_fully
from sshoq.config.options import Options
from sshoq.config.usage import INFO
from sshoq.protocol.extensions import Extension
from sshoq.protocol.request import ConnectRequest, ResponseHead
from sshoq.protocol.version import PeerTraits

KEY_PREFIX = "Bearer "
"""Of an authorization by key. Others take a server longer, so long that nobody can tell."""

MAX_NAME = 4096
"""Characters of a user's name, and of a path: both must fit a request, beside a token."""

LEGACY_USER_AGENT = "SSH 3.0 h4sh5/sshoq 0.1.5"
"""What a Go server from before the specification had a name accepts."""


class NoSuchPath(Failure):
    """There is nothing for us at the path that was asked for."""


class LoginRequests:
    """One after another, until one is accepted."""

    def __init__(self, options: Options, log: Log) -> None:
        self._options = options
        self._log = log
        self._user_agent: str | None = None
        self._banner = ""

    @property
    def place(self) -> str:
        """The server, as complaints begin with it."""
        return f"ssh: {self._options.hostname} port {self._options.quic_port}"

    def build(self, authorization: str | None) -> ConnectRequest:
        options = self._options
        if max(len(options.user), len(options.url_path)) > MAX_NAME:
            raise Failure(f"{self.place}: the user's name or the path is too long for a request")
        return self._request(options.user, authorization)

    def build_probe(self) -> ConnectRequest:
        """It names nobody, so that it may go to anybody."""
        return self._request("", None)

    def _request(self, user: str, authorization: str | None) -> ConnectRequest:
        options = self._options
        host = f"[{options.hostname}]" if ":" in options.hostname else options.hostname
        return ConnectRequest(
            authority=f"{host}:{options.quic_port}",
            path=options.url_path,
            user=user,
            authorization=authorization,
            user_agent=self._user_agent,
        )

    def judge(self, response: ResponseHead | None, traits: PeerTraits) -> Reply | None:
        """None: make the request once more, for an older server. Failure when no other would get a
        better answer."""
        if response is None:
            raise Failure(f"{self.place}: the server dropped the request without an answer")
        self._show_banner(response.banner)
        if response.status == 200:
            self._check_version(response)
            return Reply(True)
        if response.status == 403 and self._user_agent is None and _is_legacy(response):
            self._user_agent = LEGACY_USER_AGENT
            return None
        if response.status == 404:
            path = self._options.url_path
            raise NoSuchPath(f"{self.place}: no SSHOQ server at path {path} (404)")
        if response.status != 401:
            raise Failure(self._complaint(response))
        reply = Reply(False, response.methods, response.is_partial)
        if not response.challenge or not traits.supports(Extension.KEYBOARD_INTERACTIVE):
            return reply
        from sshoq.client.interview import challenge_in

        return reply._replace(challenge=challenge_in(response.challenge))

    def _complaint(self, response: ResponseHead) -> str:
        if response.status == 403:
            server = response.server or "unnamed"
            return f"{self.place}: the server refuses our version (403); it is {server}"
        return f"{self.place}: the server answered with status {response.status}"

    def _check_version(self, response: ResponseHead) -> None:
        self._log.debug(f"Remote software version {response.server}")
        if response.version is None:
            raise Failure(f"{self.place}: the server's version is missing or unreadable")
        if not response.version.is_supported:
            self._log.verbose(f"the server's version {response.server} is not known to work")

    def _show_banner(self, banner: str) -> None:
        """Once, however many tries it comes with."""
        if banner and banner != self._banner and self._log.level >= INFO:
            text = printable(banner).replace("\r", "").replace("\n", "\r\n")
            write_fully(2, text.encode("utf-8", "replace"))
        self._banner = banner or self._banner


def may_let_in(authorization: str | None) -> bool:
    """Else it only asks what is offered, or to be asked."""
    return authorization is not None and " " in authorization


def _is_legacy(response: ResponseHead) -> bool:
    return response.version is not None and not response.version.spec
