"""Is this the right host? The decision about a certificate chain that a server has presented.

Where the user has named a certificate, it has to agree. Else, in this order: a certificate pinned
byte for byte; the keys in known_hosts, by OpenSSH's rules; a
chain that the system's authorities vouch for; and last the user, in OpenSSH's words. Talks to the
user through two callbacks and knows no terminal.
"""

import os
from collections.abc import Callable, Sequence

from sshoq.auth.certificates import CertificateError, Leaf, read_leaf, verify_chain
from sshoq.auth.keys import PublicKey
from sshoq.auth.known_hosts import (
    HostEntry,
    HostStatus,
    KnownHosts,
    KnownHostsError,
    Lookup,
    host_with_port,
    record_host,
)
from sshoq.auth.randomart import draw_randomart
from sshoq.named_tuple import NamedTuple

SSH_PORT = 22
DEFAULT_PORT = 443

FATAL, ERROR, INFO, DEBUG = "fatal", "error", "info", "debug"

Ask = Callable[[str], str | None]  # the prompt; None: nobody can be asked
Tell = Callable[[str, str], None]  # one of the levels above, and the text, of one line or several

_NOT_IN_A_NAME = frozenset("@?*#[]|'\"\\")
"""What would mean something else in known_hosts."""

MAX_ANSWERS = 20  # a broken SSH_ASKPASS must not keep us here for ever
SHOWN_NAMES = 8


class HostPolicy(NamedTuple):
    """Who should be there, and what the configuration says about trust."""

    host: str  # after HostName, lower case
    port: int
    address: str | None = None  # the peer's, None behind a jump host or a proxy
    strict: str = "ask"  # StrictHostKeyChecking: yes, no, off, ask, accept-new
    alias: str | None = None  # HostKeyAlias
    user_files: Sequence[str] = ()  # UserKnownHostsFile; the first one is written to
    global_files: Sequence[str] = ()  # GlobalKnownHostsFile
    certificate: bytes | None = None  # ServerCertificate (DER): the server's, or an authority's
    pins: Sequence[bytes] = ()  # certificates (DER) recorded for host, port and path
    pin_file: str = ""  # where those stand
    hash_known_hosts: bool = False
    visual_host_key: bool = False
    fingerprint_hash: str = "sha256"
    check_host_ip: bool = False
    trust_localhost: bool = False  # NoHostAuthenticationForLocalhost
    required_rsa_size: int = 1024
    exposed: Sequence[str] = ()  # what a false server could abuse, e.g. "Password authentication"

    @property
    def known_name(self) -> str:
        """The host's name in known_hosts and in messages."""
        return self.alias.lower() if self.alias else host_with_port(self.host, self.port)


class Verdict(NamedTuple):
    """Whether to go on. If `restricted`, only without what was named in `exposed`."""

    accepted: bool
    restricted: bool = False
    key: PublicKey | None = None
    may_update: bool = False
    """The user's own files, or the user, vouch for the host by its key under its own name: its
    other keys may be taken from it (UpdateHostKeys)."""


REFUSED = Verdict(False)


class Findings(NamedTuple):
    """What the files say about the host and its address, and under which names they were found."""

    name: str
    host: Lookup
    address_name: str | None  # None: the address is not checked
    address: Lookup
    borrowed: bool  # SSH's own entry vouches or objects, for another port


def judge_host(
    chain: Sequence[bytes],
    policy: HostPolicy,
    known: KnownHosts,
    *,
    ask: Ask | None,
    tell: Tell,
    now: float,
) -> Verdict:
    """Decide about the chain (DER, leaf first) and say so; a new host that is accepted is recorded.

    `known` has been read from the policy's user_files and global_files.
    """
    if not _agrees(chain, policy, tell, now):
        name = policy.known_name
        tell(ERROR, f"The certificate of {name} does not agree with ServerCertificate.")
        tell(FATAL, "Host key verification failed.")
        return REFUSED
    if policy.trust_localhost and _is_loopback(policy.address) and not policy.alias:
        return Verdict(True)
    if chain[0] == policy.certificate or chain[0] in policy.pins:
        return Verdict(True)
    try:
        leaf = read_leaf(chain[0])
    except CertificateError as error:
        tell(ERROR, f"{policy.known_name}: {error}")
        tell(FATAL, "Host key verification failed.")
        return REFUSED
    if leaf.key.algorithm == "ssh-rsa" and leaf.key.bits < policy.required_rsa_size:
        tell(FATAL, "Bad server host key: Invalid key length")
        return REFUSED
    decision = _Decision(policy, known, leaf.key, ask, tell)
    is_vouched_for = policy.certificate is not None
    verdict = decision.reach(
        lambda: is_vouched_for or _chain_verifies(chain, leaf, policy, tell, now)
    )
    if not verdict.accepted:
        tell(FATAL, "Host key verification failed.")
    return verdict


def _agrees(chain: Sequence[bytes], policy: HostPolicy, tell: Tell, now: float) -> bool:
    """Whether the server shows the certificate that the user has named, or one that was issued by
    it; or none is named."""
    if policy.certificate is None or chain[0] == policy.certificate:
        return True
    try:
        verify_chain(chain, policy.host, now, policy.certificate)
    except CertificateError as error:
        tell(DEBUG, str(error))
        return False
    return True


def _chain_verifies(
    chain: Sequence[bytes], leaf: Leaf, policy: HostPolicy, tell: Tell, now: float
) -> bool:
    if leaf.self_signed:  # proves nothing to an authority, and the store takes time to load
        return False
    try:
        verify_chain(chain, policy.host, now)
    except CertificateError as error:
        tell(DEBUG, str(error))
        return False
    return True


def consult(policy: HostPolicy, known: KnownHosts, key: PublicKey) -> Findings:
    """What the files say about this key.

    Names: `[host]:port` first. If it is not there at all, SSH's own entry, plain `host`, vouches
    for the same key on any port, as it does for OpenSSH. On SSHOQ's default port it also objects to
    another key: a client that tries SSHOQ on its own accord must not trust more than ssh would, or
    whoever answers on UDP port 443 would be a stranger where ssh would have seen an impostor.
    """
    name = policy.known_name
    found = known.look_up(name, key)
    borrowed = False
    if found.status is HostStatus.UNKNOWN and not policy.alias and policy.port != SSH_PORT:
        plain = known.look_up(policy.host, key)
        objects = plain.status is HostStatus.CHANGED and policy.port == DEFAULT_PORT
        if objects or plain.status in (HostStatus.FOUND, HostStatus.REVOKED):
            name, found, borrowed = policy.host, plain, True
    if not address_is_checked(policy):
        return Findings(name, found, None, Lookup(HostStatus.UNKNOWN), borrowed)
    address = host_with_port(policy.address or "", SSH_PORT if borrowed else policy.port)
    return Findings(name, found, address, known.look_up(address, key), borrowed)


def address_is_checked(policy: HostPolicy) -> bool:
    """CheckHostIP, where there is an address apart from the name to check."""
    if not policy.check_host_ip or policy.address is None or _is_loopback(policy.address):
        return False
    return policy.address != policy.host


def _is_loopback(address: str | None) -> bool:
    return address is not None and (address.startswith("127.") or address == "::1")


class _Decision:
    """One host, one key: the way through OpenSSH's cases (ssh(1), VERIFYING HOST KEYS)."""

    def __init__(
        self, policy: HostPolicy, known: KnownHosts, key: PublicKey, ask: Ask | None, tell: Tell
    ) -> None:
        self.policy = policy
        self.known = known
        self.key = key
        self.kind = key.kind.name
        self.ask = ask
        self.tell = tell
        self.found = consult(policy, known, key)

    def reach(self, chain_verifies: Callable[[], bool]) -> Verdict:
        verdict = self._weigh(chain_verifies)
        if verdict.accepted and not self._address_is_right():
            return REFUSED
        return verdict

    def _weigh(self, chain_verifies: Callable[[], bool]) -> Verdict:
        status = self.found.host.status
        if status is HostStatus.REVOKED:
            return self._meet_revoked()
        if status is HostStatus.FOUND:
            return self._meet_known()
        if chain_verifies():
            return Verdict(True, key=self.key)
        if status is HostStatus.CHANGED or self.policy.pins:
            # Another certificate than the one that was pinned: this is no stranger.
            return self._meet_changed()
        return self._meet_stranger()

    # ----------------------------------------------------------------- known

    def _meet_known(self) -> Verdict:
        entry = self.found.host.entry
        self.tell(DEBUG, f"Host '{self.found.name}' is known and matches the {self.kind} host key.")
        if entry is not None:
            self.tell(DEBUG, f"Found key in {entry.file}:{entry.line}")
        if self.found.address_name and self.found.address.status is HostStatus.UNKNOWN:
            self._note_address(self.found.address_name)
        elif self.policy.visual_host_key:
            self.tell(INFO, f"Host key fingerprint is {self._fingerprint()}\n{self._picture()}")
        return Verdict(True, key=self.key, may_update=self._is_in_user_files())

    def _is_in_user_files(self) -> bool:
        """What others have written down about the host, or SSH about it, is not ours to change."""
        entries = [self.found.host.entry]
        if self.found.address.status is HostStatus.FOUND:
            entries.append(self.found.address.entry)
        files = self.policy.user_files
        return not self.found.borrowed and all(entry and entry.file in files for entry in entries)

    def _note_address(self, address: str) -> None:
        if self.found.borrowed:
            text = f"{self.kind} host key for IP address '{address}' not in list of known hosts."
        elif self._recorded([address]):
            text = (
                f"Warning: Permanently added the {self.kind} host key for IP address "
                f"'{address}' to the list of known hosts."
            )
        else:
            text = (
                f"Failed to add the {self.kind} host key for IP address "
                f"'{address}' to the list of known hosts ({self._first_file()})."
            )
        self.tell(INFO, text)

    # ----------------------------------------------------------------- unknown

    def _meet_stranger(self) -> Verdict:
        name = self.found.name
        if self.policy.strict == "yes":
            self.tell(
                ERROR,
                f"No {self.kind} host key is known for {name} "
                "and you have requested strict checking.",
            )
            return REFUSED
        if not self._is_recordable():  # as for ssh, in silence
            return REFUSED
        must_ask = self.policy.strict not in ("accept-new", "no", "off")
        if must_ask and not self._confirmed(self._introduction(), self._fingerprint()):
            return REFUSED
        names = [name]
        if self.found.address_name and self.found.address.status is HostStatus.UNKNOWN:
            names.append(self.found.address_name)
        if self._recorded(names):
            shown = ",".join(names)
            text = f"Warning: Permanently added '{shown}' ({self.kind}) to the list of known hosts."
        else:
            text = f"Failed to add the host to the list of known hosts ({self._first_file()})."
        self.tell(INFO, text)
        return Verdict(True, key=self.key, may_update=must_ask)

    def _is_recordable(self) -> bool:
        """A stranger is let pass only by making an acquaintance of it."""
        return bool(self.policy.user_files) and not set(self.policy.host) & _NOT_IN_A_NAME

    def _introduction(self) -> str:
        """The question, worded as OpenSSH 10.2 and later have it."""
        address = "<no hostip for proxy command>"
        if self.policy.address is not None:
            address = host_with_port(self.policy.address, self.policy.port)
        lines = [
            f"The authenticity of host '{self.found.name} ({address})' can't be established.",
            f"{self.kind} key fingerprint is: {self._fingerprint()}",
            *([self._picture()] if self.policy.visual_host_key else []),
            *_other_names(self.known.entries_with(self.key)),
            "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
        ]
        return "\n".join(lines)

    def _confirmed(self, question: str, fingerprint: str | None = None) -> bool:
        """Yes, no, or the fingerprint, which then must be the right one; no answer means no."""
        again = "Please type 'yes' or 'no': "
        if fingerprint:
            again = "Please type 'yes', 'no' or the fingerprint: "
        for _ in range(MAX_ANSWERS):
            answer = self.ask(question) if self.ask else None
            words = (answer or "").split(None, 1)
            if not words or words[0].lower() == "no":
                return False
            if words[0].lower() == "yes" or words[0] == fingerprint:
                return True
            question = again
        return False

    # ----------------------------------------------------------------- wrong

    def _meet_changed(self) -> Verdict:
        if self.found.address_name and not _same_key(self.found.host, self.found.address):
            self._warn_of_spoofing(self.found.address_name)
        self.tell(ERROR, CHANGED.format(kind=self.kind, fingerprint=self._fingerprint()))
        if files := [*self.policy.user_files, *self.policy.global_files]:
            self.tell(ERROR, f"Add correct host key in {files[0]} to get rid of this message.")
        if entry := self.found.host.entry:
            self.tell(ERROR, f"Offending {entry.key.kind.name} key in {entry.place}")
            self.tell(ERROR, self._remedy(entry))
        elif self.policy.pins:
            self.tell(ERROR, f"Offending certificate in {self.policy.pin_file}")
        return self._refuse_or_restrict(
            f"Host key for {self.found.name} has changed and you have requested strict checking."
        )

    def _remedy(self, entry: HostEntry) -> str:
        if not self.found.borrowed:
            return f'  remove with:\n  ssh-keygen -f "{entry.file}" -R "{self.found.name}"'
        return (
            f"  That is the key of the SSH server on {self.found.name}. If SSHOQ has a key of its\n"
            f"  own there, verify its fingerprint and add:\n"
            f"  {self.policy.known_name} {self.key.algorithm} {self.key.base64}"
        )

    def _warn_of_spoofing(self, address: str) -> None:
        lookup = self.found.address
        state = {HostStatus.UNKNOWN: "is unknown", HostStatus.FOUND: "is unchanged"}.get(
            lookup.status, "has a different value"
        )
        self.tell(
            ERROR,
            SPOOFING.format(kind=self.kind, host=self.found.name, address=address, state=state),
        )
        if lookup.entry:
            self.tell(ERROR, f"Offending key for IP in {lookup.entry.place}")
            self.tell(
                ERROR, f'  remove with:\n  ssh-keygen -f "{lookup.entry.file}" -R "{address}"'
            )

    def _meet_revoked(self) -> Verdict:
        self.tell(ERROR, REVOKED.format(kind=self.kind, host=self.found.name))
        return self._refuse_or_restrict(
            f"{self.kind} host key for {self.found.name} was revoked "
            "and you have requested strict checking."
        )

    def _refuse_or_restrict(self, refusal: str) -> Verdict:
        """Without strict checking one may go on, with nothing that a false server could abuse."""
        if self.policy.strict not in ("no", "off"):
            self.tell(ERROR, refusal)
            return REFUSED
        for feature in self.policy.exposed:
            self.tell(ERROR, f"{feature} is disabled to avoid man-in-the-middle attacks.")
        return Verdict(True, restricted=True, key=self.key)

    def _address_is_right(self) -> bool:
        """CheckHostIP: the address must not be known under another key."""
        entry = self.found.address.entry
        status = self.found.host.status
        if self.found.address.status is not HostStatus.CHANGED or status is HostStatus.CHANGED:
            return True
        text = (
            f"Warning: the {self.kind} host key for '{self.found.name}' differs from the key for "
            f"the IP address '{self.found.address_name}'"
        )
        if entry:
            text += f"\nOffending key for IP in {entry.place}"
        if status is HostStatus.FOUND and self.found.host.entry:
            text += f"\nMatching host key in {self.found.host.entry.place}"
        if self.policy.strict == "ask":
            question = "Are you sure you want to continue connecting (yes/no)? "
            return self._confirmed(f"{text}\n{question}")
        self.tell(INFO, text)
        if self.policy.strict in ("no", "off"):
            return True
        self.tell(ERROR, "Exiting, you have requested strict checking.")
        return False

    # ----------------------------------------------------------------- words and files

    def _fingerprint(self) -> str:
        return self.key.fingerprint(self.policy.fingerprint_hash)

    def _picture(self) -> str:
        return draw_randomart(self.key, self.policy.fingerprint_hash)

    def _first_file(self) -> str:
        return self.policy.user_files[0] if self.policy.user_files else "none"

    def _recorded(self, names: list[str]) -> bool:
        if not self.policy.user_files:
            return False
        try:
            record_host(self._first_file(), names, self.key, hashed=self.policy.hash_known_hosts)
        except KnownHostsError as error:
            self.tell(DEBUG, str(error))
            return False
        return True


def _same_key(one: Lookup, other: Lookup) -> bool:
    """Whether host and address are both known, with one and the same other key."""
    if other.status is not HostStatus.CHANGED or one.entry is None or other.entry is None:
        return False
    return one.entry.key == other.entry.key


def _other_names(entries: list[HostEntry]) -> list[str]:
    """Under which names the key is known already: the host may just have been renamed."""
    if not entries:
        return ["This key is not known by any other names."]
    home = os.path.expanduser("~")
    lines = ["This host key is known by the following other names/addresses:"]
    for entry in entries[:SHOWN_NAMES]:
        place = "~" + entry.place.removeprefix(home) if _is_below(entry.file, home) else entry.place
        name = "[hashed name]" if entry.hosts.startswith("|") else entry.hosts
        lines.append(f"    {place}: {name}")
    if len(entries) > SHOWN_NAMES:
        lines.append(f"    ({len(entries) - SHOWN_NAMES} additional names omitted)")
    return lines


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


# --------------------------------------------------------------------------- OpenSSH's blocks

CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Someone could be eavesdropping on you right now (man-in-the-middle attack)!
It is also possible that a host key has just been changed.
The fingerprint for the {kind} key sent by the remote host is
{fingerprint}.
Please contact your system administrator."""

SPOOFING = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@       WARNING: POSSIBLE DNS SPOOFING DETECTED!          @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
The {kind} host key for {host} has changed,
and the key for the corresponding IP address {address}
{state}. This could either mean that
DNS SPOOFING is happening or the IP address for the host
and its host key have changed at the same time."""

REVOKED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@       WARNING: REVOKED HOST KEY DETECTED!               @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
The {kind} host key for {host} is marked as revoked.
This could mean that a stolen key is being used to
impersonate this host."""
