"""Throw-away accounts and PAM services, for tests that run as root. The janitor removes them."""

from __future__ import annotations

import itertools
import os
import pwd
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.janitor import Janitor, run_account_tool

_numbers = itertools.count(1)

# What Debian's own sshd service does, without the parts that touch the whole machine: own nologin
# file, no lastlog.
PAM_SERVICE = """\
auth       required   pam_unix.so
account    required   pam_nologin.so file={directory}/nologin
account    required   pam_unix.so
password   required   pam_unix.so
session    required   pam_limits.so
session    required   pam_env.so conffile={directory}/pam_env.conf
session    required   pam_unix.so
"""


class Account(NamedTuple):
    name: str
    uid: int
    gid: int
    home: Path
    password: str
    key: Path  # private Ed25519 key, in the account's authorized_keys

    @property
    def authorized_keys(self) -> Path:
        return self.home / ".ssh/authorized_keys"

    @property
    def public_key(self) -> str:
        return Path(f"{self.key}.pub").read_text().strip()

    def write(self, name: str, content: str, mode: int = 0o600) -> Path:
        """A file of the account's own, below its home."""
        path = self.home / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(content)
        for part in [path, *path.parents]:
            if part == self.home:
                break
            os.chown(part, self.uid, self.gid)
        path.chmod(mode)
        return path


def unique_name(prefix: str = "sq") -> str:
    """Unique on the machine: pytest's workers are processes of their own. Short, since `ps` cuts
    long user names."""
    return f"{prefix}{os.getpid()}n{next(_numbers)}"


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)
    return path


def make_account(
    janitor: Janitor, keys: Path, *, shell: str = "/bin/bash", groups: tuple[str, ...] = ()
) -> Account:
    """A user with a home, a password and a key that opens it; `groups` are supplementary and must
    exist."""
    name = unique_name()
    password = f"correct horse {name}"
    janitor.owe("user", name)
    membership = ["--groups", ",".join(groups)] if groups else []
    run_account_tool("useradd", "--create-home", "--shell", shell, *membership, name)
    run_account_tool("chpasswd", feed=f"{name}:{password}\n")
    entry = pwd.getpwnam(name)
    key = make_key(keys / name)
    account = Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir), password, key)
    account.home.chmod(0o755)
    account.write(".ssh/authorized_keys", account.public_key + "\n")
    # A shell whose terminal output a test can read: a plain prompt, and no control sequences.
    account.write(".profile", "PS1='$ '\n")
    account.write(".inputrc", "set enable-bracketed-paste off\n")
    (account.home / ".ssh").chmod(0o700)
    return account


class PamService(NamedTuple):
    name: str
    directory: Path  # holds the files that the service reads: nologin, pam_env.conf


def make_pam_service(janitor: Janitor, directory: Path, stack: str = PAM_SERVICE) -> PamService:
    """A service file of its own under /etc/pam.d; sshd and sshoq-server are told to use it by
    name."""
    name = unique_name("sshoqtest")
    (directory / "pam_env.conf").write_text("FROM_PAM DEFAULT=yes\n")
    path = Path("/etc/pam.d") / name
    janitor.owe("file", str(path))
    path.write_text(stack.format(directory=directory))
    return PamService(name, directory)
