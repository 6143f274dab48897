"""A run of the client, top to bottom: what is asked, where to, the first flight; then `online.py`.

The order is a matter of time: a Python program's start is its imports, so each part is imported
where it is first needed, and everything heavy while the first packets travel. `-G`, `-V` and `-Q`
are over before any of that.
"""

import gc
import os
import sys
import time

from sshoq.client.log import FAILED, Failure, Log, write_to_file, write_to_syslog
from sshoq.config.resolve import Answer, Invocation, resolve
from sshoq.config.usage import DEBUG1, ERROR, UsageError

TYPE_CHECKING = False  # what type checkers take for true; "typing" itself costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from sshoq.client.addresses import HostAddress
    from sshoq.client.background import Background, Word
    from sshoq.client.first_flight import FirstDatagrams, Flight, LinkWish


def main() -> "NoReturn":
    """The program. It ends the process itself, since taking an interpreter down costs 2 ms, and
    with all that a session has loaded 10.
    """
    status = run_program()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as it is when whoever started us had closed it
            try:
                stream.flush()
            except OSError:
                status = status or FAILED
    os._exit(status)


def run_program() -> int:
    """From the command line to the exit status."""
    gc.disable()  # a start makes no garbage
    undo_locale_coercion()
    try:
        return run(resolve(sys.argv[1:], os.environ, program=os.path.basename(sys.argv[0])))
    except UsageError as error:
        print_lines(2, error.lines)
        return error.status
    except KeyboardInterrupt:  # before settle_process()
        return FAILED
    except Exception as error:
        lack = _lack_in(error)
        if lack is None:  # our bug: let it be seen, with the status of every other error
            sys.excepthook(*sys.exc_info())
        else:
            print_lines(2, (f"ssh: {lack}",))
        return FAILED


def _lack_in(error: BaseException) -> "str | None":
    """What the machine, or a limit of the user's, did not have for us."""
    from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM

    if isinstance(error, BaseExceptionGroup):
        found = [_lack_in(one) for one in error.exceptions]
        return found[0] if all(found) else None
    if isinstance(error, MemoryError):
        return os.strerror(ENOMEM)
    if isinstance(error, OSError) and error.errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
        return error.strerror
    return None


def run(invocation: Invocation) -> int:
    if invocation.answer is not None:
        return give_answer(invocation.answer)
    if invocation.action == "config":
        return edit_configuration(invocation)
    settle_process()
    log = Log(invocation.options.log_level)
    try:
        log = open_log(invocation)
        if invocation.action == "keys":
            return list_keys(invocation, log)
        return Run(invocation, log).run()
    except Failure as failure:
        for line in failure.lines:
            log.message(failure.level, line)
        return failure.status


def undo_locale_coercion() -> None:
    """In the C locale Python sets LC_CTYPE for itself (PEP 538). It is not the user's: SendEnv must
    not send it, nor our child processes get it.
    """
    if os.environ.get("LC_CTYPE") not in ("C.UTF-8", "C.utf8", "UTF-8"):
        return
    try:
        with open("/proc/self/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return
    if not any(variable.startswith(b"LC_CTYPE=") for variable in variables):
        del os.environ["LC_CTYPE"]


def give_answer(answer: Answer) -> int:
    print_lines(2, answer.stderr)
    print_lines(1, answer.stdout)
    return answer.status


def print_lines(fd: int, lines: tuple[str, ...]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError:
            return


def edit_configuration(invocation: Invocation) -> int:
    from sshoq.config.edit import run_edit  # sshconf takes its time

    return run_edit(invocation.operands)


def list_keys(invocation: Invocation, log: Log) -> int:
    """-Z."""
    from sshoq.client.key_list import public_keys

    print_lines(1, tuple(public_keys(invocation.options, log)))
    return 0


def settle_process() -> None:
    """As ssh starts: three standard streams, nothing else inherited, a sane umask."""
    # The C half: "signal" makes enums, which costs a client of a master a tenth of its time.
    import _signal as signal  # type: ignore[import-not-found]

    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is the one that was closed
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.umask(os.umask(0o077) | 0o022)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback at ^C


def open_log(invocation: Invocation) -> Log:
    options = invocation.options
    write = None
    if invocation.log_file is not None:
        write = write_to_file(invocation.log_file)
    elif invocation.use_syslog:
        write = write_to_syslog(options.syslog_facility)
    log = Log(options.log_level, write)
    for line in invocation.notes:
        log.repeat(line)
    return log


class Run:
    """A session from its configuration to the first flight, and on."""

    def __init__(self, invocation: Invocation, log: Log) -> None:
        self._invocation = invocation
        self._options = invocation.options
        self._log = log
        self._may_fall_back = False
        self._hops: list[Invocation] = []
        self._background: Background | None = None

    def run(self) -> int:
        if self._options.transport != "ssh":
            status = self._share()
            if status is not None:
                return status
        from sshoq.client import fallback

        if self._options.transport == "ssh":
            fallback.exec_ssh(self._invocation, os.environ)
        self._may_fall_back = fallback.may_fall_back(self._invocation)
        self._leave_what_is_not_ours(self._invocation)
        if not self._may_fall_back:
            self._tell_what_has_no_effect()
        self._hops = self._find_hops()
        nearest = self._hops[0] if self._hops else self._invocation
        targets = self._resolve(nearest)
        self._leave_what_was_silent(targets[0])
        word = self._fork()
        if word is not None:
            return self._follow(word)
        self._put_off_the_rest()
        wish = self._link_wish(nearest)
        begun = self._begin(targets[0], wish)
        return self._go_online(targets, wish, begun)

    def _share(self) -> int | None:
        """-O, and as a client of a master that runs already: no connection of our own is needed."""
        invocation = self._invocation
        if self._options.control_path is None and invocation.control_command is None:
            return None
        if invocation.action not in ("session", "stdio", "control"):
            return None
        from sshoq.client.mux_client import share

        return share(invocation, self._log)

    def _leave_what_is_not_ours(self, invocation: Invocation, place: str = "") -> None:
        """A wish that only ssh can grant is ssh's at once, without a packet or a look-up before:
        behind a ProxyCommand the name may mean nothing here. Refused where it must be SSHOQ."""
        from sshoq.client.wishes import not_supported

        line = not_supported(invocation)
        if line is None:
            return
        if not self._may_fall_back:
            raise Failure(place + line)
        from sshoq.client.fallback import exec_ssh

        self._log.debug(f"left to ssh: {place}{line}")
        exec_ssh(self._invocation, os.environ)

    def _leave_what_was_silent(self, target: "HostAddress") -> None:
        """A host where nobody answered lately is ssh's without another wait."""
        if not self._may_fall_back or self._hops:
            return
        from sshoq.client.fallback import exec_ssh, find_silence

        options = self._options
        silence = find_silence(options, target, os.environ)
        now = int(time.time())
        if silence is None or not silence.remaining(now):
            return
        self._log.debug(
            f"left to ssh: {options.hostname} port {options.quic_port} did not answer by SSHOQ "
            f"{now - silence.since} s ago; to be tried again in {silence.remaining(now)} s"
        )
        exec_ssh(self._invocation, os.environ)

    def _note_silence(self, target: "HostAddress") -> None:
        from sshoq.client.fallback import note_silence

        now = int(time.time())
        silence = note_silence(self._options, target, os.environ, now)
        if silence is not None:
            self._log.debug(f"left to ssh at once for the next {silence.remaining(now)} s")

    def _forget_what_was_silent(self) -> None:
        """The user says that this host speaks SSHOQ, so that an earlier silence means nothing."""
        from sshoq.client.fallback import forget_silence, is_told_to_speak

        if is_told_to_speak(self._options) and not self._hops:
            forget_silence(self._options, os.environ)

    def _tell_what_has_no_effect(self) -> None:
        if self._log.level < DEBUG1:
            return
        from sshoq.client.wishes import without_effect

        for line in without_effect(self._options):
            self._log.debug(line)

    def _find_hops(self) -> list[Invocation]:
        options = self._options
        if not options.jump_hosts and options.udp_proxy_jump is None:
            return []
        from sshoq.client.route import find_hops

        hops = find_hops(self._invocation, os.environ)
        for hop in hops:
            self._leave_what_is_not_ours(hop, f"jump host {hop.options.hostname}: ")
        return hops

    def _resolve(self, invocation: Invocation) -> "list[HostAddress]":
        from sshoq.client.addresses import resolve_host

        options = invocation.options
        return resolve_host(options.hostname, options.quic_port, options.address_family)

    def _fork(self) -> "Word | None":
        """-f, and a master that is to stay: the child goes on from here, see background.py, and the
        parent returns with what it is to do then."""
        from sshoq.client.wishes import is_master

        options = self._options
        persists, _ = options.control_persist
        if persists and is_master(options) and not os.path.lexists(options.control_path or ""):
            from sshoq.client.background import Word, fork_with_following_parent

            became = fork_with_following_parent(is_master=True)
            if isinstance(became, Word):
                return became
            self._background = became
        elif options.fork_after_authentication:
            from sshoq.client.background import fork_with_waiting_parent

            self._background = fork_with_waiting_parent()
        return None

    def _follow(self, word: "Word") -> int:
        """The parent, when the child has found out what there is for it to do."""
        from sshoq.client.background import Word

        if word is Word.LEAVE:
            return 0
        if word is Word.FALL_BACK:
            from sshoq.client.fallback import exec_ssh

            exec_ssh(self._invocation, os.environ)
        from sshoq.client.mux_client import share

        status = share(self._invocation, self._log, is_own=True)
        return FAILED if status is None else status

    def _put_off_the_rest(self) -> None:
        from sshoq.transport.late_modules import AFTER_THE_FIRST_FLIGHT, put_off

        put_off(AFTER_THE_FIRST_FLIGHT)

    def _link_wish(self, invocation: Invocation) -> "LinkWish":
        from sshoq.client.addresses import BindWish
        from sshoq.client.first_flight import LinkWish, server_name_of
        from sshoq.client.host_keys import preferred_schemes
        from sshoq.client.wishes import forwarded_display

        options = invocation.options
        interactive, bulk = options.ip_qos
        is_interactive = self._invocation.wants_tty or forwarded_display(self._options, os.environ)
        traffic_class = interactive if is_interactive else bulk
        return LinkWish(
            server_name_of(options.hostname),
            BindWish(options.bind_address, options.bind_interface, traffic_class),
            options.server_alive_interval,
            options.server_alive_count_max,
            self._keylog(),
            preferred_schemes(options, self._log),
            options.congestion_control,
        )

    def _keylog(self) -> "Callable[[str], None] | None":
        if self._options.key_log is None:
            return None
        write = write_to_key_log(self._options.key_log)
        self._log.info(f"TLS secrets are written to {self._options.key_log} (-keylog)")
        return write

    def _begin(self, target: "HostAddress", wish: "LinkWish") -> "FirstDatagrams | OSError":
        from sshoq.client.first_flight import begin

        try:
            return begin(target, wish)
        except OSError as error:
            return error

    def _load_engine(
        self, begun: "FirstDatagrams | OSError", wish: "LinkWish"
    ) -> "Flight | OSError":
        """The most expensive part of the start."""
        from sshoq.client.first_flight import go_on
        from sshoq.transport.hasty_dataclasses import hasty_dataclasses
        from sshoq.transport.late_logging import put_off_logging

        put_off_logging()
        with hasty_dataclasses():
            import sshoq.transport.engine  # noqa: F401
        if isinstance(begun, OSError):
            return begun
        try:
            return go_on(begun, wish)
        except OSError as error:
            return error

    def _go_online(
        self,
        targets: "list[HostAddress]",
        wish: "LinkWish",
        begun: "FirstDatagrams | OSError",
    ) -> int:
        """The first flight is in the air: load the rest, then go on with it."""
        first = self._load_engine(begun, wish)
        self._forget_what_was_silent()
        import asyncio

        from sshoq.client.fallback import TRY_SECONDS
        from sshoq.client.online import Departure, go_online
        from sshoq.client.opening import Foreign, Silent, Unreachable
        from sshoq.client.prompt import Prompter, PromptInterrupted
        from sshoq.client.signals import die_of

        patience: float | None = self._options.connect_timeout or None  # 0 is as good as none
        if self._may_fall_back:
            patience = min(TRY_SECONDS, patience or TRY_SECONDS)
        departure = Departure(
            self._invocation,
            self._log,
            Prompter(os.environ, self._log.error, batch=self._options.batch_mode),
            targets,
            wish,
            first,
            patience,
            self._background,
            self._note_reached,
            self._may_fall_back,
            self._hops,
            self._link_wish,
        )
        gc.freeze()  # all that was loaded stays, and need not be looked through again
        gc.enable()
        try:
            with asyncio.Runner() as runner:  # made first: it may not come about
                return runner.run(go_online(departure))
        except Unreachable as error:
            if self._may_fall_back and not self._hops and isinstance(error, Silent | Foreign):
                self._note_silence(targets[0])
            return self._meet_silence(str(error), getattr(error, "place", None))
        except PromptInterrupted as interrupted:
            die_of(interrupted.number)
            return FAILED

    def _note_reached(self) -> None:
        """From now on this host does not fall back."""
        if self._may_fall_back:
            from sshoq.client.fallback import forget_silence, remember_reached

            remember_reached(self._options)
            forget_silence(self._options, os.environ)
            self._tell_what_has_no_effect()

    def _meet_silence(self, reason: str, place: str | None) -> int:
        """`place`: the jump host, or what is behind it, that did not answer."""
        options = self._options
        place = place or f"{options.hostname} port {options.quic_port}"
        if self._may_fall_back:
            from sshoq.client.fallback import exec_ssh

            self._log.debug(f"no SSHOQ at {place}: {reason}")
            if self._background is not None and self._background.is_master:
                from sshoq.client.background import Word

                return 0 if self._background.say(Word.FALL_BACK) else FAILED
            exec_ssh(self._invocation, os.environ)
        raise Failure(f"ssh: connect to host {place}: {reason}", level=ERROR)


def write_to_key_log(path: str) -> "Callable[[str], None]":
    """-keylog: lines that open the encryption to whoever holds them, so for our eyes alone."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    return lambda line: print_lines(fd, (line.rstrip("\n"),))


if __name__ == "__main__":
    main()
