"""Whether the server is the right one, before any credential is sent to it.

The decision is host_policy's; here it gets its files and its words. It is first made without
asking: for a known host, the common case, that is the end of it and costs no thread. Only if a
question turns out to be needed is it made again where it may wait for the answer.
"""

import os
import time
from collections.abc import Sequence
from functools import partial

from sshoq.auth.certificates import CertificateError, read_leaf
from sshoq.auth.host_policy import DEBUG, ERROR, FATAL, HostPolicy, Verdict, judge_host
from sshoq.auth.keys import PublicKey
from sshoq.auth.known_hosts import KnownHosts, KnownHostsError, read_go_pins
from sshoq.client.log import Failure, Log
from sshoq.client.prompt import Prompter, PromptNeeded, run_with_prompts
from sshoq.config.options import Options
from sshoq.config.patterns import match_pattern_list


def policy_of(options: Options, address: str | None) -> HostPolicy:
    """What the configuration says about trust, for a server at this address."""
    pin_file = os.path.join(options.config_dir, "known_hosts")
    named = options.server_certificate
    return HostPolicy(
        host=options.hostname.lower(),
        port=options.quic_port,
        address=address,
        strict=options.strict_host_key_checking,
        alias=options.host_key_alias,
        user_files=options.user_known_hosts_files,
        global_files=options.global_known_hosts_files,
        certificate=_read_certificate(named) if named else None,
        pins=read_go_pins(pin_file, options.hostname, options.quic_port, options.url_path),
        pin_file=pin_file,
        hash_known_hosts=options.hash_known_hosts,
        visual_host_key=options.visual_host_key,
        fingerprint_hash=options.fingerprint_hash.lower(),
        check_host_ip=options.check_host_ip,
        trust_localhost=options.no_host_authentication_for_localhost,
        required_rsa_size=options.required_rsa_size,
        exposed=exposed_to(options),
    )


_FORWARDED = ("forward_agent", "forward_x11", "local_forwards", "remote_forwards")


def exposed_to(options: Options) -> tuple[str, ...]:
    """What a false server could abuse. A host that is let pass only by StrictHostKeyChecking=no
    gets none of it; see `guarded`."""
    exposed = {
        "Password authentication": options.password_authentication,
        "Keyboard-interactive authentication": options.kbd_interactive_authentication,
        "Agent forwarding": options.forward_agent,
        "X11 forwarding": options.forward_x11,
        "Port forwarding": bool(options.local_forwards or options.remote_forwards),
    }
    return tuple(name for name, is_asked_for in exposed.items() if is_asked_for)


def guarded(options: Options) -> Options:
    """The same without what is exposed. Failure if that is no good to the user."""
    is_less = any(getattr(options, wish) for wish in _FORWARDED)
    if is_less and options.exit_on_forward_failure:
        raise Failure("Error: forwarding disabled due to host key check failure")
    safe = {
        "password_authentication": False,
        "kbd_interactive_authentication": False,
        "forward_agent": False,
        "forward_x11": False,
        "local_forwards": (),
        "remote_forwards": (),
        "update_host_keys": "no",
    }
    return Options({**vars(options), **safe})


def _read_certificate(path: str) -> bytes:
    """ServerCertificate: one certificate, PEM or DER."""
    from binascii import Error, a2b_base64

    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError as error:
        raise Failure(f"ServerCertificate {path}: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in data:
        return data
    body = data.partition(b"-----BEGIN CERTIFICATE-----")[2].partition(b"-----END")[0]
    try:
        return a2b_base64(body)
    except Error:
        raise Failure(f"ServerCertificate {path}: invalid format") from None


async def check_host(
    chain: Sequence[bytes], options: Options, address: str | None, prompter: Prompter, log: Log
) -> Verdict:
    """Failure unless the host is accepted. Meanwhile the connection is kept alive."""
    if options.insecure:
        log.debug("host key checking is switched off (-insecure)")
        return Verdict(True)
    try:
        key = read_leaf(chain[0]).key
    except CertificateError:
        key = None  # judged below: a pin may vouch for a key that SSH has no form for
    if key is not None:
        _check_key(key, options, address, log)
    try:
        known = _known_hosts(options, address, key, log)
        judge = partial(judge_host, chain, policy_of(options, address), known, now=time.time())
        verdict = await _judge(judge, prompter, log)
    except KnownHostsError as error:
        raise Failure(str(error)) from None
    if not verdict.accepted:
        raise Failure()
    if verdict.restricted and options.update_host_keys != "no":
        log.error("UpdateHostkeys is disabled because the host key is not trusted.")
    return verdict


async def _judge(judge: "partial[Verdict]", prompter: Prompter, log: Log) -> Verdict:
    said: list[tuple[str, str]] = []

    def ask(question: str) -> str | None:
        return prompter.answer(question)

    def tell(level: str, text: str) -> None:
        _say(log, level, text)

    try:
        first_ask = None if prompter.batch else _refuse_to_ask
        verdict = judge(ask=first_ask, tell=lambda level, text: said.append((level, text)))
    except PromptNeeded:  # what was said up to the question will be said again
        return await run_with_prompts(prompter, partial(judge, ask=ask, tell=tell))
    for level, text in said:
        tell(level, text)
    return verdict


def _refuse_to_ask(question: str) -> str | None:
    raise PromptNeeded(question)


def _say(log: Log, level: str, text: str) -> None:
    write = {FATAL: log.fatal, ERROR: log.error, DEBUG: log.debug}.get(level, log.info)
    for line in text.split("\n"):
        write(line)


def _known_hosts(
    options: Options, address: str | None, key: PublicKey | None, log: Log
) -> KnownHosts:
    files = [*options.user_known_hosts_files, *options.global_known_hosts_files]
    known = KnownHosts.from_files(file for file in files if file != "none")
    if options.known_hosts_command and key is not None:
        from sshoq.client.known_hosts_command import ask_for_key

        known.add_text("KnownHostsCommand", ask_for_key(options, address, key, log))
    return known


def _check_key(key: PublicKey, options: Options, address: str | None, log: Log) -> None:
    """HostKeyAlgorithms and RevokedHostKeys, which hold whoever vouches for the key."""
    log.debug(f"Server host key: {key.algorithm} {key.fingerprint()}")
    if not is_key_accepted(key, options):
        raise Failure(
            f"Unable to negotiate with {address or options.hostname} port {options.quic_port}: "
            f"no matching host key type found. Their offer: {_algorithms_of(key)[0]}"
        )
    for path in options.revoked_host_keys:
        if path != "none" and (reason := _revocation(key, path)):
            raise Failure(reason, "Host key verification failed.")


def is_key_accepted(key: PublicKey, options: Options) -> bool:
    """HostKeyAlgorithms permits it."""
    accepted = options.host_key_algorithms
    return any(match_pattern_list(name, accepted) == 1 for name in _algorithms_of(key))


def _algorithms_of(key: PublicKey) -> tuple[str, ...]:
    """As signatures of the key are called."""
    return ("rsa-sha2-256", "rsa-sha2-512") if key.algorithm == "ssh-rsa" else (key.algorithm,)


def _revocation(key: PublicKey, path: str) -> str | None:
    """What the file has against the key. One that cannot be read might revoke this very key."""
    from sshoq.auth.revoked_keys import RevocationError, load_revoked_keys

    name = f"{key.kind.name} {key.fingerprint()}"
    try:
        is_revoked = key in load_revoked_keys(path)
    except RevocationError as error:
        return f"Error checking host key {name} in revoked keys file {error}"
    return f"Host key {name} revoked by file {path}" if is_revoked else None
