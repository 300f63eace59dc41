"""What most reports are tried with: every kind of pool, and both ways to return a resource."""

import logging

import pytest

from tests.helpers import FakeResource, PlainResource


@pytest.fixture(params=[PlainResource, FakeResource], ids=["plain", "hooked"])
def kind(request):
    """Give a class without repair hooks, whose takes and puts are short, and one with them."""
    return request.param


@pytest.fixture(params=[False, True], ids=["factory", "seeded"])
def isSeeded(request):
    """Tell whether the pool is seeded with put, or builds with a factory."""
    return request.param


@pytest.fixture(params=["put", "with"])
def giveBack(request):
    """Give a function that returns a resource to its pool, by put or by the end of a with."""
    def byPut(resource):
        resource.pool.put(resource)

    def byWith(resource):
        resource.__exit__(None, None, None)

    return byPut if request.param == "put" else byWith


@pytest.fixture
def unrecorded(monkeypatch):
    """Log nothing: pytest keeps log records, whose tracebacks keep alive what is to end."""
    monkeypatch.setattr(logging.getLogger("queuepool"), "disabled", True)
