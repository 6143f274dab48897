"""Whether a group is its owner alone, so that what it may write nobody else may.

Debian and Ubuntu give every user a group of his own, Ubuntu a umask of 002 with it, and their ssh
and sshd believe files of mode 664 then. Doubt means no. Loaded when such a file turns up.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd

_NO_ACCESS_LIST = (errno.ENODATA, errno.ENOTSUP)

_answers: dict[tuple[int, int], bool] = {}
"""Of this process, which checks one user's files: each of them may lie below thousands of
directories, and there may be a great many accounts to go through.
"""


def only_owner_in_group(place: int | str, status: os.stat_result) -> bool:
    """Whether the group of a file or directory, open or by its name, has no member but its owner.

    With an access list the group's bits stand for all whom the list names; Debian's programs
    overlook that, but then others could write.
    """
    if _has_access_list(place):
        return False
    pair = status.st_uid, status.st_gid
    if pair not in _answers:
        _answers[pair] = _is_alone(*pair)
    return _answers[pair]


def _has_access_list(place: int | str) -> bool:
    try:
        os.getxattr(place, "system.posix_acl_access")
    except OSError as error:
        return error.errno not in _NO_ACCESS_LIST
    except AttributeError:  # not Linux, where users have no groups of their own
        return True
    return True


def _is_alone(uid: int, gid: int) -> bool:
    """Members are those whom the group lists and those whose first group it is. All accounts are
    gone through for these, so only for a group that lists nobody else.
    """
    try:
        listed = grp.getgrgid(gid).gr_mem
        if listed not in ([], [pwd.getpwuid(uid).pw_name]):
            return False
        at_home = {account.pw_uid for account in pwd.getpwall() if account.pw_gid == gid}
    except (KeyError, OSError):
        return False
    return at_home <= {uid} and bool(at_home or listed)
