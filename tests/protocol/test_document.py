"""docs/protocol.md says every byte; here is what can be read back from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sshoq.protocol import channel, conversation, datagrams, http3, messages, request
from sshoq.protocol.extensions import OURS, SETTING, Extension
from sshoq.protocol.messages import OPENINGS, REQUESTS
from sshoq.protocol.version import OUR_VERSION

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Cells of the tables of a section."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")]
            for line in section.splitlines() if line.startswith("|")]


def test_every_extension_is_written_down() -> None:
    listed = {row[2]: row for row in rows("4 Extensions") if row[0].isdigit()}
    assert set(listed) == {extension.name for extension in Extension}
    for extension in Extension:
        bit, value, name, _, implemented = listed[str(extension.name)]
        assert 1 << int(bit) == int(value, 16) == extension.value, name
        assert (implemented == "yes") is bool(extension & OURS), name
    assert f"This version announces {int(OURS):#x}." in DOCUMENT
    assert f"`{SETTING:#x}`" in DOCUMENT


def test_our_settings_are_written_down() -> None:
    written = re.search(r"^    (00 04 .*)$", DOCUMENT, re.MULTILINE)
    assert written is not None
    assert bytes.fromhex(written[1]) == http3.control_stream(OURS)


def test_every_channel_type_is_written_down() -> None:
    first_cells = " ".join(row[0] for row in rows("6 Channels"))
    named = {name.rstrip(",") for name in re.findall("`([^`]+)`", first_cells)}
    assert set(OPENINGS) <= named


def test_every_request_is_written_down_with_what_it_needs() -> None:
    listed = {row[0].strip("`"): row for row in rows("7 Sessions") if len(row) == 5}
    assert set(REQUESTS) <= set(listed)
    for name, kind in REQUESTS.items():
        assert listed[name][3] == (kind.needs.name or ""), name


def test_our_version_is_written_down() -> None:
    implementation = re.escape(OUR_VERSION.implementation)
    written = rf"^    SSH 3\.0 {implementation} \d+\.\d+\.\d+ experimental_spec_version=alpha-00$"
    assert re.search(written, DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize(("value", "text"), [
    (http3.MAX_COMPRESSED, "16 KiB"), (http3.MAX_FIELDS, "64 fields"),
    (http3.MAX_DECODED, "64 KiB"), (http3.MAX_BLOCKS, "8 "), (http3.MAX_SKIPPED, "64 KiB"),
    (http3.MAX_SETTINGS, "8 KiB"), (conversation.MAX_EARLY_STREAMS, "8, of"),
    (conversation.MAX_EARLY_BYTES, "64 KiB"), (messages.MAX_HEADER, "2 KiB"),
    (channel.MAX_INCOMING, "1 MiB"), (channel.MAX_CONTROL, "8 KiB"),
    (messages.MAX_COMMAND, "131072"), (request.MAX_BANNER, "128 KiB"),
    (channel.MAX_MESSAGE, "131072"), (channel.GO_MAX_MESSAGE, "65536"),
    (channel.LEAST_MAX_MESSAGE, "1024"), (channel.DEFAULT_MAX_MESSAGE, "30000"),
    (datagrams.PER_CHANNEL, "32 for a channel"), (datagrams.MAX_CHANNELS, "64 channels"),
    (datagrams.MAX_BYTES, "256 KiB"), (int(datagrams.MAX_AGE), "3 seconds"),
])
def test_bounds_are_written_down(value: int, text: str) -> None:
    number = int(text.split()[0].rstrip(","))
    factor = 1024 if "KiB" in text else 1024 * 1024 if "MiB" in text else 1
    assert number * factor == value
    assert text in DOCUMENT
