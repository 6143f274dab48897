"""What main's children inherit, and what they do not."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAR = 3000

MONITOR = f"""\
import fcntl, os, resource, socket, sys
from sshoq.server import children
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
children.raise_descriptor_limit()
reader, writer = os.pipe()
fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, {FAR})

def run(to_network, to_main, config, identity, connection):
    listed = sorted(map(int, os.listdir("/proc/self/fd")))
    kept = [fd for fd in listed if os.path.lexists(f"/proc/self/fd/{{fd}}")]
    os.write(1, repr((kept, resource.getrlimit(resource.RLIMIT_NOFILE)[0])).encode())
    return 0

ends = socket.socketpair()
pid = children.start_monitor(run, ends, None, None, None, keep=[], first_closed=3)
os.waitpid(pid, 0)
assert os.fstat({FAR})
print("", sorted([0, 1, 2, *(end.fileno() for end in ends)]))
"""


def test_a_monitor_keeps_its_sockets_alone_however_many_descriptors_main_has() -> None:
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= FAR:
        pytest.skip("so many descriptors are not permitted")
    done = subprocess.run(
        [sys.executable, "-c", MONITOR], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    found, _, wanted = done.stdout.strip().partition(") ")
    assert found == f"({wanted}, 1024"


FAILING = """\
import os, socket, sys
from sshoq.server import children, log
log.to_file(sys.argv[1], log.INFO)

def run(to_network, to_main, config, identity, connection):
    raise RuntimeError("no way\\nroot logged in")

ends = socket.socketpair()
keep = [log.descriptor()]
pid = children.start_monitor(run, ends, None, None, None, keep=keep, first_closed=3)
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_monitor_that_fails_leaves_a_line_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", FAILING, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 255
    assert done.stderr.endswith("RuntimeError: no way\nroot logged in\n")
    [line] = path.read_text().splitlines()
    assert line.startswith("monitor ended at <string>:")
    assert line.endswith(r": RuntimeError: no way\012root logged in")
