"""The recorded conversations of `tests/golden`, to be replayed against either side.

A transcript is what the Go client and server wrote, write by write (see golden/README.md). `steps`
gives everything in order; `speech` is what one side said on one channel, however it was cut into
messages: what another implementation has to say in its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sshoq.protocol.channel import (
    Chaff,
    ChannelEvent,
    ChannelState,
    Confirmed,
    Data,
    Eof,
    ExtendedData,
    Finished,
    Refused,
    Replied,
    Requested,
)
from sshoq.protocol.messages import (
    SIGNAL_VALUE,
    ChaffMessage,
    ChannelHeader,
    ChannelRequest,
    Confirmation,
    Refusal,
    encode_request,
    read_header,
)
from sshoq.protocol.version import GO_IMPLEMENTATION, PeerTraits, parse_version
from sshoq.wire import varint

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))

Side = Literal["client", "server"]


@dataclass(frozen=True)
class Step:
    """One thing one side did: exactly one of the last four says what. `stream` None: a datagram."""

    seq: int
    sender: Side
    stream: int | None
    data: bytes | None = None
    fin: bool = False
    reset: int | None = None
    stop: int | None = None


@dataclass
class Speech:
    """What one side said on a channel, data joined."""

    header: ChannelHeader | None = None
    answer: ChannelEvent | None = None
    data: bytes = b""
    stderr: bytes = b""
    requests: list[ChannelRequest] = field(default_factory=list)
    fin: bool = False

    def add(self, event: ChannelEvent) -> None:
        match event:
            case Confirmed() | Refused():
                self.answer = event
            case Data():
                self.data += bytes(event.payload)
            case ExtendedData():
                self.stderr += bytes(event.payload)
            case Requested():
                self.requests.append(event.request)
            case Finished():
                self.fin = True


class Transcript:
    """One recorded conversation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.raw: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
        self.exit_code: int | str = self.raw["exit_code"]

    def __repr__(self) -> str:
        return self.name

    @cached_property
    def steps(self) -> list[Step]:
        """All streams and datagrams in the order of their writing."""
        return sorted(self._all_steps(), key=lambda step: step.seq)

    def _all_steps(self) -> Iterator[Step]:
        for stream in self.raw["streams"]:
            for event in stream["events"]:
                yield _step(event, stream["id"])
        for event in self.raw["datagrams"]:
            if not event.get("lost"):
                yield _step(event, None)

    def opener(self, stream: int) -> Side:
        return "server" if stream & 1 else "client"

    @cached_property
    def _asked(self) -> list[dict[str, Any]]:
        """Recordings with one request keep its fields at the top."""
        return list(self.raw.get("requests") or [{"stream": 0, **self.raw}])

    @cached_property
    def requests(self) -> dict[int, list[tuple[bytes, bytes]]]:
        """Fields of each CONNECT by stream, in order."""
        return {one["stream"]: _fields(one["request_headers"]) for one in self._asked}

    @cached_property
    def responses(self) -> dict[int, list[tuple[bytes, bytes]] | None]:
        """Fields of each answer by stream, in order; None for a request that was reset."""
        return {
            one["stream"]: one["response_headers"] and _fields(one["response_headers"])
            for one in self._asked
        }

    @cached_property
    def statuses(self) -> list[int]:
        return [int(dict(fields)[b":status"]) for fields in self.responses.values() if fields]

    def written(self, stream: int, sender: Side) -> bytes:
        """All that `sender` wrote on a stream."""
        return b"".join(
            step.data
            for step in self.steps
            if step.stream == stream and step.sender == sender and step.data
        )

    @cached_property
    def channels(self) -> list[int]:
        """Streams that are channels."""
        signal = varint(SIGNAL_VALUE)
        streams = sorted({step.stream for step in self.steps if step.stream is not None})
        return [s for s in streams if self.written(s, self.opener(s)).startswith(signal)]

    def speech(self, channel: int, sender: Side) -> Speech:
        """What `sender` said on a channel. Bytes that its type gives no meaning to are left out."""
        speech = Speech()
        header, size = read_header(self.written(channel, self.opener(channel)))
        data = self.written(channel, sender)
        spoke_first = sender == self.opener(channel)
        if spoke_first:
            speech.header, data = header, data[size:]
        listener = ChannelState(
            channel, header, go_traits(), is_client=sender == "server", opened_here=not spoke_first
        )
        fin = any(
            step.fin for step in self.steps if step.stream == channel and step.sender == sender
        )
        for event in listener.receive(data, fin):
            speech.add(event)
        return speech


def go_traits() -> PeerTraits:
    """What a peer counts as that said what the Go programs say."""
    return PeerTraits(
        version=parse_version(
            f"SSH 3.0 {GO_IMPLEMENTATION} 0.2.1 experimental_spec_version=alpha-00"
        )
    )


def encode_event(event: ChannelEvent) -> bytes:
    """The message that brings exactly this event, whoever sends it."""
    match event:
        case Confirmed():
            return varint(91) + Confirmation(event.max_message).encode()
        case Refused():
            return varint(92) + Refusal(event.reason, event.text).encode()
        case Data():
            return varint(94) + varint(len(event.payload)) + bytes(event.payload)
        case ExtendedData():
            return (
                varint(95) + varint(event.kind) + varint(len(event.payload)) + bytes(event.payload)
            )
        case Eof():
            return varint(96)
        case Requested():
            return encode_request(event.request, event.want_reply)
        case Chaff():
            return varint(101) + ChaffMessage(event.want_answer, b"").encode()
        case Replied():
            return varint(99 if event.success else 100)
    return b""


def _step(event: dict[str, Any], stream: int | None) -> Step:
    data = bytes.fromhex(event["hex"]) if "hex" in event else None
    return Step(
        event["seq"],
        event["from"],
        stream,
        data,
        bool(event.get("fin")),
        event.get("reset"),
        event.get("stop_sending"),
    )


def _fields(listed: list[list[str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in listed]
