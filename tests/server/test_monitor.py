"""The monitor's bookkeeping of other processes. Its whole life is tested in tests/privileged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# In a process of its own: what is looked at is all of its children.
REAP = """\
import os, signal, time
from sshoq.server.leader_process import LeaderProcess

def child(life):
    pid = os.fork()
    if pid == 0:
        if life:
            signal.pause()
        os._exit(7)
    return pid

pid = child(life=True)
leader = LeaderProcess(pid, None)
stranger = child(life=False)
leader.note_program(stranger)
os.waitid(os.P_PID, stranger, os.WEXITED | os.WNOWAIT)
signal.alarm(20)
leader.reap()
assert leader.status is None
try:
    os.waitid(os.P_PID, stranger, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    raise SystemExit("the stranger was not waited for")
except ChildProcessError:
    pass

program = child(life=False)
leader.note_program(program)
os.kill(pid, signal.SIGKILL)
for one in (pid, program):
    os.waitid(os.P_PID, one, os.WEXITED | os.WNOWAIT)
leader.reap()
assert leader.status == signal.SIGKILL
os.waitid(os.P_PID, program, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # still there
"""


# The same: a monitor that waits is ended by a signal.
PROVE = """\
import signal
from types import SimpleNamespace
from sshoq.server.monitor import Monitor
from sshoq.server.privsep import FROM_MONITOR, TO_MONITOR, ProveHostKeys, SocketMoved
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket, make_pair

network, own = make_pair()
monitor = Monitor.__new__(Monitor)
monitor._network = PrivsepSocket(own, FROM_MONITOR, TO_MONITOR)
monitor._identity = SimpleNamespace(prove=lambda key, conversation_id: bytes(64))
monitor._authenticator = SimpleNamespace(conversation_id=bytes(32))
try:
    for _ in range(100_000):
        monitor._network.answer(SocketMoved())
except PrivsepError:
    signal.alarm(20)
    monitor.prove_host_keys(ProveHostKeys((b"key",)), [])
"""


def run_alone(program: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_a_stranger_with_a_programs_number_does_not_stop_the_monitor() -> None:
    assert run_alone(REAP) == (0, "")


def test_a_network_process_that_reads_no_proofs_is_not_waited_for() -> None:
    status, errors = run_alone(PROVE)
    assert status == 1
    assert errors.endswith("PrivsepError: does not read its answers\n")
