"""Process: monitor [root]. One PAM transaction, from start to end, in the order in which sshd goes
through it.

One monitor is one PAM session, and the user's processes descend from it: pam_loginuid, pam_limits,
pam_keyinit and pam_systemd mark the process that calls open_session. What modules say is kept for
the banner and the login message. ctypes, for the reason given in libc.py; python-pam serves no
module that talks while a session opens.
"""

import ctypes
import functools
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_void_p
from typing import Any, Protocol

from sshoq.auth.interactive import clip
from sshoq.server.connection import ConnectionFacts
from sshoq.server.libc import libc
from sshoq.wire import decode_text, encode_text

SUCCESS, BUFFER_ERROR, NEW_PASSWORD_REQUIRED, CONVERSATION_ERROR = 0, 5, 12, 19
_DISALLOW_NULL_PASSWORD, _ESTABLISH, _DELETE, _SILENT = 0x1, 0x2, 0x4, 0x8000
_CHANGE_EXPIRED = 0x20
_USER, _TTY, _RHOST = 2, 3, 4
_PROMPT_ECHO_OFF, _PROMPT_ECHO_ON, _ERROR_MESSAGE, _TEXT_MESSAGE = 1, 2, 3, 4
_MAX_PROMPTS = 32

MAX_MESSAGES = 64 * 1024
"""Bytes that modules may say between two showings: a long motd, and no more."""


RULE_FOLDERS = ("/etc/pam.d", "/usr/etc/pam.d", "/usr/lib/pam.d", "/usr/share/pam.d")
"""Where PAM's rules are, here or there. The first is missing where all of them are in one file."""


def missing_rules(service: str) -> str | None:
    """Main: what to log if nobody has written rules for the service. PAM says nothing of it."""
    own = [f"{folder}/{service.lower()}" for folder in RULE_FOLDERS]
    if not os.path.isdir(RULE_FOLDERS[0]) or any(map(os.path.exists, own)):
        return None
    return f'PAM service "{service}" has no file in {RULE_FOLDERS[0]}: the rules of "other" hold'


class PamError(Exception):
    """PAM does not work, or a module says no where that ends the login."""


class Answering(Protocol):
    """Whoever stands between the modules and the user."""

    def ask(self, text: str, *, is_shown: bool) -> bytes:
        """The user's answer. PamError if there is none; anything else ends the whole try."""

    def tell(self, text: str) -> None: ...


class _Message(ctypes.Structure):
    _fields_ = (("style", c_int), ("text", c_char_p))


class _Response(ctypes.Structure):
    _fields_ = (("text", c_void_p), ("code", c_int))


_Converse = ctypes.CFUNCTYPE(
    c_int, c_int, POINTER(POINTER(_Message)), POINTER(POINTER(_Response)), c_void_p
)


class _Conversation(ctypes.Structure):
    _fields_ = (("converse", _Converse), ("data", c_void_p))


_STEPS = (
    "authenticate", "acct_mgmt", "chauthtok", "setcred", "open_session", "close_session", "end"
)  # fmt: skip


@functools.cache
def load_library() -> ctypes.CDLL:
    """libpam, with its signatures. PamError if there is none. Main calls it early, for all
    monitors."""
    try:
        library = ctypes.CDLL("libpam.so.0")
    except OSError as error:
        raise PamError(str(error)) from None
    handle = c_void_p
    library.pam_start.argtypes = (c_char_p, c_char_p, POINTER(_Conversation), POINTER(handle))
    for name in _STEPS:
        getattr(library, f"pam_{name}").argtypes = (handle, c_int)
    library.pam_set_item.argtypes = (handle, c_int, c_char_p)
    library.pam_get_item.argtypes = (handle, c_int, POINTER(c_char_p))
    library.pam_putenv.argtypes = (handle, c_char_p)
    library.pam_getenvlist.argtypes = (handle,)
    library.pam_getenvlist.restype = POINTER(c_void_p)
    library.pam_strerror.argtypes = (handle, c_int)
    library.pam_strerror.restype = c_char_p
    # The answers are freed by the modules, so they must be the C library's memory.
    libc.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
    libc.calloc.restype = c_void_p
    libc.strdup.argtypes = (c_char_p,)
    libc.strdup.restype = c_void_p
    libc.free.argtypes = (c_void_p,)
    return library


class PamTransaction:
    """From pam_start to pam_end. `last` is the last answer that PAM gave."""

    def __init__(self, service: str, user: str, connection: ConnectionFacts) -> None:
        self._library = load_library()
        self._user = user
        self._messages: list[str] = []
        self._room = MAX_MESSAGES
        self._password: bytes | None = None
        self._answering: Answering | None = None
        self._failure: BaseException | None = None
        """What `_answering` has raised, while it is on its way around the modules."""
        self._silent = False
        self._is_account_open: bool | None = None
        self.must_change_password = False
        """After check_account: the password has expired, so passwd is all that may run."""
        self._has_credentials = self._has_session = self._authenticated = False
        # Both must live as long as the handle: the library keeps pointers to them.
        self._callback = _Converse(self._converse)
        self._conversation = _Conversation(self._callback, None)
        self._handle = c_void_p()
        self.last = self._library.pam_start(
            os.fsencode(service), os.fsencode(user), byref(self._conversation), byref(self._handle)
        )
        if self.last != SUCCESS:
            raise PamError(f"initialisation failed: {self.explain()}")
        self._set_item(_RHOST, connection.peer_host)
        # Some modules will not work without a terminal's name; none is known yet. As sshd.
        self._set_item(_TTY, "ssh")
        self._put(
            f"SSH_CONNECTION={connection.peer_address} {connection.peer_port} "
            f"{connection.local_address} {connection.local_port}"
        )

    # ------------------------------------------------------------------ the steps

    def authenticate(self, password: bytes, *, allow_empty: bool) -> bool:
        """Whether the modules take the password for this user's."""
        if b"\0" in password:  # in C it would end there
            return False
        self._password = password
        try:
            return self._authenticate(allow_empty)
        finally:
            self._password = None

    def interview(self, answering: Answering, *, allow_empty: bool, may_succeed: bool) -> bool:
        """Whether the modules are content with what the user answers to all that they ask, be it
        for a new password in the place of one that has expired. Unless it `may_succeed`, nothing
        follows the first step."""
        self._answering = answering
        try:
            return (
                self._authenticate(allow_empty)
                and may_succeed
                and self.check_account()
                and self._renew_password()
            )
        finally:
            self._answering = None

    def _authenticate(self, allow_empty: bool) -> bool:
        self._call("authenticate", 0 if allow_empty else _DISALLOW_NULL_PASSWORD)
        self._authenticated = self.last == SUCCESS and self._is_same_user()
        return self._authenticated

    def check_account(self) -> bool:
        """Whether the account may be used now, by whatever method somebody got here. Looked at
        once. See `must_change_password`."""
        if self._is_account_open is None:
            self._call("acct_mgmt", 0)
            self.must_change_password = self.last == NEW_PASSWORD_REQUIRED
            is_good = self.last in (SUCCESS, NEW_PASSWORD_REQUIRED)
            self._is_account_open = is_good and self._is_same_user()
        return self._is_account_open

    def _renew_password(self) -> bool:
        if self.must_change_password:
            self._call("chauthtok", _CHANGE_EXPIRED)
            self.must_change_password = self.last != SUCCESS
        return not self.must_change_password

    def set_credentials(self) -> None:
        """PamError if PAM itself has let the user in; after a public key it may know nothing of the
        user."""
        self._call("setcred", _ESTABLISH)
        if self.last == SUCCESS:
            self._has_credentials = True
        elif self._authenticated:
            raise PamError(f"pam_setcred(): {self.explain()}")

    def open_session(self) -> None:
        self._call("open_session", 0)
        if self.last != SUCCESS:
            raise PamError(f"pam_open_session(): {self.explain()}")
        self._has_session = True

    def close(self) -> None:
        """Undo what was done, whatever that is; once."""
        if self._handle.value is None:
            return
        self._silent = True
        if self._has_session:
            self._call("close_session", _SILENT)
        if self._has_credentials:
            self._call("setcred", _DELETE)
        self._library.pam_end(self._handle, self.last)
        self._handle = c_void_p()

    # ------------------------------------------------------------------ what passes beside

    def tell_authentication(self, text: str | None) -> None:
        """For modules that ask how the user got in: SSH_AUTH_INFO_0, as sshd sets it."""
        self._put("SSH_AUTH_INFO_0" if text is None else f"SSH_AUTH_INFO_0={text}")

    def take_messages(self) -> str:
        """What modules have said since the last call."""
        text = "".join(self._messages)
        self._messages.clear()
        self._room = MAX_MESSAGES
        return text

    def explain(self) -> str:
        """The last answer, in PAM's words."""
        return decode_text(self._library.pam_strerror(self._handle, self.last) or b"unknown error")

    def environment(self) -> tuple[bytes, ...]:
        """NAME=VALUE, as modules have set them."""
        listed = self._library.pam_getenvlist(self._handle)
        found: list[bytes] = []
        while listed and (entry := listed[len(found)]):
            found.append(ctypes.string_at(entry))
            libc.free(entry)
        libc.free(ctypes.cast(listed, c_void_p))
        return tuple(found)

    # ------------------------------------------------------------------ within

    def _call(self, name: str, flags: int) -> None:
        self.last = getattr(self._library, f"pam_{name}")(self._handle, flags)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _set_item(self, item: int, value: str) -> None:
        self._library.pam_set_item(self._handle, item, os.fsencode(value))

    def _put(self, setting: str) -> None:
        self._library.pam_putenv(self._handle, os.fsencode(setting))

    def _is_same_user(self) -> bool:
        """A module may change the user; who asked for one account must not end up in another."""
        name = c_char_p()
        found = self._library.pam_get_item(self._handle, _USER, byref(name))
        return bool(found == SUCCESS and name.value == os.fsencode(self._user))

    def _converse(self, count: int, messages: Any, responses: Any, _: Any) -> int:
        """Called by modules. Nothing may be raised into C, where it would count as success."""
        try:
            if self._silent or self._failure is not None or not 0 < count <= _MAX_PROMPTS:
                return CONVERSATION_ERROR
            answers = [self._answer(messages[index].contents) for index in range(count)]
            return _hand_over(answers, responses)
        except BaseException:
            return CONVERSATION_ERROR

    def _answer(self, message: Any) -> bytes | None:
        """What the user says; or the password for a hidden prompt, whatever it asks. Texts are
        kept. Anything else is refused."""
        text = decode_text(message.text or b"")
        if message.style in (_ERROR_MESSAGE, _TEXT_MESSAGE):
            tell = self.keep if self._answering is None else self._answering.tell
            tell(text + "\n")
            return None
        if message.style in (_PROMPT_ECHO_OFF, _PROMPT_ECHO_ON) and self._answering is not None:
            return self._ask(self._answering, text, message.style == _PROMPT_ECHO_ON)
        if message.style == _PROMPT_ECHO_OFF and self._password is not None:
            return self._password
        raise PamError("a module asks what nobody can answer")

    def _ask(self, answering: Answering, text: str, is_shown: bool) -> bytes:
        try:
            answer = answering.ask(text, is_shown=is_shown)
        except PamError:
            raise
        except BaseException as error:  # nothing may be raised into C, but it must not be lost
            self._failure = error
            raise
        if b"\0" in answer:  # in C it would end there
            raise PamError("no C string")
        return answer

    def keep(self, text: str) -> None:
        """For `take_messages`."""
        self._messages.append(clip(text, self._room))
        self._room -= len(encode_text(self._messages[-1]))


def _hand_over(answers: list[bytes | None], responses: Any) -> int:
    """The answers as a C array in the C library's memory, which the module frees."""
    array = libc.calloc(len(answers), ctypes.sizeof(_Response))
    if not array:
        return BUFFER_ERROR
    view = ctypes.cast(array, POINTER(_Response))
    for index, answer in enumerate(answers):
        if answer is not None:
            view[index].text = libc.strdup(answer)
    responses[0] = view
    return SUCCESS
