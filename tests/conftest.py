"""Fixtures that every folder of tests may use: accounts, PAM services, the janitor that removes
them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.accounts import PAM_SERVICE, Account, PamService, make_account, make_pam_service
from tests.janitor import SERVICE_USER, Janitor
from tests.needs import need_root

# A busy machine is no failure: a deadline, or how long an example is in the making, would time it,
# not the code.
settings.register_profile(
    "sshoq", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sshoq")

# What a group may write counts as somebody else's, and whoever has a group alone has such a umask.
os.umask(0o022)


@pytest.fixture(scope="session")
def janitor() -> Iterator[Janitor]:
    """Undoes at the end what was owed to it, and also when this process is killed."""
    janitor = Janitor()
    yield janitor
    janitor.close()


@pytest.fixture(scope="session")
def account_factory(
    janitor: Janitor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Account]:
    """Makes throw-away users; the caller says which groups and shell they have."""
    need_root()
    keys = tmp_path_factory.mktemp("keys")

    def make(*, shell: str = "/bin/bash", groups: tuple[str, ...] = ()) -> Account:
        return make_account(janitor, keys, shell=shell, groups=groups)

    return make


@pytest.fixture(scope="session")
def account(account_factory: Callable[..., Account]) -> Account:
    """One user whom tests share; whoever changes the home puts it back or takes `fresh_account`."""
    return account_factory()


@pytest.fixture
def fresh_account(account_factory: Callable[..., Account]) -> Account:
    """A user of this test's own, whose files it may change as it likes."""
    return account_factory()


@pytest.fixture
def pam_service(janitor: Janitor) -> PamService:
    """Debian's usual stack; whose nologin and environment files are the test's own."""
    need_root()
    return make_pam_service(janitor, janitor.directory(), PAM_SERVICE)


@pytest.fixture(scope="session")
def service_user(janitor: Janitor) -> str:
    """The server's own user, made where the server was never installed."""
    need_root()
    janitor.make_service_user()
    return SERVICE_USER
