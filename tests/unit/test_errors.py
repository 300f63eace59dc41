"""The errors: what they are, so that a program may catch them by a name it knows."""

import pickle

import pytest

import queuepool
from queuepool import Pool, PoolBusy, PoolClosed, PoolDeadlock, PoolError, PoolTimeout
from queuepool.errors import TakeBusy, TakeDeadlock, TakeTimeout


def test_every_error_is_a_pool_error():
    assert PoolError.__bases__ == (Exception,)
    assert issubclass(PoolTimeout, PoolError)
    assert issubclass(PoolBusy, PoolTimeout)
    assert issubclass(PoolDeadlock, PoolTimeout)
    assert issubclass(PoolClosed, PoolError)


def test_a_time_out_is_also_a_timeout_error():
    with Pool("p", 1) as pool, pytest.raises(PoolTimeout) as caught:
        pool.take(timeout=0)
    assert isinstance(caught.value, TimeoutError)
    assert not issubclass(PoolClosed, TimeoutError)
    for kind, own in (PoolBusy, TakeBusy), (PoolDeadlock, TakeDeadlock):
        assert issubclass(own, kind) and issubclass(own, TakeTimeout)


@pytest.mark.parametrize("kind", [PoolError, PoolTimeout, PoolBusy, PoolDeadlock, PoolClosed])
def test_an_error_says_its_text_and_survives_pickling(kind):
    error = pickle.loads(pickle.dumps(kind("pool 'p': no")))
    assert type(error) is kind
    assert str(error) == "pool 'p': no"


def test_the_public_names_are_these():
    assert sorted(queuepool.__all__) == [
        "Advice", "Histogram", "Holder", "Pool", "PoolBusy", "PoolClosed", "PoolDeadlock",
        "PoolError", "PoolTimeout", "Reason", "Report", "Resource", "ResourceManager", "Stats",
        "Verdict", "allPools", "dumpOnSignal"]
    assert all(hasattr(queuepool, name) for name in queuepool.__all__)
