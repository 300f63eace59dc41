"""The faults that each pool is put to; what is seen is told in a few words.

``python -m tests.benchmarks.faults FAULT SUBJECT SETTINGS`` runs one of them in this process and
prints what it saw as JSON, one object a line: the last one counts. An object with "stage" says
where it is, should it hang. Nothing here knows which pool it looks at.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, namedtuple
from statistics import median
from time import perf_counter

from tests.benchmarks.subjects import NAME, SUBJECTS

#: Seconds and counts of a thorough run and of one in the tests.
THOROUGH = dict(moment=2.0, outage=3.0, served=30.0, signals=200, trials=100, asyncs=30,
                starvation=4.0, threads=20, headStart=5.0, longest=40.0, patience=None,
                budget=25.0)
QUICK = dict(moment=0.8, outage=0.2, served=0.8, signals=30, trials=10, asyncs=5,
             starvation=0.4, threads=20, headStart=0.3, longest=0.8, patience=0.3, budget=0.3)

#: Connections of a pool in most faults.
CAPACITY = 3


class Bench:
    """What a fault works with: how to make the pool, and the way past it to the server."""

    def __init__(self, kind, settings):
        import psycopg2
        from psycopg2.extensions import make_dsn, parse_dsn

        self.kind = kind
        self.settings = settings
        self.options = settings["options"]
        self.plain = settings["dsn"]
        self.name = f"faults {os.getpid()}"
        self.dsn = make_dsn(self.plain, application_name=self.name)
        self._makeDsn, self._parseDsn, self._connect = make_dsn, parse_dsn, psycopg2.connect
        self.reconnect()

    def __getattr__(self, setting):
        return self.settings[setting]

    def make(self, capacity=CAPACITY, patience=None, dsn=None):
        """Make a pool; ``patience`` is how long its takes wait, if it lets one say so."""
        options = dict(self.options)
        if patience is not None and self.kind.timeout is not None:
            options[self.kind.timeout] = patience
        return self.kind(dsn or self.dsn, capacity, **options)

    def makeFull(self, capacity=CAPACITY, **kwargs):
        """Make a pool of which all connections are open and idle."""
        pool = self.make(capacity, **kwargs)
        served, errors = together(pool, capacity, 10.0)
        assert served == capacity, f"served {served} of {capacity}: {errors}"
        return pool

    def times(self, count):
        """Count up to that, but not for longer than the budget: what is lost takes long to see."""
        until = perf_counter() + self.budget
        for number in range(count):
            if perf_counter() > until:
                return
            yield number

    def reconnect(self):
        self.admin = self._connect(self.plain)
        self.admin.autocommit = True

    def query(self, statement, *args):
        with self.admin.cursor() as cursor:
            cursor.execute(statement, args or None)
            return cursor.fetchall() if cursor.description else []

    def backends(self):
        """Return the process ids and states of the pool's sessions."""
        return dict(self.query("select pid, state from pg_stat_activity "
                               "where application_name = %s", self.name))

    def terminate(self, pids):
        """End these sessions of the server, and wait until they have ended."""
        self.query("select pg_terminate_backend(pid) from unnest(%s::int[]) as pid", list(pids))
        while set(pids) & set(self.backends()):
            time.sleep(0.005)
        time.sleep(0.02)  # for what the server said to arrive

    @contextlib.contextmanager
    def gateway(self):
        """Give a way to the server that counts and can be shut, and the DSN that leads there."""
        parts = self._parseDsn(self.plain)
        gateway = Gateway(parts["host"], int(parts.get("port", 5432)))
        try:
            yield gateway, self._makeDsn(
                self.dsn, host="127.0.0.1", port=gateway.port, sslmode="disable",
                gssencmode="disable")
        finally:
            gateway.shut()


class Gateway:
    """A loopback port that leads to the server; shut, it refuses connections."""

    def __init__(self, host, port):
        self.target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        #: How many pieces of data clients have sent.
        self.sent = 0
        self._sockets = []
        self.port = 0
        self.open()

    def open(self):
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def shut(self):
        """Refuse connections from now on, and cut those that are there."""
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._sockets.clear()

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                isLocal = isinstance(self.target, str)
                server = socket.socket(socket.AF_UNIX if isLocal else socket.AF_INET)
                server.connect(self.target)
                self._sockets += client, server
                threading.Thread(target=self._pass, args=[client, server], daemon=True).start()

    def _pass(self, client, server):
        with client, server, contextlib.suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    self.sent += source is client
                    (server if source is client else client).sendall(data)


def stage(what):
    """Say what is done next, should it hang."""
    print(json.dumps({"stage": what}), flush=True)


def nothing(conn):
    pass


def kindOf(error):
    return type(error).__name__


def outcome(pool, use=None):
    """Have one user in this thread; return the error's name, or None."""
    try:
        pool.lend(use or (lambda conn: pool.ask(conn, "select 1")))
    except Exception as error:
        return kindOf(error)


def together(pool, users, seconds, isStubborn=False):
    """Have users hold a connection all at once; return how many were served, and the errors.

    Each holds what it has until all are done, or the time is over. Those who are stubborn try
    again after an error until then.
    """
    served, errors, over = [], [], threading.Event()
    start, isDone = threading.Barrier(users), threading.Semaphore(0)

    def use(conn):
        pool.ask(conn, "select 1")
        served.append(conn)
        isDone.release()
        over.wait()

    def work():
        start.wait()
        error = outcome(pool, use)
        while error is not None and isStubborn and not over.wait(0.02):
            error = outcome(pool, use)
        if error is not None:
            errors.append(error)
            isDone.release()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(users)]
    until = perf_counter() + seconds
    for thread in threads:
        thread.start()
    for _ in threads:
        isDone.acquire(timeout=max(0.0, until - perf_counter()))
    count = len(served)
    served.clear()
    over.set()
    for thread in threads:
        thread.join(max(0.05, min(1.0, until - perf_counter())))
    return count, errors


def left(bench, pool, capacity=CAPACITY):
    """Return how many connections can be held at once."""
    stage("counting what is left")
    return together(pool, capacity, bench.moment, isStubborn=True)[0]


def attempt(seconds, function, *args):
    """Call a function in a thread; return None, the exception, or "hangs"."""
    result = ["hangs"]

    def work():
        try:
            function(*args)
            result[0] = None
        except BaseException as error:
            result[0] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0]


@contextlib.contextmanager
def held(pool, count=1, name="payment-17"):
    """Have threads hold connections for as long as the block, or until the result is called."""
    letGo, holds = threading.Event(), threading.Semaphore(0)

    def use(conn):
        holds.release()
        letGo.wait()

    threads = [threading.Thread(target=pool.lend, args=[use], daemon=True,
                                name=name if number == 0 else None) for number in range(count)]
    for thread in threads:
        thread.start()
        assert holds.acquire(timeout=10.0), "it is not served"
    try:
        yield letGo.set
    finally:
        letGo.set()
        for thread in threads:
            thread.join(1.0)


# -- the faults: each returns what it saw


def terminatedIdle(bench):
    pool = bench.makeFull()
    bench.terminate(bench.backends())
    errors, users = [], [1, CAPACITY, CAPACITY]
    for count in users:
        stage(f"{count} at once")
        errors += together(pool, count, bench.served)[1]
    return {"users": sum(users), "errors": errors, "left": left(bench, pool)}


def terminatedUsed(bench):
    """End the session between the two statements of a transaction."""
    bench.query(f'create table "{bench.name}" (x int)')
    pool = bench.makeFull()

    def use(conn):
        pool.ask(conn, f'insert into "{bench.name}" values (1)')
        bench.terminate([pool.ask(conn, "select pg_backend_pid()")])
        pool.ask(conn, f'insert into "{bench.name}" values (2)')
        pool.ask(conn, "commit")

    stage("using it")
    return {"error": outcome(pool, use), "left": left(bench, pool),
            "committed": bench.query(f'select count(*) from "{bench.name}"')[0][0]}


def restart(bench):
    users = 5
    pool = bench.makeFull(users)
    stage("the restart")
    bench.admin.close()
    subprocess.run(bench.restartCommand, check=True, stdout=subprocess.DEVNULL,
                   stdin=subprocess.DEVNULL, **bench.asUser)
    bench.reconnect()
    stage("the first users")
    first, errors = together(pool, users, bench.served)
    stage("the next users")
    second, more = together(pool, users, bench.served)
    return {"users": users, "first": first, "errors": errors, "second": second, "more": more}


def openingFails(bench):
    with bench.gateway() as (gateway, dsn):
        pool = bench.makeFull(patience=min(1.0, bench.moment), dsn=dsn)
        gateway.shut()
        shutAt = perf_counter()
        tries = []
        stage("using it while nothing can be opened")
        for _ in range(3 * CAPACITY):
            tries.append(attempt(2 * bench.moment, outcome, pool) or "done")
            if tries[-1] == "hangs":
                break
        time.sleep(max(0.0, shutAt + bench.outage - perf_counter()))
        gateway.open()
        openAt, servedAfter = perf_counter(), None
        stage("using it afterwards")
        while servedAfter is None and perf_counter() < openAt + bench.served:
            if together(pool, 1, bench.moment)[0]:
                servedAfter = perf_counter() - openAt
            time.sleep(0.01)
        return {"tries": len(tries), "hung": tries.count("hangs"), "servedAfter": servedAfter,
                "limit": bench.served, "left": left(bench, pool)}


def waiterInterrupted(bench):
    """Interrupt the first waiter in the moment of its turn: by a signal, by an async exception."""
    pool = bench.makeFull(1)
    with held(pool):
        if attempt(0.1, pool.lend, nothing) != "hangs":
            return {"waits": False}
    pool = bench.makeFull(1)
    seen = Counter()

    def trial(first, disturb):
        """Have one wait first and one behind; see how the second and a third one fare."""
        nonlocal pool
        with held(pool) as letGo:
            isServed = threading.Event()

            def waitBehind():
                time.sleep(0.003)
                threading.Thread(target=pool.lend, args=[lambda conn: isServed.set()],
                                 daemon=True).start()
                time.sleep(0.003)
                disturb(letGo)

            disturber = threading.Thread(target=waitBehind, daemon=True)
            disturber.start()
            first()
            disturber.join()
            letGo()
            isWell = isServed.wait(1.0)
        isThere = attempt(1.0, pool.lend, nothing) is None
        if isWell and isThere:
            return "well"
        pool = None
        result = "wake-up" if isThere else "slot"
        bench.terminate(bench.backends())
        pool = bench.makeFull(1)
        return result

    def waitForSignal():
        with contextlib.suppress(KeyboardInterrupt):
            pool.lend(nothing)
            until = perf_counter() + 1.0
            while perf_counter() < until:  # the interruption is on its way
                time.sleep(0.001)
            seen["swallowed"] += 1

    def signalAndPut(letGo):
        pause = random.uniform(-3e-4, 3e-4)
        if pause < 0.0:
            letGo()
            time.sleep(-pause)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        if pause >= 0.0:
            time.sleep(pause)
            letGo()

    def waitForException():
        waiter = threading.Thread(target=waitForSignal, daemon=True)
        waiter.start()
        waiters.append(waiter)

    def raiseAndPut(letGo):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(waiters[-1].ident), ctypes.py_object(KeyboardInterrupt))
        letGo()

    waiters = []
    stage("signals")
    for _ in bench.times(bench.trials):
        seen["signal", trial(waitForSignal, signalAndPut)] += 1
        seen["signals"] += 1
    stage("async exceptions")
    for _ in bench.times(bench.asyncs):
        seen["exception", trial(waitForException, raiseAndPut)] += 1
        seen["exceptions"] += 1
    return {"waits": True, **{key if isinstance(key, str) else " ".join(key): count
                              for key, count in seen.items()}}


def starvation(bench):
    pool = bench.makeFull(2)
    waits, served, errors = [], [], []
    barrier = threading.Barrier(bench.threads + 1)

    def work():
        count = 0
        gotAt = [0.0]

        def use(conn):
            gotAt[0] = perf_counter()
            pool.ask(conn, "select pg_sleep(0.001)")

        barrier.wait()
        until = perf_counter() + bench.starvation
        while (askedAt := perf_counter()) < until:
            error = outcome(pool, use)
            if error is None:
                waits.append(min(gotAt[0], until) - askedAt)
                count += gotAt[0] < until
            else:
                errors.append(error)
                time.sleep(0.001)
        served.append(count)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(bench.threads)]
    for thread in threads:
        thread.start()
    barrier.wait()
    stage("the threads")
    time.sleep(bench.starvation)
    for thread in threads:
        thread.join()
    return {"least": min(served), "most": max(served), "total": sum(served),
            "threads": bench.threads, "errors": len(errors), "median": median(waits),
            "longest": max(waits)}


def fork(bench):
    """Fork while one connection is in use and the others are idle; the child ends by sys.exit."""
    pool = bench.makeFull()
    conn = pool.take()
    pool.ask(conn, "select 1")
    ours = set(bench.backends())
    stage("the fork")
    readEnd, writeEnd = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(readEnd)
        sys.stdout = open(os.devnull, "w")
        pids = []
        error = attempt(bench.moment + 1.0, pool.lend,
                        lambda conn: pids.append(pool.ask(conn, "select pg_backend_pid()")))
        seen = "parent's" if set(pids) & ours else "own" if pids else (
            error if isinstance(error, str) else kindOf(error))
        os.write(writeEnd, seen.encode())
        os.close(writeEnd)
        del conn
        sys.exit(0)  # all that can be finalized is
    os.close(writeEnd)
    until = perf_counter() + 2 * bench.moment + 5.0
    while (ended := os.waitpid(child, os.WNOHANG)[0]) == 0 and perf_counter() < until:
        time.sleep(0.02)
    if ended == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with open(readEnd) as pipe:
        seen = pipe.read()
    stage("the parent")
    try:
        pool.ask(conn, "select 1")
        used = None
    except Exception as error:
        used = kindOf(error)
    died = len(ours - set(bench.backends()))
    with contextlib.suppress(Exception):
        pool.put(conn)
    errors = [outcome(pool) for _ in range(CAPACITY)]
    return {"child": seen or "died", "ended": ended != 0, "used": used, "died": died,
            "errors": sum(error is not None for error in errors), "left": left(bench, pool)}


def dropped(bench):
    pool = bench.makeFull()
    conn = pool.take()
    pool.ask(conn, "select 1")
    del conn
    gc.collect()
    return {"left": left(bench, pool)}


def exhausted(bench):
    pool = bench.makeFull(patience=bench.patience)
    heldAt = perf_counter()
    with held(pool, CAPACITY):
        time.sleep(bench.headStart)
        askedAt = perf_counter()
        stage("the take that finds nothing")
        error = attempt(bench.longest, pool.lend, nothing)
        waited, heldFor = perf_counter() - askedAt, perf_counter() - heldAt
    if error is None or error == "hangs":
        return {"waited": None, "longest": bench.longest, "served": error is None}
    return {"waited": waited, "error": kindOf(error), "message": str(error),
            "facts": factsOf(str(error), waited, heldFor)}


def factsOf(message, waited, heldFor):
    """Return what a message says of who holds what, of how many, and for how long."""
    def isNear(seconds):
        return any(abs(number - seconds) <= 0.06 + 0.02 * seconds for number in numbers)

    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", message)]
    facts = {"the pool's name": NAME in message, "the capacity": float(CAPACITY) in numbers,
             "how long it waited": waited > 0.1 and isNear(waited),
             "who holds": "payment-17" in message, "for how long": isNear(heldFor)}
    return [fact for fact, isThere in facts.items() if isThere]


def leftOpen(bench):
    bench.query(f'create table "{bench.name}" (x int)')
    pool = bench.makeFull(1)
    pool.lend(lambda conn: pool.ask(conn, f'insert into "{bench.name}" values (1)'))
    time.sleep(0.05)
    states = [state for state in bench.backends().values() if state != "idle"]
    seen = []
    stage("the next user")
    error = outcome(pool, lambda conn: seen.append(
        pool.ask(conn, f'select count(*) from "{bench.name}"')))
    committed = bench.query(f'select count(*) from "{bench.name}"')[0][0]
    return {"states": states, "seen": sum(seen), "error": error, "committed": committed}


def bodyInterrupted(bench):
    """Let a signal raise KeyboardInterrupt at random in short uses, again and again."""
    def loop():
        until = perf_counter() + 0.5  # an interruption in a finalizer, say, reaches nobody
        while perf_counter() < until:
            pool.lend(lambda conn: pool.ask(conn, "select 1"))

    capacity, lost, errors, signals, swallowed = 2, 0, Counter(), 0, 0
    pool = bench.makeFull(capacity)
    stage("signals")
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for _ in bench.times(bench.signals):
        signals += 1
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-3, 3e-3))
            loop()
            swallowed += 1
        except KeyboardInterrupt:
            pass
        except Exception as error:  # what the interruption left makes the next use fail
            signal.setitimer(signal.ITIMER_REAL, 0)
            errors[kindOf(error)] += 1
        gc.collect()  # what only a cycle through a traceback keeps is not lost
        if together(pool, capacity, 0.5, isStubborn=True)[0] < capacity:
            lost += 1
            pool = None
            bench.terminate(bench.backends())
            pool = bench.makeFull(capacity)
    return {"signals": signals, "lost": lost, "errors": errors, "swallowed": swallowed}


def roundTrips(bench):
    times = 20
    with bench.gateway() as (gateway, dsn):
        pool = bench.makeFull(1, dsn=dsn)
        pool.lend(nothing)
        time.sleep(0.1)
        before = gateway.sent
        for _ in range(times):
            pool.lend(nothing)
        time.sleep(0.1)
        return {"sent": (gateway.sent - before) / times}


def order(bench):
    """Return three connections one after another, and take one."""
    pool = bench.makeFull()
    pids, conns = [], [pool.take() for _ in range(CAPACITY)]
    for conn in conns:
        pids.append(pool.ask(conn, "select pg_backend_pid()"))
    while conns:
        conn = conns.pop(0)
        pool.put(conn)
        del conn
        time.sleep(0.05)
    pool.lend(lambda conn: pids.append(pool.ask(conn, "select pg_backend_pid()")))
    return {"place": pids.index(pids.pop())}


# -- what was seen, in a few words


def plural(count, word):
    return f"{count:,} {word}{'s' * (count != 1)}"


def whole(seen, capacity=CAPACITY):
    """Tell how much can be had afterwards, or nothing if it is all."""
    count = seen["left"]
    return "" if count == capacity else f"; **{count} of {capacity} left**"


def wordsOfTerminatedIdle(seen):
    if not seen["errors"]:
        return "unnoticed" + whole(seen)
    return f"{plural(len(seen['errors']), 'error')} in {seen['users']} uses" + whole(seen)


def wordsOfTerminatedUsed(seen):
    words = seen["error"] or "no error"
    if seen["committed"]:
        words += f", **{seen['committed']} of the 2 statements committed**"
    return words + (whole(seen) or f"; {CAPACITY} of {CAPACITY} left")


def wordsOfRestart(seen):
    users = seen["users"]

    def tellRound(served, errors):
        words = [f"{count} of {users} {what}" for count, what in
                 [(len(errors), "get an error"), (users - served - len(errors), "**hang**")]
                 if count]
        return ", ".join(words)

    first = tellRound(seen["first"], seen["errors"])
    second = tellRound(seen["second"], seen["more"])
    if not first and not second:
        return "unnoticed"
    return f"{first or 'well'}, then {second or 'well'}"


def wordsOfOpeningFails(seen):
    words = "" if not seen["hung"] else f"take {seen['tries']} hangs; "
    after = seen["servedAfter"]
    if after is None:
        return words + f"**not served within {seen['limit']:.0f} s**" + whole(seen)
    return words + f"served after {after:.1f} s" + (
        whole(seen) or f"; {CAPACITY} of {CAPACITY} left")


def wordsOfWaiterInterrupted(seen):
    if not seen["waits"]:
        return "does not wait"
    words = [f"{what} lost in {seen[key]} of {seen[cause + 's']} {cause}s"
             for cause in ("signal", "exception") for what in ("slot", "wake-up")
             if (key := f"{cause} {what}") in seen]
    if seen.get("swallowed"):
        words.append(f"{plural(seen['swallowed'], 'interruption')} swallowed")
    return "**" + ", ".join(words) + "**" if words else (
        f"nothing lost by {seen['signals']} signals, {seen['exceptions']} exceptions")


def wordsOfStarvation(seen):
    words = f"{seen['least']:,} to {seen['most']:,}"
    if seen["least"] < seen["total"] / seen["threads"] / 10:
        words = f"**{words}**"
    words += f" of {seen['total']:,}"
    if seen["errors"]:
        return f"{words}; {plural(seen['errors'], 'take')} refused"
    # A median of no wait is nothing to compare with.
    ratio = f" ({seen['longest'] / seen['median']:.3g} × median)" if seen["median"] > 1e-4 else ""
    return f"{words}; longest wait {seen['longest']:.2f} s{ratio}"


def wordsOfFork(seen):
    child = {"own": "child opens its own", "parent's": "**child speaks on the parent's**",
             "hangs": "child's take hangs", "died": "child died"}.get(
                 seen["child"], f"child gets {seen['child']}")
    if not seen["ended"]:
        child += ", does not end"
    if seen["used"] or seen["died"] or seen["errors"]:
        what = [f"used one: {seen['used']}" if seen["used"] else "",
                f"{seen['died']} of {CAPACITY} sessions ended" if seen["died"] else "",
                f"{plural(seen['errors'], 'error')} in {CAPACITY} uses" if seen["errors"] else ""]
        return f"{child}; **parent: {', '.join(filter(None, what))}**" + whole(seen)
    return f"{child}; parent's all live" + whole(seen)


def wordsOfDropped(seen):
    return f"**slot lost: {seen['left']} of {CAPACITY} left**" if whole(seen) else "comes back"


def wordsOfExhausted(seen):
    if seen["waited"] is None:
        return ("served beyond its capacity" if seen["served"] else
                f"waits for ever (> {seen['longest']:.0f} s)")
    if seen["waited"] < 0.1:
        return f"{seen['error']} at once"
    return f"waits {seen['waited']:.{0 if seen['waited'] > 5 else 1}f} s, then {seen['error']}"


def wordsOfMessage(seen):
    if seen["waited"] is None:
        return "none"
    return f"{plural(len(seen['message']), 'character')}: {', '.join(seen['facts']) or 'no fact'}"


def wordsOfLeftOpen(seen):
    if seen["committed"]:
        return "committed"
    words = f"{seen['states'][0]} in the pool, " if seen["states"] else ""
    if seen["error"]:
        return f"{words}the next user gets {seen['error']}"
    return words + ("**the next user sees it**" if seen["seen"] else "rolled back")


def wordsOfBodyInterrupted(seen):
    words = (f"**slot lost by {seen['lost']} of {seen['signals']} signals**" if seen["lost"] else
             f"nothing lost by {seen['signals']} signals")
    errors = sum(seen["errors"].values())
    return (words + (f", {plural(errors, 'other error')}" if errors else "")
            + (f", {seen['swallowed']} swallowed" if seen["swallowed"] else ""))


def wordsOfRoundTrips(seen):
    sent = seen["sent"]
    return f"{sent:.2g} message{'s' * (sent != 1)}" if sent else "nothing"


def wordsOfOrder(seen):
    return {0: "first returned", CAPACITY - 1: "last returned"}.get(seen["place"], "another")


#: ``run`` says what to do, or of which other fault the same is told in other words. ``isAlone``:
#: nothing else may run meanwhile. ``limit``: the seconds after which it hangs.
Fault = namedtuple("Fault", "title run words isAlone limit", defaults=[False, 60.0])

FAULTS = {
    "terminated while idle": Fault(
        "All 3 connections ended by the server while idle; then 1 use, and twice 3 at once",
        terminatedIdle, wordsOfTerminatedIdle),
    "terminated while used": Fault(
        "Connection ended by the server between two statements of a transaction",
        terminatedUsed, wordsOfTerminatedUsed),
    "restart": Fault("Server restarted between uses of 5 connections at once; two rounds",
                     restart, wordsOfRestart, isAlone=True, limit=90.0),
    "opening fails": Fault("Server away for 3 s, 9 takes meanwhile; afterwards",
                           openingFails, wordsOfOpeningFails, limit=120.0),
    "waiter interrupted": Fault("Waiter interrupted in the moment of its turn: by signals, "
                                "by asynchronous exceptions", waiterInterrupted,
                                wordsOfWaiterInterrupted, isAlone=True,
                                limit=120.0),
    "body interrupted": Fault("KeyboardInterrupt by a signal at random in short uses",
                              bodyInterrupted, wordsOfBodyInterrupted, isAlone=True, limit=120.0),
    "starvation": Fault("20 threads on 2 connections for 4 s: least and most uses by one thread",
                        starvation, wordsOfStarvation, isAlone=True),
    "fork": Fault("Fork with 1 connection in use and 2 idle; the child uses the pool and exits",
                  fork, wordsOfFork),
    "dropped": Fault("Connection dropped without being returned", dropped, wordsOfDropped),
    "left open": Fault("Returned in the midst of a transaction", leftOpen, wordsOfLeftOpen),
    "exhausted": Fault("All connections in use", exhausted, wordsOfExhausted, limit=90.0),
    "message": Fault("What the message of that error tells", "exhausted", wordsOfMessage),
    "round trips": Fault("Sent to the server by a take and put of a clean connection",
                         roundTrips, wordsOfRoundTrips),
    "order": Fault("Which idle connection is taken", order, wordsOfOrder),
}


def main(fault, subject, settings):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has it ignored
    settings = json.loads(settings)
    module, _, name = subject.rpartition(":")
    kind = getattr(importlib.import_module(module), name) if module else SUBJECTS[subject]
    print(json.dumps(FAULTS[fault].run(Bench(kind, settings))), flush=True)
    os._exit(0)  # whatever hangs still, hangs


if __name__ == "__main__":
    main(*sys.argv[1:])
