"""Process: monitor [root], and through it session leader [the user] and router [service user].

The only file that changes who a process is. Every step that fails is fatal: a process that is not
surely the user must not go on. Without root there is one user, ourselves, and all of this checks
instead of changing.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from sshoq.server import libc
from sshoq.server.account import Account


class LoginError(Exception):
    """The process could not become who it should be."""


def is_root() -> bool:
    return os.geteuid() == 0


# --------------------------------------------------------------------------- for a moment


@contextlib.contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """Look at files with the user's rights and no more; never nested.

    The effective ids alone change: root comes back at the end. The groups do, too, for a file that
    only the group `shadow` may read must not be readable because root was in it.
    """
    if not is_root():
        yield
        return
    before = os.getgroups()
    with _fatal("cannot act as the user"):
        os.initgroups(account.name, account.gid)
        os.setegid(account.gid)
        os.seteuid(account.uid)
    try:
        yield
    finally:
        with _fatal("cannot become root again"):
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(before)


@contextlib.contextmanager
def _fatal(what: str) -> Iterator[None]:
    """Callers catch OSError for the files they look at; a failed change of ids must not hide in
    that."""
    try:
        yield
    except OSError as error:
        raise LoginError(f"{what}: {error.strerror}") from None


# --------------------------------------------------------------------------- for good


def become_user(
    account: Account, set_credentials: Callable[[], None] | None, chroot: str | None
) -> None:
    """Root gone for good; in sshd's order, with a check at the end that it cannot be had back."""
    if not is_root():
        if account.uid != os.getuid():
            raise LoginError(f"only root can log in somebody else: {account.name}")
        if chroot is not None:
            raise LoginError("only root can chroot")
        return
    with _fatal("cannot become the user"):
        os.setgid(account.gid)
        os.initgroups(account.name, account.gid)
    if set_credentials is not None:
        set_credentials()  # groups that PAM gave were wiped by initgroups
    if chroot is not None:
        enter_chroot(chroot)
    _set_ids(account.uid, account.gid)


def give_up_root(uid: int, gid: int) -> None:
    """For the service user: no supplementary groups, nothing inheritable."""
    if uid == 0 or gid == 0:
        raise LoginError("the service user must not be root")
    with _fatal("cannot give up root"):
        libc.clear_inheritable_capabilities()
        os.setgroups([])
    _set_ids(uid, gid)


def _set_ids(uid: int, gid: int) -> None:
    with _fatal("cannot take the ids of the user"):
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        if uid != 0:
            _drop_capabilities()
    _verify_ids(uid, gid)


def _drop_capabilities() -> None:
    """setresuid has done it, unless securebits were set. Inheritable ones are pam_cap's to give."""
    low, high = libc.get_capabilities()
    low.effective = low.permitted = high.effective = high.permitted = 0
    libc.set_capabilities(low, high)


def _verify_ids(uid: int, gid: int) -> None:
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3:
        raise LoginError("the ids are not those of the user")
    if uid == 0:
        return
    with contextlib.suppress(OSError):
        os.setuid(0)
        raise LoginError("was able to become root again")
    with contextlib.suppress(OSError):
        os.seteuid(0)
        raise LoginError("was able to become root again, for a moment")
    if gid != 0:
        with contextlib.suppress(OSError):
            os.setegid(0)
            raise LoginError("was able to regain root's group")
    low, high = libc.get_capabilities()
    if low.effective or low.permitted or high.effective or high.permitted:
        raise LoginError("capabilities are left")


# --------------------------------------------------------------------------- root directories


def enter_chroot(path: str) -> None:
    """As sshd: each component up to the directory is root's and nobody else can write there."""
    if not path.startswith("/"):
        raise LoginError("chroot path does not begin at root")
    components = [part for part in path.split("/") if part]
    for count in range(len(components) + 1):
        component = "/" + "/".join(components[:count])
        try:
            state = os.stat(component)
        except OSError as error:
            raise LoginError(f'stat("{component}"): {error.strerror}') from None
        if state.st_uid != 0 or state.st_mode & 0o022:
            which = "" if count == len(components) else "component "
            raise LoginError(f'bad ownership or modes for chroot directory {which}"{component}"')
        if not stat.S_ISDIR(state.st_mode):
            raise LoginError(f'chroot path "{component}" is not a directory')
    _change_root(path)


def enter_empty_root(path: str) -> None:
    state = os.stat(path)
    if state.st_uid != 0 or state.st_mode & 0o022 or os.listdir(path):
        raise LoginError(f"{path} must be empty, owned by root and writable by nobody else")
    _change_root(path)


def _change_root(path: str) -> None:
    try:
        os.chdir(path)
        os.chroot(path)
        os.chdir("/")
    except OSError as error:
        raise LoginError(f"chroot({path!r}): {error.strerror}") from None


# --------------------------------------------------------------------------- what is left behind


def close_descriptors(keep: Iterable[int] = ()) -> None:
    """All but the standard three and those to keep, also where a limit was lowered after they were
    opened."""
    low = 3
    for descriptor in sorted({fd for fd in keep if fd >= low}):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, max(os.sysconf("SC_OPEN_MAX"), 65536))
