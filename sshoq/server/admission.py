"""Process: main [root]. Who may start a connection: MaxStartups, PerSourceMaxStartups and
PerSourcePenalties, with OpenSSH's rules.

Pure: time and chance come in as arguments. Connections count from their admission until they have
logged in or ended; sources are address prefixes, since an IPv6 host has a whole network to itself.
"""

import random
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from ipaddress import ip_address

from sshoq.config.patterns import match_cidr_list
from sshoq.server.admission_values import MaxStartups, NetBlockSize
from sshoq.server.config import ServerConfig

Source = tuple[int, int]
"""IP version and the bits of the address that count."""

Roll = Callable[[int], int]
"""A random number below its argument."""


class Refused(Exception):
    """No connection for this peer now; str() says why, in sshd's words."""


def source_of(address: str, block: NetBlockSize) -> Source:
    """Which source an address belongs to. An IPv4 address in IPv6 clothes is IPv4."""
    parsed = ip_address(address.partition("%")[0])
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    bits = block.ipv4 if parsed.version == 4 else block.ipv6
    return parsed.version, int(parsed) >> (parsed.max_prefixlen - bits)


def should_drop(waiting: int, limit: MaxStartups, roll: Roll) -> bool:
    """Random early drop: from `begin` with `rate` per cent, rising evenly to all at `full`."""
    if waiting < limit.begin:
        return False
    if waiting >= limit.full or limit.rate == 100:
        return True
    span = limit.full - limit.begin
    chance = limit.rate + (100 - limit.rate) * (waiting - limit.begin) // span
    return roll(100) < chance


class _Penalty:
    __slots__ = ("active", "expiry", "reason")

    def __init__(self) -> None:
        self.active = False
        self.expiry = 0.0
        self.reason = ""


class PenaltyBox:
    """Penalties by source: they add up, decay with time, and count once they reach the minimum."""

    def __init__(self, settings: Mapping[str, int | str | bool], exempt: str | None) -> None:
        self._settings = settings
        self._exempt = exempt
        self._penalties: dict[Source, _Penalty] = {}
        # Earliest expiry first; an entry is stale when the source's penalty has grown since.
        self._order: list[tuple[float, Source]] = []
        self._counts = {4: 0, 6: 0}

    def penalise(self, address: str, source: Source, kind: str, now: float) -> None:
        """Add what `kind` ("authfail", …) costs; nothing for an unknown kind."""
        seconds = self._settings.get(kind, 0)
        if not self._settings["enabled"] or not isinstance(seconds, int) or seconds <= 0:
            return
        if self._is_exempt(address):
            return
        self._expire(now)
        penalty = self._penalties.get(source) or self._new(source)
        if penalty is None:
            return
        bound = now + self._number("max")
        penalty.expiry = min(max(penalty.expiry, now) + seconds, bound)
        penalty.reason = kind
        if penalty.expiry - now >= self._number("min"):
            penalty.active = True
        heappush(self._order, (penalty.expiry, source))
        if len(self._order) > 2 * len(self._penalties) + 64:
            self._order = sorted((entry.expiry, one) for one, entry in self._penalties.items())

    def check(self, address: str, source: Source, now: float) -> None:
        """Refused while an active penalty lasts."""
        if not self._settings["enabled"] or self._is_exempt(address):
            return
        self._expire(now)
        penalty = self._penalties.get(source)
        if penalty is None:
            if self._is_full(source[0]) and self._overflow(source[0]) == "deny-all":
                raise Refused("too many penalised sources")
        elif penalty.active:
            raise Refused(f"penalty: {penalty.reason}")

    def _new(self, source: Source) -> _Penalty | None:
        version = source[0]
        if self._is_full(version):
            if self._overflow(version) == "deny-all":
                return None
            self._drop_earliest(version)
        penalty = self._penalties[source] = _Penalty()
        self._counts[version] += 1
        return penalty

    def _expire(self, now: float) -> None:
        while self._order and self._order[0][0] <= now:
            expiry, source = heappop(self._order)
            self._remove_if_at(source, expiry)

    def _drop_earliest(self, version: int) -> None:
        """Room for a new source: the one that would be forgiven first is forgiven now."""
        kept: list[tuple[float, Source]] = []
        while self._order:
            expiry, source = heappop(self._order)
            if source[0] != version:
                kept.append((expiry, source))
            elif self._remove_if_at(source, expiry):
                break
        for entry in kept:
            heappush(self._order, entry)

    def _remove_if_at(self, source: Source, expiry: float) -> bool:
        penalty = self._penalties.get(source)
        if penalty is None or penalty.expiry != expiry:
            return False
        del self._penalties[source]
        self._counts[source[0]] -= 1
        return True

    def _is_full(self, version: int) -> bool:
        return self._counts[version] >= self._number(f"max-sources{version}")

    def _overflow(self, version: int) -> object:
        return self._settings["overflow" if version == 4 else "overflow6"]

    def _number(self, key: str) -> int:
        value = self._settings[key]
        assert isinstance(value, int)
        return value

    def _is_exempt(self, address: str) -> bool:
        return self._exempt is not None and match_cidr_list(address, self._exempt) > 0


def _roll(below: int) -> int:
    return random.randrange(below)


class Admission:
    """The connections that have not logged in yet, and the sources that misbehaved."""

    def __init__(self, config: ServerConfig, roll: Roll = _roll) -> None:
        self._config = config
        self._roll = roll
        self._penalties = PenaltyBox(
            config.per_source_penalties, config.per_source_penalty_exempt_list
        )
        self._waiting: dict[Source, int] = {}
        self.waiting = 0
        """How many connections have not logged in."""

    def reconfigure(self, config: ServerConfig) -> None:
        """New limits for newcomers. Penalties are forgotten when their rules change."""
        old = self._config
        self._config = config
        if (old.per_source_penalties, old.per_source_penalty_exempt_list) != (
            config.per_source_penalties,
            config.per_source_penalty_exempt_list,
        ):
            self._penalties = PenaltyBox(
                config.per_source_penalties, config.per_source_penalty_exempt_list
            )

    def admit(self, address: str, now: float) -> Source:
        """Count a new connection and return its source, for `release`; or Refused."""
        source = source_of(address, self._config.per_source_net_block_size)
        self._penalties.check(address, source, now)
        limit = self._config.per_source_max_startups
        if limit is not None and self._waiting.get(source, 0) >= limit:
            raise Refused("PerSourceMaxStartups")
        if should_drop(self.waiting, self._config.max_startups, self._roll):
            raise Refused("past MaxStartups")
        self._waiting[source] = self._waiting.get(source, 0) + 1
        self.waiting += 1
        return source

    def release(self, source: Source) -> None:
        """That connection has logged in, or is gone."""
        self.waiting -= 1
        left = self._waiting[source] - 1
        if left:
            self._waiting[source] = left
        else:
            del self._waiting[source]

    def penalise(self, address: str, kind: str, now: float) -> None:
        source = source_of(address, self._config.per_source_net_block_size)
        self._penalties.penalise(address, source, kind, now)
