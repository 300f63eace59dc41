"""A pool of connections to the embedded PostgreSQL, and one of nothing real."""

import pytest

from queuepool import Pool
from queuepool.psycopg2 import ConnectionPool
from tests.helpers import FakeResource, PlainResource
from tests.postgres.conftest import admin, dsn, parameters

__all__ = ["admin", "dsn", "parameters"]

CAPACITY = 2


@pytest.fixture(params=["hooks", "plain", "plain with histograms", "PostgreSQL"])
def pool(request):
    """Be a pool of each kind: they count the time of use differently."""
    if request.param == "PostgreSQL":
        pool = ConnectionPool("app", CAPACITY, request.getfixturevalue("dsn"))
    elif request.param == "hooks":
        pool = Pool("app", CAPACITY, factory=FakeResource)
    else:
        pool = Pool("app", CAPACITY, factory=PlainResource, histograms=request.param != "plain")
    with pool:
        yield pool
