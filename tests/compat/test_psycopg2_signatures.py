"""What 1.3.2's psycopg2cm looks like from outside, signature by signature."""

import inspect

import pytest

from queuepool.pool import ResourceManager

pytest.importorskip("psycopg2", reason="psycopg2 is not installed")

from queuepool.psycopg2cm import ConnectionManager, ConnectionManagerExtended

POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD


@pytest.mark.parametrize("cls", [ConnectionManager, ConnectionManagerExtended])
def test_a_manager_takes_its_settings_in_the_old_order(cls):
    parameters = inspect.signature(cls).parameters.values()
    assert [each.name for each in parameters if each.kind is POSITIONAL] == [
        "name", "isolation_level", "readonly", "deferrable", "autocommit"]
    assert {each.kind for each in parameters} >= {
        inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    manager = cls("one", 3, True, False, None, "dbname=a", host="b")
    assert (manager.isolation_level, manager.readonly, manager.deferrable,
            manager.autocommit) == (3, True, False, None)
    assert isinstance(manager, ResourceManager)
    assert not manager._isOpen and manager.resource is None and str(manager) == "one"


@pytest.mark.parametrize("method, names", [
    ("now_expr", {"t": 0}),
    ("query", {"query": ..., "args": None}),
    ("querys", {"query": ..., "args": None}),
    ("query1", {"query": ..., "args": None}),
    ("qexec", {"query": ..., "args": None}),
    ("geojson", {"geomColumn": ..., "attrColumns": ..., "selectQuery": ..., "args": None,
                 "prec": 5}),
    ("repair", {}), ("open", {}), ("close", {}), ("takeRepair", {}), ("putRepair", {}),
])
def test_a_method_takes_what_it_took(method, names):
    parameters = list(
        inspect.signature(getattr(ConnectionManagerExtended, method)).parameters.values())[1:]
    assert {each.name: ... if each.default is each.empty else each.default
            for each in parameters} == names
    assert all(each.kind is POSITIONAL for each in parameters)
