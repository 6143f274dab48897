"""Frames of the Go programs' file transfer: the vectors, the recordings, and bytes of any kind."""

from __future__ import annotations

import stat
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.file_frames import (
    LENGTH,
    MAX_FRAME,
    MAX_REQUEST,
    Command,
    FileInfo,
    FileRequest,
    FileResponse,
    FrameCutter,
    FrameError,
    FrameReader,
    encode_frame,
    go_mode,
    posix_mode,
)
from sshoq.wire import Message, WireError
from tests.golden_replay import NAMES, Side, Transcript

FILE_NAMES = [name for name in NAMES if name.startswith(("sftp-", "scp-"))]
KINDS: dict[Side, type[FileRequest | FileResponse]] = {
    "client": FileRequest,
    "server": FileResponse,
}


def info(name: bytes, mode: int, flags: int = 0, **more: object) -> FileInfo:
    fixed = {"size": 0, "target": b"", "mtime": 1700000000, "uid": 1000, "gid": 1000,
             "user": b"al", "group": b"al"}
    return FileInfo(name=name, mode=mode, flags=flags, **(fixed | more))  # type: ignore[arg-type]


VECTORS: list[tuple[Message, str]] = [
    (FileRequest(Command.PWD, 0),
     "0000001b010000000000000000000000000000000000000000000000000000"),
    (FileRequest(Command.STAT, 0, b"a.txt"),
     "000000200400000000000000000005612e74787400000000000000000000000000000000"),
    (FileRequest(Command.GET, 0, b"a.txt", 131072, 131072),
     "000000200500000000000000000005612e74787400000000000200000002000000000000"),
    (FileRequest(Command.PUT, 0, b"a.txt", data=b"hi"),
     "000000220600000000000000000005612e747874000000000000000000000000000000026869"),
    (FileResponse(0, path=b"/home/al"),
     "0000001e000000000000000001000000082f686f6d652f616c000000000000000000"),
    (FileResponse(0), "0000001600000000000000000100000000000000000000000000"),
    (FileResponse(0, data=b"hi"), "00000018000000000000000001000000000000000000000002686900"),
    (FileResponse(0, ok=False, error=b"/x: permission denied"),
     "0000002b00000000000000000000152f783a207065726d697373696f6e2064656e6965640000000000000000000000"
     ),
    (FileResponse(0, info=info(b"a.txt", 0o100644, size=2)),
     "00000044000000000000000001000000000000000000000000010005612e7478740000000000000002000081a4"
     "000000000000006553f100000003e8000003e80002616c0002616c"),
    (FileResponse(0, entries=(
        info(b"d", go_mode(0o40755), FileInfo.DIRECTORY, size=4096),
        info(b"l", go_mode(0o120777), FileInfo.LINK, size=1, target=b"d"))),
     "0000006b00000000000000000100000000000000020001640000000000001000800001ed010000000000006553f1"
     "00000003e8000003e80002616c0002616c00016c0000000000000001080001ff02000164000000006553f1000000"
     "03e8000003e80002616c0002616c0000000000"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "written"), VECTORS, ids=lambda value: str(value)[:40])
def test_vectors(message: Message, written: str) -> None:
    frame = bytes.fromhex(written)
    assert encode_frame(message) == frame
    assert FrameReader(MAX_FRAME).feed(frame) == [frame[LENGTH:]]
    assert type(message).decode(frame[LENGTH:]) == message


# --------------------------------------------------------------------------- recordings


def test_recordings_of_every_kind_are_here() -> None:
    assert len(FILE_NAMES) == 10


@pytest.mark.parametrize("name", FILE_NAMES)
def test_recorded_frames_are_the_same_when_encoded_again(name: str) -> None:
    transcript = Transcript(name)
    [channel] = transcript.channels
    for side, kind in KINDS.items():
        said = transcript.speech(channel, side).data
        payloads = FrameReader(MAX_FRAME).feed(said)
        assert b"".join(encode_frame(kind.decode(payload)) for payload in payloads) == said


def test_recorded_modes_are_ours() -> None:
    """A listing and a look at the same file agree."""
    transcript = Transcript("sftp-errors")
    [channel] = transcript.channels
    looks = _infos(transcript, channel)
    links = [one for one in looks if one.name == b"link"]
    assert [(one.is_link, stat.S_ISLNK(one.mode)) for one in links] == [(True, True)]
    listed = {
        entry.name: entry.with_posix_mode().mode
        for response in _responses(Transcript("sftp-basic"))
        for entry in response.entries
    }
    assert {name: stat.filemode(mode) for name, mode in listed.items()} == {
        b"small.txt": "-rw-r--r--", b"big.bin": "-rw-r--r--", b"sub": "drwxr-xr-x",
        b"link": "lrwxrwxrwx",
    }


def _responses(transcript: Transcript) -> list[FileResponse]:
    [channel] = transcript.channels
    payloads = FrameReader(MAX_FRAME).feed(transcript.speech(channel, "server").data)
    return [FileResponse.decode(payload) for payload in payloads]


def _infos(transcript: Transcript, channel: int) -> list[FileInfo]:
    return [one.info for one in _responses(transcript) if one.info is not None]


# --------------------------------------------------------------------------- properties

paths = st.binary(max_size=300)
infos = st.builds(
    FileInfo,
    name=paths, size=st.integers(-(1 << 63), (1 << 63) - 1),
    mode=st.integers(0, (1 << 32) - 1), flags=st.integers(0, 255), target=paths,
    mtime=st.integers(-(1 << 63), (1 << 63) - 1), uid=st.integers(0, (1 << 32) - 1),
    gid=st.integers(0, (1 << 32) - 1), user=paths, group=paths,
)  # fmt: skip
requests = st.builds(
    FileRequest,
    command=st.integers(0, 255), id=st.integers(0, (1 << 64) - 1), path=paths,
    offset=st.integers(-(1 << 63), (1 << 63) - 1), limit=st.integers(0, (1 << 32) - 1), data=paths,
)  # fmt: skip
responses = st.builds(
    FileResponse,
    id=st.integers(0, (1 << 64) - 1), ok=st.booleans(), error=paths, path=paths,
    entries=st.lists(infos, max_size=4).map(tuple), data=paths, info=st.none() | infos,
)  # fmt: skip


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


@given(st.lists(requests | responses, max_size=5), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_frames_come_out_whole_wherever_they_are_cut(
    messages: list[FileRequest | FileResponse], places: list[int]
) -> None:
    frames = [encode_frame(message) for message in messages]
    reader, cutter = FrameReader(MAX_FRAME), FrameCutter(MAX_FRAME)
    payloads: list[bytes] = []
    pieces: list[bytes] = []
    for part in cut(b"".join(frames), places):
        payloads += reader.feed(part)
        pieces += [bytes(piece) for piece in cutter.cut(part)]
    assert [
        type(message).decode(payload)
        for message, payload in zip(messages, payloads, strict=True)
    ] == messages
    assert b"".join(pieces) == b"".join(frames)
    _check_no_piece_has_two_frames(pieces, [len(frame) for frame in frames])


def _check_no_piece_has_two_frames(pieces: list[bytes], sizes: list[int]) -> None:
    left = 0
    waiting = list(sizes)
    for piece in pieces:
        if left == 0:
            left = waiting.pop(0)
        assert 0 < len(piece) <= left
        left -= len(piece)
    assert (left, waiting) == (0, [])


@given(st.lists(st.binary(max_size=60), max_size=6), st.sampled_from([FileRequest, FileResponse]))
def test_any_bytes_are_frames_or_a_frame_error(
    parts: list[bytes], kind: type[FileRequest | FileResponse]
) -> None:
    reader, cutter = FrameReader(MAX_REQUEST), FrameCutter(MAX_REQUEST)
    try:
        for part in parts:
            for payload in reader.feed(part):
                try:
                    kind.decode(payload)
                except WireError:
                    continue
            cutter.cut(part)
    except FrameError:
        with pytest.raises(FrameError):
            FrameReader(MAX_REQUEST).feed(b"".join(parts))


def test_a_frame_over_the_bound_is_refused_by_its_length_alone() -> None:
    largest = MAX_REQUEST - LENGTH
    assert FrameReader(MAX_REQUEST).feed(largest.to_bytes(LENGTH, "big")) == []
    for taker in (FrameReader(MAX_REQUEST).feed, FrameCutter(MAX_REQUEST).cut):
        with pytest.raises(FrameError, match="frame of"):
            taker((largest + 1).to_bytes(LENGTH, "big"))


def test_json_of_old_versions_is_called_by_its_name() -> None:
    for taker in (FrameReader(MAX_FRAME).feed, FrameCutter(MAX_FRAME).cut):
        with pytest.raises(FrameError, match="JSON"):
            taker(b'{"Command":"pwd"}')


def test_a_list_with_more_entries_than_allowed_is_refused() -> None:
    response = FileResponse(0).encode()
    at = 8 + 1 + 2 + 2
    data = response[:at] + (1 << 21).to_bytes(4, "big") + response[at + 4:]
    with pytest.raises(WireError, match="entries"):
        FileResponse.decode(data)


@pytest.mark.parametrize(
    ("mode", "go"),
    [
        (0o100644, 0o644),
        (0o40755, 1 << 31 | 0o755),
        (0o120777, 1 << 27 | 0o777),
        (0o10600, 1 << 25 | 0o600),
        (0o140600, 1 << 24 | 0o600),
        (0o60660, 1 << 26 | 0o660),
        (0o20666, 1 << 26 | 1 << 21 | 0o666),
        (0o104755, 1 << 23 | 0o755),
        (0o102755, 1 << 22 | 0o755),
        (0o41777, 1 << 31 | 1 << 20 | 0o777),
    ],
)
def test_modes_as_go_has_them(mode: int, go: int) -> None:
    assert go_mode(mode) == go
    assert posix_mode(go) == mode
