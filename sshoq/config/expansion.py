"""Filling tokens, variables and home directories into the values of a finished configuration.

The order is OpenSSH's, as it decides which complaint the user gets to see.
"""

from __future__ import annotations

import os

from sshoq.config.destination import is_safe_user
from sshoq.config.forward_spec import Forward
from sshoq.config.keywords import Settings
from sshoq.config.match import last_hop
from sshoq.config.surroundings import Surroundings
from sshoq.config.tokens import ExpansionError, Tokens, expand, expand_tilde
from sshoq.config.usage import Notes

TYPE_CHECKING = False  # what type checkers take for true; "collections" itself costs 1.5 ms
if TYPE_CHECKING:
    from collections.abc import Mapping


class Expander:
    """Expands settings in place. Every mistake ends the run."""

    def __init__(self, settings: Settings, surroundings: Surroundings, notes: Notes) -> None:
        self.settings = settings
        self.surroundings = surroundings
        self.notes = notes
        self.tokens = Tokens()

    def run(self, host: str, typed_host: str, user_is_default: bool) -> None:
        """Expand everything that -G shows expanded."""
        settings = self.settings
        self.tokens = self._make_tokens(host, typed_host)
        if not user_is_default:
            self._expand_user()
            self.tokens = self._make_tokens(host, typed_host)
        self._expand_text("remote_command", environ=False)
        for attribute in ("control_path", "identity_agent", "forward_agent_path"):
            self._expand_path(attribute)
        self._check_forwarded_agent()
        self._expand_host_files()
        revoked = settings["revoked_host_keys"]
        assert isinstance(revoked, tuple)
        settings["revoked_host_keys"] = tuple(self.path(path) for path in revoked)
        self._expand_variables()
        self._expand_text("version_addendum", environ=True)
        self._expand_forwards("local_forwards")
        self._expand_forwards("remote_forwards")

    def expand(self, text: str, tokens: Mapping[str, str], *, environ: bool = False) -> str:
        """One value; with environ its ${VARIABLES}, too."""
        try:
            return expand(text, tokens, self.surroundings.environ if environ else None)
        except ExpansionError as error:
            raise self.notes.fatal(*error.lines) from None

    def path(self, text: str) -> str:
        """A file name with everything that may stand in one."""
        try:
            text = expand_tilde(text, self.surroundings.home, self.surroundings.home_of)
        except ExpansionError as error:
            raise self.notes.fatal(*error.lines) from None
        return self.expand(text, self.tokens, environ=True)

    def _make_tokens(self, host: str, typed_host: str) -> Tokens:
        settings = self.settings
        alias = settings["host_key_alias"]
        jump = settings["proxy_jump"]
        return Tokens(
            d=self.surroundings.home,
            h=host,
            i=str(self.surroundings.uid),
            j=last_hop(jump) if isinstance(jump, str) else "",
            k=alias if isinstance(alias, str) else typed_host,
            L=self.surroundings.host.partition(".")[0],
            l=self.surroundings.host,
            n=typed_host,
            p=str(settings["port"]),
            r=str(settings["user"]),
            u=self.surroundings.user,
        )

    def _expand_user(self) -> None:
        """A name that expansion has changed is checked as one from the command line is."""
        user = str(self.settings["user"])
        expanded = self.expand(user, self.tokens.without("rC"), environ=True)
        if expanded != user and not is_safe_user(expanded):
            raise self.notes.fatal("remote username contains invalid characters")
        self.settings["user"] = expanded

    def _expand_text(self, attribute: str, *, environ: bool) -> None:
        value = self.settings[attribute]
        if isinstance(value, str):
            self.settings[attribute] = self.expand(value, self.tokens, environ=environ)

    def _expand_path(self, attribute: str) -> None:
        value = self.settings[attribute]
        if isinstance(value, str):
            self.settings[attribute] = self.path(value)

    def _check_forwarded_agent(self) -> None:
        path = self.settings["forward_agent_path"]
        if not isinstance(path, str):
            return
        try:
            os.stat(path)
        except OSError as error:
            complaint = f'Cannot forward agent socket path "{path}": {error.strerror}'
            self.notes.error(complaint)
            if self.settings["exit_on_forward_failure"]:
                raise self.notes.fatal() from None

    def _expand_host_files(self) -> None:
        """The word "none" empties both lists; the system's files have no tokens."""
        for attribute in ("global_known_hosts_files", "user_known_hosts_files"):
            files = self.settings[attribute]
            assert isinstance(files, tuple)
            if files and files[0].lower() == "none":
                self.settings[attribute] = files = ()
            if attribute.startswith("user"):
                self.settings[attribute] = tuple(self.path(file) for file in files)

    def _expand_variables(self) -> None:
        variables = self.settings["set_env"]
        assert isinstance(variables, tuple)
        expanded = []
        for variable in variables:
            name, _, value = variable.partition("=")
            expanded.append(f"{name}={self.expand(value, self.tokens, environ=True)}")
        self.settings["set_env"] = tuple(expanded)

    def _expand_forwards(self, attribute: str) -> None:
        forwards = self.settings[attribute]
        assert isinstance(forwards, tuple)
        self.settings[attribute] = tuple(self._expanded_forward(forward) for forward in forwards)

    def _expanded_forward(self, forward: Forward) -> Forward:
        if forward.listen_path is None and forward.connect_path is None:
            return forward
        return forward.with_paths(
            self._optional(forward.listen_path), self._optional(forward.connect_path)
        )

    def _optional(self, text: str | None) -> str | None:
        return None if text is None else self.expand(text, self.tokens)
