"""Django's PostgreSQL backend, over psycopg2 and a pool: ``ENGINE = "queuepool.django"``.

The backend is in ``queuepool.django.base``, where Django looks for it.
"""
