"""What holds for all unit tests: a wake-up that is missed stays missed, so that a test sees it."""

import pytest


@pytest.fixture(autouse=True)
def noSecondLook(monkeypatch):
    monkeypatch.setattr("queuepool.core.idle.LOOK_AGAIN_TIME", 3600.0)
