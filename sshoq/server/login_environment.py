"""Process: session leader [the user]. Where the variables of a login's programs come from: the
client, the key that let the user in, the user's own file, PAM and the configuration.

Which of them wins is told in environment.py.
"""

import contextlib
import functools
import os
from collections.abc import Iterable

from sshoq.server import log
from sshoq.server.environment import (
    EnvironmentSources,
    Variable,
    accept_client_variables,
    build_environment,
    parse_login_defaults,
    split_variable,
)
from sshoq.server.program import read_user_environment
from sshoq.server.rights import LoginRights
from sshoq.server.session import Request, Session
from sshoq.wire import decode_text, encode_text

LOGIN_DEFAULTS = "/etc/default/login"


class LoginEnvironment:
    """Of all programs of one login."""

    def __init__(self, rights: LoginRights) -> None:
        self._rights = rights
        self._login_file: str | None = None

    def of(
        self,
        session: Session,
        asked: Request,
        sent: Iterable[bytes],
        agent_socket: str | None,
    ) -> dict[bytes, bytes]:
        """For what `asked` is, in this session."""
        rights = self._rights
        config = rights.config
        environment = build_environment(
            EnvironmentSources(
                rights.account,
                rights.connection,
                client=accept_client_variables(sent, config.accept_env),
                path=_configured_path(rights.account.uid),
                mail=not config.use_pam,
                time_zone=os.environ.get("TZ"),
                terminal=session.term if session.pty is not None else None,
                display=session.display.name if session.display is not None else None,
                agent_socket=agent_socket,
                key=self._key_environment(),
                file=self._file_environment(),
                pam=tuple(filter(None, map(split_variable, rights.pam_environment))),
                configured=tuple(
                    filter(None, (split_variable(encode_text(text)) for text in config.set_env))
                ),
                tty=session.pty.name if session.pty is not None else None,
                original_command=None if asked.original is None else encode_text(asked.original),
            )
        )
        if config.expose_auth_info and (path := self._expose_login()) is not None:
            environment[b"SSH_USER_AUTH"] = os.fsencode(path)
        return environment

    def _key_environment(self) -> tuple[Variable, ...]:
        key = self._rights.key
        if key is None:
            return ()
        return tuple(
            (encode_text(name), encode_text(value))
            for name, value in key.environment.items()
            if self._rights.config.accepts_user_environment(name)
        )

    def _file_environment(self) -> tuple[Variable, ...]:
        if not self._rights.config.permit_user_environment:
            return ()
        variables, bad = read_user_environment(self._rights.account)
        for number in bad:
            log.info(f"Bad line {number} in {self._rights.account.home}/.ssh/environment")
        accepts = self._rights.config.accepts_user_environment
        return tuple(one for one in variables if accepts(decode_text(one[0])))

    def _expose_login(self) -> str | None:
        """SSH_USER_AUTH: a file that says how the user got in; made for the first program."""
        if self._login_file is None:
            try:
                self._login_file = _write_login_file(f"{self._rights.authentication}\n")
            except OSError as error:
                log.error(f"cannot make the file for SSH_USER_AUTH: {error}")
        return self._login_file

    def remove(self) -> None:
        """The file, if there is one."""
        if self._login_file is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._login_file)


@functools.cache
def _configured_path(uid: int) -> str | None:
    try:
        with open(LOGIN_DEFAULTS, encoding="utf-8", errors="surrogateescape") as file:
            settings = parse_login_defaults(file.read())
    except OSError:
        return None
    return settings.get("SUPATH" if uid == 0 else "PATH")


def _write_login_file(text: str) -> str:
    path = f"/tmp/sshauth.{os.urandom(12).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    return path
