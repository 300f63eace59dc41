"""The tests of the project: Django's test runner runs them."""

import json
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

from django.conf import settings
from django.db import connections
from django.test import LiveServerTestCase, TestCase, TransactionTestCase

from tests.integrations.django.settings import SERVER
from tests.integrations.django.shop.models import Item


def databaseOf(alias):
    with connections[alias].cursor() as cur:
        cur.execute("SELECT current_database()")
        return cur.fetchone()[0]


class WhichDatabase:
    databases = {"default", "replica"}

    def test_every_alias_leads_to_the_test_database(self):
        for alias in "default", "replica":
            with self.subTest(alias):
                self.assertRegex(databaseOf(alias), f"^test_{SERVER['dbname']}")
                self.assertEqual(databaseOf(alias), settings.DATABASES["default"]["NAME"])
                self.assertEqual(connections[alias].pool.name, alias)


class InTransaction(WhichDatabase, TestCase):
    def test_what_is_written_is_seen_and_rolled_back(self):
        Item.objects.create(name="one")
        self.assertEqual(self.client.get("/which?items").json()["items"], ["one"])

    test_and_so_it_is_in_another_test = test_what_is_written_is_seen_and_rolled_back


class Truncating(WhichDatabase, TransactionTestCase):
    def test_the_replica_sees_what_was_committed(self):
        Item.objects.create(name="two")
        self.assertEqual(Item.objects.using("replica").get().name, "two")

    def test_the_test_before_left_nothing(self):
        self.assertEqual(Item.objects.count(), 0)


class Live(LiveServerTestCase):
    def test_threads_of_the_server_share_the_pool(self):
        Item.objects.create(name="three")
        with ThreadPoolExecutor(8) as executor:
            answers = [json.loads(each) for each in executor.map(
                lambda _: urlopen(f"{self.live_server_url}/which?items").read(), range(24))]
        self.assertEqual({each["database"] for each in answers},
                         {settings.DATABASES["default"]["NAME"]})
        self.assertEqual([each["items"] for each in answers], [["three"]] * 24)
        self.assertLessEqual(len({each["pid"] for each in answers}), 3)
