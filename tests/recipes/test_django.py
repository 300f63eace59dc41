"""Django: a pool beside the connections of its ORM."""

import pytest

from tests.recipes import pythonBlocks

pytest.importorskip("django", reason="Django is not installed")

# In a process of its own: Django can be configured once in a process.
PROGRAM = """
import os
import threading

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from django.test.utils import setup_databases, teardown_databases
from django.urls import path
from psycopg2.extensions import parse_dsn

given = parse_dsn(os.environ["DSN"])
settings.configure(
    ALLOWED_HOSTS=["testserver"], ROOT_URLCONF=__name__, USE_TZ=True,
    INSTALLED_APPS=["django.contrib.sessions"],
    DATABASES={"default": dict(
        ENGINE="django.db.backends.postgresql", NAME=given["dbname"], USER=given["user"],
        HOST=given["host"], PORT=given.get("port", ""))})
django.setup()
import reports

urlpatterns = [path("report", reports.report)]
old = setup_databases(0, interactive=False)
try:
    from django.contrib.sessions.models import Session
    from django.utils.timezone import now

    def count():
        return Client().get("/report").json()["sessions"]

    with transaction.atomic():
        Session.objects.create(session_key="one", session_data="", expire_date=now())
        print("during atomic:", count())
    print("after it:", count())
    with reports.pool.take() as conn:
        print(conn.info.dbname)
    reports.pool.invalidate()
finally:
    teardown_databases(old, 0)
reports.pool.close()
"""


def test_a_pool_beside_the_orm_of_django(output, parameters):
    [block] = pythonBlocks()["Beside Django's ORM"]
    printed = output("program.py", program=PROGRAM, reports=block)
    assert printed.splitlines()[-3:] == [
        "during atomic: 0", "after it: 1", "test_" + parameters["dbname"]]


ORM = """
import os
import sys

sys.modules["psycopg"] = None
import django
from django.conf import settings
from psycopg2.extensions import parse_dsn
import databases

given = parse_dsn(os.environ["DSN"])
databases.DATABASES["default"].update(
    NAME=given["dbname"], USER=given["user"], HOST=given["host"], PORT=given.get("port", ""))
settings.configure(USE_TZ=True, DATABASES=databases.DATABASES)
django.setup()
from django.core.signals import request_finished
from django.db import connection

for _ in range(2):
    with connection.cursor() as cur:
        cur.execute("SELECT 6 * 7")
        print(cur.fetchone()[0])
    request_finished.send(None)
stats = connection.pool.stats()
print(stats.capacity, stats.opens, stats.takes, stats.taken, connection.pool.takeTimeout)
"""


def test_the_pool_behind_the_orm_of_django(output):
    [block] = pythonBlocks()["Django"]
    printed = output("program.py", program=ORM, databases=block)
    assert printed.splitlines() == ["42", "42", "10 1 2 0 5.0"]
