"""What each pool offers: the parameter or method by which, looked up in the installed release.

``python -m tests.benchmarks.features SUBJECT`` prints them for the packages of this interpreter.
"""

import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from importlib import metadata, resources

from tests.benchmarks.contenders import DBUTILS, FORMER, OURS, PSYCOPG, PSYCOPG2, SQLALCHEMY

#: By subject: the module, and what to look in unless said otherwise.
HOME = {
    OURS: "queuepool.psycopg2:ConnectionPool", FORMER: "queuepool.pool:Pool",
    PSYCOPG2: "psycopg2.pool:ThreadedConnectionPool", SQLALCHEMY: "sqlalchemy.pool:QueuePool",
    DBUTILS: "dbutils.pooled_db:PooledDB", PSYCOPG: "psycopg_pool:ConnectionPool",
}
DISTRIBUTION = {
    OURS: None, FORMER: "queuepool", PSYCOPG2: "psycopg2-binary", SQLALCHEMY: "SQLAlchemy",
    DBUTILS: "DBUtils", PSYCOPG: "psycopg-pool"}

#: By feature and subject: ``parameter=`` of the pool's class, ``.method`` of it, or where else:
#: ``module:Class(parameter=)``, ``module:Class.method``, ``module:Name``, ``module:``.
FEATURES = {
    "most idle time": {OURS: "maxIdleTime=", FORMER: "maxIdleTime=", PSYCOPG: "max_idle="},
    "most age": {OURS: "maxOpenTime=", FORMER: "maxOpenTime=", PSYCOPG: "max_lifetime=",
                 SQLALCHEMY: "sqlalchemy.pool:Pool(recycle=)"},
    "random part of that age": {OURS: "jitter=", PSYCOPG: "psycopg_pool.base:BasePool._jitter"},
    "most uses": {OURS: "maxUsageCount=", FORMER: "maxUsageCount=", DBUTILS: "maxusage="},
    "kept open": {OURS: "minOpen=", PSYCOPG2: "minconn=", DBUTILS: "mincached=",
                  PSYCOPG: "min_size="},
    "order of idle ones to be chosen": {SQLALCHEMY: "use_lifo="},
    "more for a while": {SQLALCHEMY: "max_overflow=", PSYCOPG: "max_size="},
    "upkeep by a thread": {OURS: ".startRecycler", FORMER: ".startRecycler",
                           PSYCOPG: "num_workers="},
    "bounded wait": {OURS: "takeTimeout=", SQLALCHEMY: "timeout=", PSYCOPG: "timeout="},
    "bounded wait of one take": {OURS: "queuepool.pool:Pool.take(timeout=)",
                                 PSYCOPG: "psycopg_pool:ConnectionPool.connection(timeout=)"},
    "most waiters": {OURS: "maxWaiting=", PSYCOPG: "max_waiting=", DBUTILS: "blocking="},
    "check by a round trip": {OURS: "pingTime=", SQLALCHEMY: "sqlalchemy.pool:Pool(pre_ping=)",
                              DBUTILS: "ping=", PSYCOPG: "check="},
    "check without a round trip": {OURS: "queuepool.psycopg2:Connection.takeRepair"},
    "tries again to open": {OURS: "openRetryTime=", PSYCOPG: "reconnect_timeout="},
    "all replaced on demand": {OURS: ".invalidate", SQLALCHEMY: "sqlalchemy:Engine.dispose",
                               PSYCOPG: ".drain"},
    "resized on demand": {OURS: ".resize", PSYCOPG: ".resize"},
    "set up once": {OURS: "configure=", PSYCOPG: "configure=", DBUTILS: "setsession=",
                    SQLALCHEMY: "sqlalchemy.events:PoolEvents.connect"},
    "cleaned by the user's rule": {
        OURS: "reset=", FORMER: "queuepool.pool:ResourceManager.putRepair",
        SQLALCHEMY: "sqlalchemy.events:PoolEvents.reset", PSYCOPG: "reset="},
    "figures": {OURS: ".stats", SQLALCHEMY: ".status", PSYCOPG: ".get_stats"},
    "who holds what": {OURS: ".report"},
    "reports of leaks": {OURS: "leakTime="},
    "deadlocks found": {OURS: "raiseDeadlock="},
    "metrics": {OURS: "queuepool.prometheus:, queuepool.opentelemetry:"},
    "a fake clock for tests": {OURS: "clock="},
    "other things than connections": {OURS: "queuepool:Resource",
                                      FORMER: "queuepool:ResourceManager"},
    "other drivers": {SQLALCHEMY: "creator=", DBUTILS: "creator="},
    "shared between threads": {DBUTILS: "maxshared="},
    "asyncio": {SQLALCHEMY: "sqlalchemy.pool:AsyncAdaptedQueuePool",
                PSYCOPG: "psycopg_pool:AsyncConnectionPool"},
}


def lookUp(python, variablesOf, folder):
    """Return for each feature by subject what provides it; a subject's process looks it up."""
    found = {title: {} for title in FEATURES}
    for title in "typed (py.typed)", "declares free threading":
        found[title] = {}
    for subject in HOME:
        output = subprocess.run(
            [python, "-m", "tests.benchmarks.features", subject], check=True, text=True,
            stdout=subprocess.PIPE, cwd=folder,
            env={**os.environ, **variablesOf(subject)}).stdout
        for title, provider in json.loads(output).items():
            found[title][subject] = provider
    return found


def provided(subject):
    """Return by feature what this subject has; raise if something is not there."""
    found = {}
    for title, providers in FEATURES.items():
        if subject in providers:
            names = [resolve(path, HOME[subject]) for path in providers[subject].split(", ")]
            found[title] = ", ".join(f"`{name}`" for name in names)
    package = HOME[subject].partition(":")[0].partition(".")[0]
    if (resources.files(package) / "py.typed").is_file():
        found["typed (py.typed)"] = "yes"
    if any("Free Threading" in classifier for classifier in classifiersOf(subject)):
        found["declares free threading"] = "yes"
    return found


def classifiersOf(subject):
    if DISTRIBUTION[subject] is None:  # runs from its sources
        with open(os.path.join(os.path.dirname(__file__), "../../setup.cfg")) as file:
            return file.read().splitlines()
    return metadata.metadata(DISTRIBUTION[subject]).get_all("Classifier") or []


def resolve(path, home):
    """Return the name at the end of a path; raise if there is nothing of that name."""
    if ":" not in path:
        path = f"{home}{path if path.startswith('.') else f'({path})'}"
    module, _, rest = path.partition(":")
    if not rest:  # what it needs itself may not be there
        if importlib.util.find_spec(module) is None:
            raise LookupError(f"{module}: there is no such module")
        return module
    thing = importlib.import_module(module)
    names, _, parameter = rest.rstrip(")").partition("(")
    for name in filter(None, names.split(".")):
        thing = getattr(thing, name)
    if not parameter:
        return names.rpartition(".")[2]
    name = parameter.rstrip("=")
    if name not in inspect.signature(thing).parameters:
        raise LookupError(f"{path}: there is no such parameter")
    return f"{thing.__name__}({name})" if names.count(".") else name


if __name__ == "__main__":
    print(json.dumps(provided(sys.argv[1])))
