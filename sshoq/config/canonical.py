"""The name to connect to: addresses in their usual form, names completed by CanonicalDomains."""

from sshoq.config.destination import domain_error
from sshoq.config.keywords import KEYWORDS, Settings
from sshoq.config.lexer import ascii_lower
from sshoq.config.patterns import MATCH, match_pattern_list
from sshoq.config.surroundings import ResolveError, Surroundings, canonical_address
from sshoq.config.usage import DEBUG1, VERBOSE, Notes


class Canonicalizer:
    """Finds the canonical name with the settings of the first pass."""

    def __init__(self, settings: Settings, surroundings: Surroundings, notes: Notes) -> None:
        self.settings = settings
        self.surroundings = surroundings
        self.notes = notes
        self.mode = str(self._setting("canonicalizehostname"))
        # OpenSSH takes even "ProxyJump none" for a proxy here.
        self.direct = not self._has_proxy_command() and settings.get("proxy_jump") is None

    def _setting(self, keyword: str) -> object:
        row = KEYWORDS[keyword]
        return self.settings.get(row.attribute, row.default)

    def _has_proxy_command(self) -> bool:
        command = self.settings.get("proxy_command")
        return isinstance(command, str) and command.lower() != "none"

    @property
    def is_asked_for(self) -> bool:
        return self.mode != "no"

    def name(self, host: str) -> str:
        """The name that takes host's place; host itself when there is no other."""
        address = canonical_address(host)
        if address is None:
            host = ascii_lower(host)
        elif self._family_fits(address):
            return address if ascii_lower(address) != ascii_lower(host) else host
        found = self._qualify(host) if address is None else None
        if found is not None:
            return found
        return self._follow_system_name(host)

    def _family_fits(self, address: str) -> bool:
        family = self._setting("addressfamily")
        return family == "any" or (family == "inet6") == (":" in address)

    def _may_canonicalize(self) -> bool:
        return self.is_asked_for and (self.direct or self.mode == "always")

    def _qualify(self, host: str) -> str | None:
        """Try the name with each domain behind it; None when it stays as it is."""
        if not self._may_canonicalize() or not host or not host.strip("0123456789."):
            return None
        maximum = self._setting("canonicalizemaxdots")
        if host.endswith("."):
            candidates = [host]
        elif isinstance(maximum, int) and host.count(".") > maximum:
            return None
        else:
            candidates = [f"{host}.{domain}." for domain in self._domains()]
        for candidate in candidates:
            canonical = self._look_up(candidate)
            if canonical is not None:
                name = candidate.removesuffix(".")
                self.notes.add(DEBUG1, f'Canonicalized hostname "{host}" => "{name}"')
                return self._follow(name, canonical)
        if not self._setting("canonicalizefallbacklocal"):
            raise self.notes.fatal(f'ssh: Could not resolve host "{host}"')
        return None

    def _domains(self) -> tuple[str, ...]:
        domains = self._setting("canonicaldomains")
        if not isinstance(domains, tuple) or domains[:1] == ("none",):
            return ()
        return domains

    def _look_up(self, name: str, *, complain: bool = False) -> str | None:
        """The resolver's own name for it, "" if that is no proper one; None when it has none."""
        port = self._setting("port")
        family = str(self._setting("addressfamily"))
        try:
            answer = self.surroundings.resolver(name, port if isinstance(port, int) else 22, family)
        except ResolveError as error:
            self.notes.error(f"ssh: Could not resolve hostname {name[:100]}: {error}")
            return None
        if answer is None:
            if complain:
                reason = "Name or service not known"
                self.notes.error(f"ssh: Could not resolve hostname {name[:100]}: {reason}")
            return None
        return "" if domain_error(answer.canonical) else ascii_lower(answer.canonical)

    def _rules(self) -> list[tuple[str, str]]:
        rules = self._setting("canonicalizepermittedcnames")
        assert isinstance(rules, tuple)
        return [rule for rule in rules if rule[0].lower() != "none"]

    def _follow(self, name: str, canonical: str) -> str:
        """The alias target, where CanonicalizePermittedCNAMEs lets the alias be followed."""
        if not canonical or canonical == name or not self._may_canonicalize():
            return name
        for source, target in self._rules():
            if (
                match_pattern_list(name, source, lower=True) == MATCH
                and match_pattern_list(canonical, target, lower=True) == MATCH
            ):
                text = f'Canonicalized DNS aliased hostname "{name}" => "{canonical}"'
                self.notes.add(VERBOSE, text)
                return canonical
        return name

    def _follow_system_name(self, host: str) -> str:
        """With permitted CNAMEs the name is looked up as it is, even if canonicalisation is off."""
        if not self._rules() or not (self.direct or self.mode == "always"):
            return host
        canonical = self._look_up(host, complain=self.direct)
        if canonical is not None:
            return self._follow(host, canonical)
        if self.direct:
            raise self.notes.fatal()
        return host
