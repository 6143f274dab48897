"""Undoes what tests leave on the machine: users, files, processes. Also when the tests themselves
were killed.

The tests tell a process of its own, over a pipe, what they are about to make; when the pipe closes,
for whatever reason, that process undoes it all in reverse order. Run as a script, this file is that
process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# useradd and userdel give up when another one holds the lock on /etc/passwd, so we take turns and
# try again.
ACCOUNT_LOCK = "/run/lock/sshoq-tests-accounts"
ACCOUNT_TRIES = 40
LOCK_MODE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


# Held, shared, by every test run that may need the server's own user; it goes with the last of
# them.
SERVICE_USER = "sshoq"
SERVICE_USER_LOCK = "/run/lock/sshoq-tests-service-user"
SERVICE_USER_MADE = Path("/run/lock/sshoq-tests-service-user-made")


class Janitor:
    """The tests' side: everything owed is undone at the latest when this process ends."""

    def __init__(self) -> None:
        self._lock = os.open(
            SERVICE_USER_LOCK if os.geteuid() == 0 else os.devnull, LOCK_MODE, 0o600
        )
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, str(self._lock)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            pass_fds=[self._lock],
        )

    def owe(self, kind: str, what: str) -> None:
        """Say what is about to be made; it need not exist yet, nor any more when its turn comes."""
        assert kind in UNDO, kind
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([kind, what]).encode() + b"\n")
        self._process.stdin.flush()

    def make_service_user(self) -> None:
        """Where the server was never installed its own user is missing, and it refuses to start."""
        if user_exists(SERVICE_USER):
            return
        SERVICE_USER_MADE.touch()
        command = ["useradd", "--system", "--no-create-home", "--home-dir", "/run/sshoq/empty"]
        try:
            run_account_tool(*command, "--shell", "/usr/sbin/nologin", SERVICE_USER)
        except RuntimeError:
            if not user_exists(SERVICE_USER):  # else another test run was quicker
                raise

    def directory(self) -> Path:
        """A new folder that other users may enter, unlike pytest's own."""
        path = tempfile.mkdtemp(prefix="sshoq-test-")
        self.owe("tree", path)
        os.chmod(path, 0o755)
        return Path(path)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        os.close(self._lock)
        if status := self._process.wait(timeout=300):
            raise RuntimeError(f"the janitor could not undo everything (status {status})")


def user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def run_account_tool(*command: str, feed: str | None = None) -> None:
    """Run useradd and the like, one at a time among all tests of the machine."""
    for _ in range(ACCOUNT_TRIES):
        with open(ACCOUNT_LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = subprocess.run(command, input=feed, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return
        if "try again later" not in done.stderr:
            break
        time.sleep(0.1)
    raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()}")


def remove_user(name: str) -> None:
    """End the user's processes, then remove the account and its home; userdel refuses in the other
    order."""
    if not user_exists(name):
        return
    uid = pwd.getpwnam(name).pw_uid
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid:
                os.kill(int(entry), signal.SIGKILL)
    run_account_tool("userdel", "--force", "--remove", name)


def remove_file(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def remove_tree(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)


def end_process(name: str) -> None:
    """`name` is the pid and the start time: the number alone may by now be somebody else's."""
    pid, started = name.split()
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        if stat.rpartition(")")[2].split()[19] == started:
            os.kill(int(pid), signal.SIGKILL)


def give_back_service_user(lock: int) -> None:
    """Unless another test run still holds the lock, or somebody else made the user."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if SERVICE_USER_MADE.exists():
        remove_user(SERVICE_USER)
        SERVICE_USER_MADE.unlink()


UNDO: dict[str, Callable[[str], None]] = {
    "user": remove_user,
    "file": remove_file,
    "tree": remove_tree,
    "process": end_process,
}


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    debts = [json.loads(line) for line in sys.stdin.buffer]
    status = 0
    for kind, what in reversed(debts):
        try:
            UNDO[kind](what)
        except Exception as error:  # one failure must not keep the rest from being undone
            print(f"janitor: {kind} {what}: {error}", file=sys.stderr)
            status = 1
    if os.geteuid() == 0:
        give_back_service_user(int(sys.argv[1]))
    return status


if __name__ == "__main__":
    sys.exit(main())
