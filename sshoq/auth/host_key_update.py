"""UpdateHostKeys: what known_hosts has to learn from all the keys that a host says it has.

By OpenSSH's rules: only the user's own files count, and they are left alone wherever a change could
mean more than this one host under this one name. Asks nobody and writes only when told to.
"""

import os
from collections.abc import Sequence

from sshoq.auth.keys import PublicKey
from sshoq.auth.known_hosts import (
    HostEntry,
    KnownHosts,
    KnownHostsError,
    is_plain,
    replace_host_keys,
)
from sshoq.named_tuple import NamedTuple


class HostNames(NamedTuple):
    """What the files call the host: its name and, with CheckHostIP, its address."""

    name: str
    address: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        return (self.name,) if self.address is None else (self.name, self.address)


class Changes(NamedTuple):
    """`keys` are all that the host has from now on. Of them some are new, and have to be proven
    first; the old ones go."""

    keys: tuple[PublicKey, ...]
    new: tuple[PublicKey, ...]
    old: tuple[PublicKey, ...]
    obstacle: str = ""
    """Why nothing may be changed, for the log."""

    @property
    def are_wanted(self) -> bool:
        return bool(self.new or self.old)


def weigh_keys(known: KnownHosts, names: HostNames, offered: Sequence[PublicKey]) -> Changes:
    """`known` has been read from the user's own files."""
    entries = {entry.place: entry for name in names.all for entry in known.entries_for(name)}
    recorded = dict.fromkeys(entry.key for entry in entries.values() if not entry.marker)
    new = tuple(key for key in offered if key not in recorded)
    old = tuple(key for key in recorded if key not in offered)
    changes = Changes(tuple(offered), new, old)
    if not changes.are_wanted:
        return changes
    return changes._replace(obstacle=_obstacle(known, names, entries, changes))


def _obstacle(
    known: KnownHosts, names: HostNames, entries: dict[str, HostEntry], changes: Changes
) -> str:
    if any(entry.marker or not is_plain(entry.hosts) for entry in entries.values()):
        return "CA/revocation marker, manual host list or wildcard host pattern found"
    if any(_is_about_another(entry, names) for entry in entries.values()):
        return "host key found matching a different name/address"
    for key in (*changes.keys, *changes.old):
        if any(entry.place not in entries for entry in known.entries_with(key, marked=True)):
            return "host key found matching a different name/address"
    return ""


def _is_about_another(entry: HostEntry, names: HostNames) -> bool:
    """With CheckHostIP: a line that has our name with another address, or the other way round."""
    hosts = entry.hosts.lower().split(",")
    return names.address is not None and len(hosts) > 1 and not set(names.all) >= set(hosts)


def write_changes(
    files: Sequence[str], names: HostNames, changes: Changes, *, hashed: bool
) -> list[str]:
    """The keys go into the first file, and what the others have of the host goes away, as with ssh;
    a file that is not there is not made. What could not be done is returned."""
    complaints = []
    for number, path in enumerate(files):
        if not os.path.exists(path):
            continue
        try:
            replace_host_keys(path, names.all, () if number else changes.keys, hashed=hashed)
        except KnownHostsError as error:
            complaints.append(str(error))
    return complaints
