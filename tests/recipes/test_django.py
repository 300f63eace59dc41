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


def test_a_pool_beside_the_orm_of_django(output, postgresql):
    [block] = pythonBlocks()["Django"]
    printed = output("program.py", program=PROGRAM, reports=block)
    assert printed.splitlines()[-3:] == [
        "during atomic: 0", "after it: 1", f"test_{postgresql.info.dbname}"]
