"""Who may start a connection: OpenSSH's rules, on a clock and dice of the test's own."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sshoq.server.admission import Admission, PenaltyBox, Refused, should_drop, source_of
from sshoq.server.admission_values import PENALTIES, MaxStartups, NetBlockSize
from sshoq.server.config import ServerConfig
from sshoq.server.config_reader import load

A, B = "192.0.2.1", "192.0.2.2"
BLOCK = NetBlockSize(32, 128)


def config(*lines: str) -> ServerConfig:
    return load(None, lines)


def never(below: int) -> int:
    """Dice that never drop anybody by chance."""
    return below - 1


class Box:
    """A penalty box with sources by address."""

    def __init__(self, exempt: str | None = None, **settings: int | str | bool) -> None:
        names = {name.replace("_", "-"): value for name, value in settings.items()}
        self.box = PenaltyBox({**PENALTIES, **names}, exempt)

    def penalise(self, address: str, kind: str, now: float) -> None:
        self.box.penalise(address, source_of(address, BLOCK), kind, now)

    def refusal(self, address: str, now: float) -> str:
        try:
            self.box.check(address, source_of(address, BLOCK), now)
        except Refused as error:
            return str(error)
        return ""


# --------------------------------------------------------------------------- MaxStartups


def test_nobody_is_dropped_before_begin_and_everybody_at_full() -> None:
    limit = MaxStartups(10, 30, 100)
    assert not any(should_drop(waiting, limit, lambda below: 0) for waiting in range(10))
    assert should_drop(100, limit, lambda below: 99)


@pytest.mark.parametrize(("waiting", "chance"), [(10, 30), (55, 65), (99, 99)])
def test_the_chance_rises_evenly(waiting: int, chance: int) -> None:
    limit = MaxStartups(10, 30, 100)
    dropped = sum(should_drop(waiting, limit, lambda below, n=n: n) for n in range(100))  # type: ignore[misc]
    assert dropped == chance


@given(
    begin=st.integers(1, 50), rate=st.integers(1, 100), more=st.integers(0, 50), seed=st.integers()
)
def test_a_busier_server_never_drops_less(begin: int, rate: int, more: int, seed: int) -> None:
    limit = MaxStartups(begin, rate, begin + more)
    rolled = random.Random(seed).randrange(100)
    verdicts = [
        should_drop(waiting, limit, lambda below: rolled) for waiting in range(begin + more + 2)
    ]
    assert verdicts == sorted(verdicts)
    assert verdicts[-1] is True


def test_those_who_logged_in_or_left_make_room() -> None:
    admission = Admission(config("MaxStartups 2:100:2"), never)
    first, _ = admission.admit(A, 0), admission.admit(B, 0)
    with pytest.raises(Refused, match="past MaxStartups"):
        admission.admit(A, 0)
    admission.release(first)
    admission.admit(A, 0)
    assert admission.waiting == 2


# --------------------------------------------------------------------------- sources


@pytest.mark.parametrize(
    ("one", "other", "block", "same"),
    [
        ("192.0.2.1", "192.0.2.2", (32, 128), False),
        ("192.0.2.1", "192.0.2.2", (24, 128), True),
        ("2001:db8::1", "2001:db8::2", (32, 64), True),
        ("2001:db8::1", "2001:db8:0:1::1", (32, 64), False),
        ("::ffff:192.0.2.1", "192.0.2.1", (32, 64), True),
        ("fe80::1%eth0", "fe80::1%eth1", (32, 128), True),
        ("0.0.0.1", "::1", (32, 128), False),
        ("192.0.2.1", "198.51.100.1", (0, 0), True),
    ],
)
def test_a_source_is_a_prefix(one: str, other: str, block: tuple[int, int], same: bool) -> None:
    size = NetBlockSize(*block)
    assert (source_of(one, size) == source_of(other, size)) is same


def test_a_source_has_so_many_connections_and_others_are_free() -> None:
    admission = Admission(config("PerSourceMaxStartups 2"), never)
    first, _ = admission.admit(A, 0), admission.admit(A, 0)
    with pytest.raises(Refused, match="PerSourceMaxStartups"):
        admission.admit(A, 0)
    admission.admit(B, 0)
    admission.release(first)
    admission.admit(A, 0)


def test_a_block_is_counted_as_one_source() -> None:
    lines = ("PerSourceMaxStartups 1", "PerSourceNetBlockSize 24:64")
    admission = Admission(config(*lines), never)
    admission.admit(A, 0)
    with pytest.raises(Refused):
        admission.admit(B, 0)


# --------------------------------------------------------------------------- penalties


def test_penalties_add_up_and_count_from_the_minimum() -> None:
    box = Box()
    box.penalise(A, "authfail", 0)
    box.penalise(A, "authfail", 0)
    assert box.refusal(A, 0) == ""
    box.penalise(A, "authfail", 0)
    assert box.refusal(A, 0) == "penalty: authfail"
    assert box.refusal(B, 0) == ""
    assert box.refusal(A, 14.9) == "penalty: authfail"
    assert box.refusal(A, 15.1) == ""


def test_penalties_decay_between_failures() -> None:
    box = Box()
    for now in range(0, 100, 5):
        box.penalise(A, "authfail", now)
        assert box.refusal(A, now) == ""


def test_an_active_penalty_stays_active_until_it_is_over() -> None:
    box = Box()
    box.penalise(A, "crash", 0)
    box.penalise(A, "noauth", 89)
    assert box.refusal(A, 90.5) == "penalty: noauth"
    assert box.refusal(A, 91.5) == ""


def test_no_penalty_is_longer_than_the_maximum() -> None:
    box = Box(max=100)
    for _ in range(50):
        box.penalise(A, "crash", 0)
    assert box.refusal(A, 99) == "penalty: crash"
    assert box.refusal(A, 101) == ""


def test_exempt_networks_and_switched_off_penalties() -> None:
    exempt = Box("192.0.2.0/28,::1/128")
    exempt.penalise(A, "crash", 0)
    exempt.penalise("::1", "crash", 0)
    exempt.penalise("192.0.2.99", "crash", 0)
    assert [exempt.refusal(one, 1) for one in (A, "::1")] == ["", ""]
    assert exempt.refusal("192.0.2.99", 1) == "penalty: crash"
    off = Box(enabled=False)
    off.penalise(A, "crash", 0)
    assert off.refusal(A, 1) == ""


@pytest.mark.parametrize("kind", ["nonsense", "max", "overflow", "enabled", ""])
def test_an_unknown_kind_costs_nothing_worse_than_a_number(kind: str) -> None:
    box = Box(max=10, min=15)
    box.penalise(A, kind, 0)
    assert box.refusal(A, 1) == ""


def test_a_kind_may_cost_nothing() -> None:
    box = Box(noauth=0)
    for _ in range(100):
        box.penalise(A, "noauth", 0)
    assert box.refusal(A, 0) == ""


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def test_a_full_box_forgives_who_would_be_forgiven_first() -> None:
    box = Box(max_sources4=3)
    for number, now in ((1, 0), (2, 1), (3, 2), (4, 3)):
        box.penalise(address(number), "crash", now)
    assert [box.refusal(address(number), 4) for number in (1, 2, 3, 4)] == [
        "",
        *["penalty: crash"] * 3,
    ]


def test_a_full_box_may_refuse_all_strangers() -> None:
    box = Box(max_sources4=2, overflow="deny-all")
    box.penalise(address(1), "crash", 0)
    assert box.refusal(address(9), 0) == ""
    box.penalise(address(2), "noauth", 0)
    assert box.refusal(address(9), 0.5) == "too many penalised sources"
    assert box.refusal("2001:db8::1", 0.5) == ""
    assert box.refusal(address(9), 2) == ""


def test_the_families_have_room_of_their_own() -> None:
    box = Box(max_sources4=1, max_sources6=1)
    box.penalise(A, "crash", 0)
    box.penalise("2001:db8::1", "crash", 0)
    box.penalise("2001:db8::2", "crash", 1)
    assert box.refusal(A, 2) == "penalty: crash"
    assert box.refusal("2001:db8::1", 2) == ""


def test_a_source_that_fails_for_ever_takes_no_more_memory() -> None:
    box = Box()
    for now in range(5000):
        box.penalise(A, "authfail", now)
    assert len(box.box._order) < 200
    assert box.refusal(A, 5000) == "penalty: authfail"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(["authfail", "crash", "noauth", "grace-exceeded"]),
            st.integers(0, 40),
        ),
        max_size=60,
    )
)
def test_the_box_agrees_with_the_plain_rule(failures: list[tuple[int, str, int]]) -> None:
    """Each source alone: its penalty grows, is bounded, decays, and counts from the minimum."""
    box, now = Box(max=100), 0
    expiries: dict[int, int] = {}
    active: dict[int, bool] = {}
    for who, kind, pause in failures:
        now += pause
        cost = PENALTIES[kind]
        assert isinstance(cost, int)
        if expiries.get(who, 0) <= now:
            expiries[who], active[who] = now, False
        expiries[who] = min(expiries[who] + cost, now + 100)
        active[who] = active[who] or expiries[who] - now >= 15
        box.penalise(address(who), kind, now)
        for other in range(6):
            shut_out = active.get(other, False) and expiries.get(other, 0) > now
            assert bool(box.refusal(address(other), now)) is shut_out


def test_new_rules_forgive_and_the_same_rules_do_not() -> None:
    admission = Admission(config(), never)
    admission.penalise(A, "crash", 0)
    admission.reconfigure(config("Banner /b"))
    with pytest.raises(Refused, match="penalty: crash"):
        admission.admit(A, 1)
    admission.reconfigure(config("PerSourcePenalties crash:5"))
    admission.admit(A, 1)
