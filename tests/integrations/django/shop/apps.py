"""The app."""

import os

from django.apps import AppConfig


class Shop(AppConfig):
    name = "tests.integrations.django.shop"
    label = "shop"

    #: The sessions of this process at its start; a forked one inherits what its parent noted.
    sessions = []

    def ready(self):
        """Run queries before anybody could change the settings, as many apps do."""
        from django.db import connections

        wish = os.environ.get("QUERY_WHEN_READY")
        for connection in connections.all() if wish else ():
            with connection.cursor() as cur:
                cur.execute("SELECT pg_backend_pid()")
                self.sessions += cur.fetchone()
            if wish != "keep":
                connection.close()
