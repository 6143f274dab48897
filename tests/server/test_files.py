"""The file transfer's channel in the network process: joined to a file server, frame by frame."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sshoq.file_frames import (
    CHUNK,
    MAX_FRAME,
    Command,
    FileRequest,
    FileResponse,
    FrameReader,
    encode_frame,
)
from sshoq.protocol.channel import Buffer, ChannelState, Confirmed, Data
from sshoq.protocol.extensions import OURS, Extension
from sshoq.protocol.messages import Session, Sftp
from sshoq.server.file_server import FileServer
from sshoq.server.link import Refused
from sshoq.server.privsep import FilesServed
from sshoq.transport.channel import Channel, ChannelRefused
from tests.golden_replay import go_traits
from tests.pair import run
from tests.server.test_channels import Served, served, wait_for_ever


@asynccontextmanager
async def served_files(
    directory: Path, greeting: bytes = FilesServed.READY, extensions: Extension = OURS
) -> AsyncIterator[Served]:
    """Every channel of files gets a file server of its own, in a thread."""

    async def serve() -> None:
        while True:
            end = await there.login.the_leader.targets.get()
            end.sendall(greeting)
            if greeting == FilesServed.READY:
                serving.append(asyncio.ensure_future(asyncio.to_thread(answer, end)))
            else:
                end.close()

    def answer(end: socket.socket) -> None:
        with end:
            FileServer(os.fsencode(directory)).serve(end)

    serving: list[asyncio.Future[None]] = []
    async with served(wait_for_ever, extensions) as there:
        starting = asyncio.ensure_future(serve())
        try:
            yield there
        finally:
            starting.cancel()
            there.client.conversation.close()
            await there.client.conversation.over()
    await asyncio.gather(*serving, return_exceptions=True)


def open_files(there: Served) -> Channel:
    return there.client.conversation.open_channel(Sftp())


async def ask(channel: Channel, *requests: FileRequest) -> list[FileResponse]:
    for request in requests:
        await channel.write(encode_frame(request))
    reader = FrameReader(MAX_FRAME)
    answers: list[FileResponse] = []
    while len(answers) < len(requests) and (data := await channel.read()):
        answers += [FileResponse.decode(payload) for payload in reader.feed(data)]
    return answers


def test_what_is_asked_is_answered_and_the_end_passes_through(tmp_path: Path) -> None:
    async def main() -> None:
        async with served_files(tmp_path) as there:
            channel = open_files(there)
            [answer] = await ask(channel, FileRequest(Command.PWD, 7))
            assert answer == FileResponse(7, path=os.fsencode(tmp_path))
            channel.finish()
            assert await channel.read() == b""
            assert await channel.closed == ""
            while channel.stream_id not in there.login.the_leader.closed:
                await asyncio.sleep(0)
            assert not there.server.ended_by_peer

    run(main)


def test_each_frame_begins_a_message_for_a_go_client(tmp_path: Path) -> None:
    """Guard rail 13, for answers that are longer than a message and for some that are short."""
    (tmp_path / "file").write_bytes(os.urandom(2 * CHUNK + 77))
    requests = [
        *[FileRequest(Command.GET, n, b"file", n * CHUNK, CHUNK) for n in range(4)],
        *[FileRequest(Command.PWD, n) for n in range(20)],
        FileRequest(Command.LS, 9),
    ]

    async def main() -> None:
        async with served_files(tmp_path) as there:
            written = bytearray()
            really_write = there.server.conversation.write

            def write(stream_id: int, buffers: list[Buffer], **how: bool) -> None:
                if stream_id == channel.stream_id:
                    written.extend(b"".join(buffers))
                really_write(stream_id, buffers, **how)

            there.server.conversation.write = write  # type: ignore[assignment,method-assign]
            channel = open_files(there)
            answers = await ask(channel, *requests)
            assert [answer.id for answer in answers] == [request.id for request in requests]
            check_messages(channel, bytes(written), [len(encode_frame(one)) for one in answers])

    run(main)


def check_messages(channel: Channel, written: bytes, sizes: list[int]) -> None:
    listener = ChannelState(
        channel.stream_id, channel.state.header, go_traits(), is_client=True, opened_here=True
    )
    confirmed, *messages = listener.receive(written)
    assert isinstance(confirmed, Confirmed)
    left = 0
    for message in messages:
        assert isinstance(message, Data)
        if left == 0:
            left = sizes.pop(0)
        assert len(message.payload) <= left
        left -= len(message.payload)
    assert (left, sizes) == (0, [])


def test_many_questions_at_once_have_their_answers_in_order(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(40 * CHUNK))
    requests = [FileRequest(Command.GET, n, b"file", n * CHUNK, CHUNK) for n in range(41)]

    async def main() -> None:
        async with served_files(tmp_path) as there:
            answers = await ask(open_files(there), *requests)
            assert b"".join(answer.data for answer in answers) == (tmp_path / "file").read_bytes()

    run(main)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [(b'{"Command":"pwd"}\n', "JSON"), (b"\xff\xff\xff\xff", "frame of")],
)
def test_what_is_no_frame_ends_the_channel_with_a_line_in_the_log(
    tmp_path: Path, said: bytes, complaint: str
) -> None:
    async def main() -> None:
        async with served_files(tmp_path) as there:
            channel = open_files(there)
            await channel.opened()
            await channel.write(said)
            await channel.closed
            assert any(complaint in line for line in there.server.faults)

    run(main)


def test_a_refusal_of_the_leader_reaches_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with served_files(tmp_path) as there:
            there.login.the_leader.refusal = Refused("SFTP is disabled on the server")
            with pytest.raises(ChannelRefused, match="SFTP is disabled") as refused:
                await open_files(there).opened()
            assert refused.value.reason == 1

    run(main)


@pytest.mark.parametrize(("greeting", "text"), [(b"no files here", "no files"), (b"", "failed")])
def test_so_does_that_of_the_file_server(tmp_path: Path, greeting: bytes, text: str) -> None:
    async def main() -> None:
        async with served_files(tmp_path, greeting) as there:
            with pytest.raises(ChannelRefused, match=text):
                await open_files(there).opened()

    run(main)


def test_files_count_as_sessions(tmp_path: Path) -> None:
    async def main() -> None:
        async with served_files(tmp_path) as there:
            there.login.max_sessions = 1
            files = open_files(there)
            await ask(files, FileRequest(Command.PWD, 1))
            for opening in (Sftp(), Session()):
                with pytest.raises(ChannelRefused):
                    await there.client.conversation.open_channel(opening).opened()

    run(main)


def test_a_client_that_gives_up_ends_its_file_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with served_files(tmp_path) as there:
            files = open_files(there)
            await ask(files, FileRequest(Command.PWD, 1))
            files.close()
            while files.stream_id not in there.login.the_leader.closed:
                await there.client.conversation.open_channel(Session()).opened()

    run(main)
