"""Fixtures for all tests."""

import pytest

from tests.helpers import FakeClock, World


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def world():
    return World()
