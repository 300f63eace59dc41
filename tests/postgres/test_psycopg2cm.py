"""The connection managers as a program written for 1.3.2 uses them."""

import psycopg2
import pytest
from psycopg2 import sql

from queuepool import Pool
from queuepool.psycopg2cm import ConnectionManager, ConnectionManagerExtended


@pytest.fixture
def makeManagers(parameters):
    pools = []

    def make(cls=ConnectionManagerExtended, capacity=2, closeOnException=True, **options):
        pool = Pool(name="old", capacity=capacity, maxIdleTime=60, maxOpenTime=600,
                    maxUsageCount=1000, closeOnException=closeOnException)
        for number in range(capacity):
            pool.put(cls(name=f"old-{number}", **{"application_name": "old", **options},
                         **parameters))
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def manager(makeManagers):
    with makeManagers().take() as manager:
        manager.qexec("create table t (a int, b text)")
        manager.qexec("insert into t values (%s, %s), (2, 'y')", (1, "x"))
        yield manager


def test_with_hands_out_the_manager(makeManagers):
    pool = makeManagers(ConnectionManager, autocommit=False, isolation_level=3)
    with pool.take() as manager:
        assert type(manager) is ConnectionManager
        with manager.resource as conn, conn.cursor() as cur:
            cur.execute("show transaction_isolation")
            assert cur.fetchone() == ("serializable",)
    assert manager.resource is conn and manager.isOpen


def test_take_and_put_without_with(makeManagers, admin):
    pool = makeManagers()
    manager = pool.take()
    manager.qexec("create table t (a int)")
    pool.put(manager)
    assert admin.value("select to_regclass('t')") is None
    assert manager.resource.get_transaction_status() == 0


@pytest.mark.parametrize("closes", [True, False])
def test_close_on_exception(makeManagers, closes):
    pool = makeManagers(closeOnException=closes)
    with pytest.raises(KeyError), pool.take() as manager:
        raise KeyError
    assert manager.isOpen is not closes
    assert (manager.resource is None) is closes


def test_a_manager_that_its_user_closed_may_be_put(makeManagers):
    pool = makeManagers(capacity=1)
    manager = pool.take()
    manager.close()
    pool.put(manager)
    with pool.take() as manager:
        assert manager.query1("select 1 as one") == {"one": 1}
        manager.resource.close()
    with pool.take() as manager:
        assert manager.query1("select 1 as one") == {"one": 1}


def test_repair_cleans_and_is_what_put_calls(makeManagers):
    class Own(ConnectionManager):
        repairs = 0

        def repair(self):
            super().repair()
            self.repairs += 1

    with makeManagers(Own, capacity=1).take() as manager:
        manager.repairs = 0
        with manager.resource.cursor() as cur:
            cur.execute("select 1")
        manager.repair()
        assert manager.resource.get_transaction_status() == 0
        manager.resource.close()
        manager.repair()
        assert not manager.isOpen and manager.resource is None
        manager.repair()
    assert manager.repairs == 4


def test_query_returns_dicts(manager):
    assert manager.query("select a, b from t order by a") == [
        {"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert manager.query("select a from t where a = %(a)s", {"a": 2}) == [{"a": 2}]
    assert manager.query(sql.SQL("select a from {} where a > %s").format(
        sql.Identifier("t")), (2,)) == []


def test_querys_returns_tuples_and_their_description(manager):
    rows, description = manager.querys("select a, b from t where a = %s", (1,))
    assert rows == [(1, "x")]
    assert [column.name for column in description] == ["a", "b"]


def test_query1_returns_one_row_or_none(manager):
    assert manager.query1("select b from t where a = %s", (1,)) == {"b": "x"}
    assert manager.query1("select b from t where a = 3") is None
    assert manager.query1("select b from t") is None


def test_qexec_returns_nothing(manager):
    assert manager.qexec("delete from t") is None
    assert manager.query("select 1 from t") == []


def test_now_expr_is_milliseconds(manager):
    row = manager.query1(
        f"select {manager.now_expr()} as now, {manager.now_expr(60)} as later, "
        "extract(epoch from now()) * 1000 as server")
    assert row["later"] - row["now"] == 60000
    assert abs(row["now"] - row["server"]) <= 1
    assert manager.now_expr(-1.5) == "((extract(epoch from now())+-1.5)*1000)::bigint"


def test_geojson(manager):
    # Stands in for PostGIS: a point, whose coordinates are rounded as ST_AsGeoJSON does.
    manager.qexec("""
        create function ST_AsGeoJSON(at point, prec int) returns text return json_build_object(
            'type', 'Point', 'coordinates', json_build_array(
                round(at[0]::numeric, prec), round(at[1]::numeric, prec)))::text""")
    manager.qexec('create table places ("the point" point, "Name" text, size int)')
    manager.qexec("insert into places values ('(1.23456789,2)', 'here', 3), ('(0,0)', null, 4)")
    query = 'select "the point", "Name", size from places where size < %s order by size'
    assert manager.geojson("the point", ["Name", "size"], query, (9,), prec=2) == {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1.23, 2.0]},
             "properties": {"Name": "here", "size": 3}},
            {"type": "Feature", "geometry": {"type": "Point", "coordinates": [0.0, 0.0]},
             "properties": {"Name": None, "size": 4}},
        ]}
    five = manager.geojson("the point", ["size"], query, (4,))
    assert five["features"][0]["geometry"]["coordinates"] == [1.23457, 2.0]
    assert manager.geojson("the point", ["size"], query, (0,))["features"] == []


def test_errors_are_the_drivers(makeManagers):
    pool = makeManagers()
    with pytest.raises(psycopg2.ProgrammingError), pool.take() as manager:
        manager.query("set local work_mem = '1MB'")  # returns no rows
