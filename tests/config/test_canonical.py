"""Canonical names."""

from tests.config.wishes import Machine

ON = "CanonicalizeHostname yes\nCanonicalDomains nowhere.net example.com\n"


def name(machine: Machine, config: str, *argv: str) -> str:
    machine.write(config)
    return machine.resolve(*argv).host


def test_names_are_completed_by_the_first_domain_that_resolves(machine: Machine) -> None:
    assert name(machine, ON, "DB") == "db.example.com"
    assert name(machine, ON, "unknown") == "unknown"


def test_names_are_left_alone_unless_asked(machine: Machine) -> None:
    assert name(machine, "CanonicalDomains example.com\n", "DB") == "db"


def test_the_second_pass_sees_the_canonical_name(machine: Machine) -> None:
    machine.write(f"{ON}Host db.example.com\n User a\nMatch canonical originalhost db\n Port 7\n")
    options = machine.resolve("db").options
    assert (options.user, options.port) == ("a", 7)


def test_addresses_take_their_usual_form(machine: Machine) -> None:
    assert name(machine, "", "127.1") == "127.0.0.1"
    assert name(machine, "", "0:0::1") == "::1"
    assert name(machine, "AddressFamily inet6\n", "127.1") == "127.1"
    assert name(machine, "", "1.2.3.4.5") == "1.2.3.4.5"


def test_dots_can_be_enough(machine: Machine) -> None:
    assert (
        name(machine, f"{ON}CanonicalizeMaxDots 0\nCanonicalDomains com\n", "db.example")
        == "db.example"
    )


def test_a_final_dot_anchors_the_name(machine: Machine) -> None:
    assert name(machine, ON, "db.example.com.") == "db.example.com"


def test_no_fallback_ends_the_run(machine: Machine) -> None:
    machine.write(f"{ON}CanonicalizeFallbackLocal no\n")
    assert machine.refusal("unknown") == ('ssh: Could not resolve host "unknown"',)


def test_a_proxy_resolves_names_itself(machine: Machine) -> None:
    assert name(machine, f"{ON}ProxyCommand x\n", "db") == "db"
    assert name(machine, f"{ON}ProxyJump x\n", "db") == "db"
    assert name(machine, f"{ON}ProxyCommand none\n", "db") == "db.example.com"
    assert name(machine, f"{ON.replace('yes', 'always')}ProxyJump x\n", "db") == "db.example.com"


def test_an_alias_is_followed_where_it_is_permitted(machine: Machine) -> None:
    allowed = f"{ON}CanonicalizePermittedCNAMEs *.example.com:*.example.org\n"
    assert name(machine, allowed, "www") == "real.example.org"
    assert name(machine, f"{ON}CanonicalizePermittedCNAMEs *:*.net\n", "www") == "www.example.com"
    assert name(machine, f"{ON}CanonicalizePermittedCNAMEs none\n", "www") == "www.example.com"
    assert name(machine, f"{ON}CanonicalizePermittedCNAMEs *\n", "odd") == "odd.example.com"


def test_permitted_aliases_need_a_name_that_resolves(machine: Machine) -> None:
    machine.write("CanonicalizePermittedCNAMEs *:*\n")
    assert machine.refusal("unknown") == (
        "ssh: Could not resolve hostname unknown: Name or service not known",
    )
    assert machine.resolve("www").host == "www"


def test_the_resolver_s_own_troubles_are_told(machine: Machine) -> None:
    machine.write(ON)
    notes = machine.resolve("broken").notes
    assert notes[0].endswith("broken.nowhere.net.: Temporary failure in name resolution")
