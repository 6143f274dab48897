"""What an installation brings besides the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
OF_THE_CHECKOUT = {"packaging/demo.sh", "packaging/newest_python.sh", "packaging/scripts"}
"""Run by make, and made into a script of its own."""


def test_manuals_and_what_goes_to_etc_are_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    targets = project["tool"]["hatch"]["build"]["targets"]
    pages = {f"man/{page.name}": f"man/man{page.suffix[1:]}" for page in (ROOT / "man").iterdir()}
    files = {f"packaging/{path.name}": "sshoq" for path in (ROOT / "packaging").iterdir()}
    assert targets["wheel"]["shared-data"] == {
        source: f"share/{folder}/{Path(source).name}"
        for source, folder in (pages | files).items()
        if source not in OF_THE_CHECKOUT
    }
