"""The log lines: on the logger queuepool, each with the pool's name; they never fail a call."""

import logging
import subprocess
import sys

import pytest

from queuepool import Pool
from tests.helpers import FakeResource, PlainResource, checkClosed, checkWhole


def test_openings_and_closings_are_logged_with_their_reason(caplog, clock):
    caplog.set_level(logging.DEBUG, "queuepool")
    pool = Pool("p", 1, clock=clock, factory=lambda name: FakeResource(
        name, open=[lambda: clock.advance(1.25)]))
    with pool.take():
        pass
    clock.advance(301)
    pool.recycle()
    assert [(record.name, record.levelname, record.message) for record in caplog.records] == [
        ("queuepool", "DEBUG", "pool p: opened 'p-0' in 1.250 s"),
        ("queuepool", "DEBUG", "pool p: closed 'p-0': age")]


@pytest.mark.parametrize("name", ["50%d", "%", "%s%s", "{0}", "a\nb", ""])
def test_any_name_can_be_logged(name, caplog, capsys):
    caplog.set_level(logging.DEBUG, "queuepool")
    pool = Pool(name, 1, factory=lambda name: FakeResource(name, close=[OSError]))
    with pool.take() as resource:
        assert resource.name == f"{name}-0"
        pool.close()
    assert len(caplog.messages) == 3
    assert all(message.startswith(f"pool {name}: ") for message in caplog.messages)
    assert capsys.readouterr().err == ""


def test_a_logging_that_fails_is_not_the_pools_failure(monkeypatch, world):
    class Failing(logging.Handler):
        def emit(self, record):
            raise ZeroDivisionError

    handler = Failing(logging.DEBUG)
    logger = logging.getLogger("queuepool")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.manager._clear_cache()
    try:
        pool = Pool("p", 1, maxUsageCount=1, factory=lambda name: PlainResource(name, world))
        with pool.take():
            pass
        checkWhole(pool, world)
        checkClosed(pool, world)
    finally:
        monkeypatch.undo()
        logger.manager._clear_cache()


def test_a_program_without_logging_sees_nothing():
    program = """if True:
        import queuepool
        class Failing(queuepool.Resource):
            def open(self):
                super().open()
            def close(self):
                raise OSError
        pool = queuepool.Pool("p", 1, factory=Failing)
        with pool.take():
            pass
        pool.close()
        assert pool.stats().closeErrors == 1
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
