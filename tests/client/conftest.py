"""What tests of the whole client at a little server share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.accounts import make_key
from tests.client.quick_client import QuickClient, quick_client
from tests.needs import need_tools


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickClient]:
    with quick_client(tmp_path_factory.mktemp("client")) as client:
        yield client


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    need_tools("ssh-keygen")
    return str(make_key(tmp_path_factory.mktemp("key") / "key"))
