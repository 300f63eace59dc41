"""The views, and under which addresses they are."""

import asyncio
import os

from django.db import connection, transaction
from django.http import JsonResponse
from django.urls import path

from tests.integrations.django.shop.apps import Shop
from tests.integrations.django.shop.models import Item


def backend():
    """Return which session this thread has, and of which database."""
    with connection.cursor() as cur:
        cur.execute("SELECT pg_backend_pid(), current_database()")
        return cur.fetchone()


def which(request):
    pid, database = backend()
    return JsonResponse({"pid": pid, "database": database,
                         "items": sorted(Item.objects.values_list("name", flat=True))
                         if "items" in request.GET else None})


def sleeping(request):
    """Use the session long enough for others to come, too."""
    with connection.cursor() as cur:
        cur.execute("SELECT pg_backend_pid(), pg_sleep(0.02)")
        return JsonResponse({"pid": cur.fetchone()[0], "process": os.getpid(),
                             "sessionsAtStart": Shop.sessions})


@transaction.atomic
def failing(request):
    Item.objects.create(name="never")
    raise RuntimeError("after a write")


async def gathering(request):
    """Run queries of the ORM in a coroutine."""
    async def create(number):
        await Item.objects.acreate(name=f"item {number}")

    await asyncio.gather(*map(create, range(5)))
    return JsonResponse({"count": await Item.objects.acount()})


urlpatterns = [path("which", which), path("sleeping", sleeping), path("failing", failing),
               path("gathering", gathering)]
