"""The settings: where the server is comes from the environment, as does what a test varies."""

import json
import os
import sys

# The tests have psycopg 3 installed, which Django would prefer.
if "SHOW_PSYCOPG3" not in os.environ:
    sys.modules["psycopg"] = None

SERVER = json.loads(os.environ["SERVER"])


def database(**changes):
    given = {"ENGINE": "queuepool.django", "HOST": SERVER["host"], "PORT": SERVER["port"],
             "USER": SERVER["user"], "NAME": SERVER["dbname"],
             "OPTIONS": {"pool": {"capacity": 3, "takeTimeout": 10.0}}}
    return {**given, **changes}


DATABASES = {alias: database(**changes) for alias, changes
             in json.loads(os.environ.get("DATABASES", '{"default": {}}')).items()}
INSTALLED_APPS = ["tests.integrations.django.shop"]
ROOT_URLCONF = "tests.integrations.django.shop.views"
ALLOWED_HOSTS = ["*"]
STATIC_URL = "static/"
SECRET_KEY = "of no use"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING_CONFIG = None
