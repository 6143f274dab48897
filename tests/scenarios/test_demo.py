"""`make demo`: a server and a client for one command, in a folder that goes again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.programs import Programs

PATIENCE = 60
DEMO = Path(__file__).parents[2] / "packaging/demo.sh"


def test_the_demo_runs_a_command_and_leaves_nothing(sshoq: Programs, tmp_path: Path) -> None:
    """The fixture: as root the server wants its user."""
    place = tmp_path / "with a blank"
    place.mkdir()
    done = subprocess.run(
        [DEMO, Path(sys.executable).parent],
        env={**os.environ, "TMPDIR": str(place), "CMD": "echo out; echo err >&2; exit 7"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == b"out\n", done.stderr
    assert done.stderr.endswith(b"\nerr\n")
    assert done.returncode == 7
    assert list(place.iterdir()) == []
