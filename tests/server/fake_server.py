"""The real main between a router and a monitor that do as the test's datagrams say.

Run as a program with the server's own arguments. A datagram at the listener asks for a connection;
what comes over the connection goes to its monitor, whose answers come back. When main goes, a child
of the router relays on, as network processes do.
"""

import errno
import os
import socket
import sys
from collections.abc import Sequence

from sshoq.server import main, routers, sandbox
from sshoq.server.config import ServerConfig
from sshoq.server.connection import ConnectionFacts
from sshoq.server.identity import Identity
from sshoq.server.privsep import MONITOR_TO_MAIN, NOTHING, LoginSucceeded, Penalty
from sshoq.server.privsep_socket import PrivsepError, PrivsepSocket
from sshoq.wire import Message

FAKE_ROUTER = """\
import os, select
from sshoq.server.privsep import *
from sshoq.server.privsep_socket import *
listener, control, number = socket.socket(fileno=3), socket.socket(fileno=4), int(sys.argv[1])
main = PrivsepSocket(control, ROUTER_TO_MAIN, MAIN_TO_ROUTER)
main.send(RouterReady())
listener.setblocking(True)
pairs = {}
sockets = [listener, control]

def newcomer():
    data, ancillary, flags, peer = listener.recvmsg(2048, 256)
    if data == b"die":
        os._exit(3)
    if data == b"junk":
        control.send(b"\\xff\\xff")
        return
    kind, _, claim = data.decode().partition(" ")
    if kind == "died":
        address, cause, validated = claim.split()
        main.send(NetworkProcessDied(address, 9, int(cause), validated == "validated"))
        return
    if kind == "full":
        most, _, times = claim.partition(" ")
        for _ in range(int(times or 1)):
            main.send(RouterFull(int(most)))
        return
    source = claim.split() if kind == "claim" else peer
    main.send(Admit(source[0], int(source[1]), "", listener.getsockname()[1], number))
    answer, descriptors = main.receive()
    if isinstance(answer, NotAdmitted):
        listener.sendto(b"refused: " + answer.reason.encode(), peer)
        return
    udp, monitor = [socket.socket(fileno=fd) for fd in descriptors]
    pairs[udp], pairs[monitor] = monitor, udp
    sockets.extend([udp, monitor])
    udp.send(b"router %d" % os.getpid())

while True:
    for ready in select.select(sockets, [], [])[0]:
        if ready is listener:
            newcomer()
        elif ready is control:
            if not control.recv(99):
                if not pairs or os.fork():
                    os._exit(0)
                listener.close()
                sockets = list(pairs)
                break
        else:
            other = pairs[ready]
            try:
                data = ready.recv(2048)
                if not data:
                    raise OSError
                other.send(data)
            except OSError:
                sockets = [one for one in sockets if one not in (ready, other)]
                del pairs[ready], pairs[other]
                ready.close()
                other.close()
                if not sockets:
                    os._exit(0)
                break
"""


def fake_monitor(
    to_network: socket.socket,
    to_main: socket.socket,
    config: ServerConfig,
    identity: Identity,
    connection: ConnectionFacts,
) -> int:
    to_tell = PrivsepSocket(to_main, MONITOR_TO_MAIN, NOTHING)
    descriptors = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
    while command := to_network.recv(2048).decode():
        word, _, rest = command.partition(" ")
        if word == "login":
            to_tell.send(LoginSucceeded())
        elif word == "penalty":
            to_tell.send(Penalty(rest))
        elif word == "crash":
            os.kill(os.getpid(), int(rest))
        elif word == "exit":
            return int(rest)
        elif word == "main-is-there":
            try:
                to_tell.receive()
            except PrivsepError:
                command = "main is gone"
        answers = {
            "facts": repr(tuple(connection)),
            "banner": str(config.banner),
            "descriptors": str(len(descriptors)),
            "pid": str(os.getpid()),
            "signature": identity.sign(identity.keys[0].scheme, b"content").hex(),
        }
        to_network.send(answers.get(word, command).encode())
    return 0


class FailingSocket(PrivsepSocket):
    """The first so many answers to routers are too much for the kernel."""

    failures = int(os.environ.get("FAKE_FAILURES", "0"))

    def answer(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        if FailingSocket.failures:
            FailingSocket.failures -= 1
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        super().answer(message, descriptors)


if __name__ == "__main__":
    vars(routers)["PrivsepSocket"] = FailingSocket
    sandbox.prepare_sandbox = lambda: None  # nothing here runs as the service user
    main._MODES["serve"] = lambda invocation: main.serve(invocation, fake_monitor, FAKE_ROUTER)
    sys.exit(main.main())
