"""A TCP proxy on a loopback port that can fail in all the ways in which a network can."""

import asyncio
import contextlib
import ctypes
import select
import socket
import struct
import sys
import threading

from tests.helpers import PATIENCE, awaitTrue

#: How a socket tells that its other end is closed, though nobody has read up to there.
_ENDED = getattr(select, "POLLRDHUP", 0) | select.POLLHUP

#: Linux: a filter decides what a socket gets to see. This one is a single "return 0 bytes".
SO_ATTACH_FILTER = 26
_KEEP_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
_KEEP_NOTHING_AT = ctypes.addressof(_KEEP_NOTHING)


class Proxy:
    """A proxy on a loopback port that passes everything on to another address.

    One thread does all, so that what is called from outside has happened when it returns.

    - ``delay``: seconds by which all that passes is late.
    - ``connections``: how many there ever were.
    - ``mostHeld``: how many of them clients held open at the most.
    - ``tap``: called with each link and piece of data from the server before it passes.
    """

    def __init__(self, target):
        self.target = target
        self.delay = 0.0
        self.tap = None
        self.connections = 0
        self.mostHeld = 0
        self.isHolding = False
        self.loop = asyncio.new_event_loop()
        self._links = []
        self._listener = None
        self._accepting = set()
        # Bound but not listening it refuses connections, and nobody else gets the port.
        self._place = _bound(0)
        self.port = self._place.getsockname()[1]

    def __enter__(self):
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *exc_info):
        self.refuse()
        self.reset()
        self._run(self._awaitEnd)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self._place.close()

    def listen(self):
        """Accept connections."""
        self._run(self._listen)

    def refuse(self):
        """Refuse new connections; those there are stay."""
        self._run(self._refuse)

    def close(self):
        """End all connections in good order, on both sides."""
        self._forEach(Link.close)

    def reset(self):
        """End all connections with a reset, on both sides."""
        self._forEach(Link.reset)

    def hold(self):
        """Read no more from anybody: nothing passes, nobody is told, buffers fill."""
        self.isHolding = True
        self._forEach(Link.hold)

    def release(self):
        """Read on; what was sent meanwhile arrives late."""
        self.isHolding = False
        self._forEach(Link.release)

    def swallow(self):
        """Lose all that is sent from now on over the connections there are: a silent cut."""
        self._forEach(Link.cut)

    def drop(self):
        """Have the kernel drop all that arrives from now on over the connections there are.

        Nothing is even acknowledged. For Linux; the held are not told any more.
        """
        self._forEach(Link.drop)

    def settle(self):
        """Wait until whatever the server has ended has ended for its client too."""
        awaitTrue(lambda: self._run(self._isSettled))

    def held(self):
        """Tell how many connections clients hold open."""
        return self._run(self._held)

    def _run(self, what, *args):
        async def run():
            result = what(*args)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def _forEach(self, what):
        def all():
            for link in list(self._links):
                what(link)

        self._run(all)

    # Not asyncio's server: one that is closed loses who was just being accepted.
    def _listen(self):
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.setblocking(False)
            self._listener.listen(100)
            self.loop.add_reader(self._listener, self._accept)

    def _accept(self):
        with contextlib.suppress(BlockingIOError):
            line, _ = self._listener.accept()
            line.setblocking(False)
            accepting = self.loop.create_task(
                self.loop.connect_accepted_socket(lambda: Link(self).client, line))
            self._accepting.add(accepting)
            accepting.add_done_callback(self._accepting.discard)

    async def _refuse(self):
        listener, self._listener = self._listener, None
        if listener is not None:
            self.loop.remove_reader(listener)
            listener.close()
        if self._accepting:
            await asyncio.wait(self._accepting)

    async def _awaitEnd(self):
        while self._links:
            await asyncio.sleep(0.001)

    def _held(self):
        return sum(link.client.isHeld for link in self._links)

    def _isSettled(self):
        return all(link.server.isHeld for link in self._links)

    def noteLink(self, link):
        """Count one that a client has made."""
        self._links.append(link)
        self.connections += 1
        self.mostHeld = max(self.mostHeld, self._held())

    def noteEnd(self, link):
        """Forget one both of whose sides have ended."""
        self._links.remove(link)


class Link:
    """A connection through the proxy, with one side to the client and one to the server."""

    def __init__(self, proxy):
        self.proxy = proxy
        self.client = Side(self)
        self.server = Side(self)
        self.client.other, self.server.other = self.server, self.client
        self.isCut = False

    async def connect(self):
        """Connect to the server, and let data pass."""
        try:
            await self.proxy.loop.create_connection(lambda: self.server, *self.proxy.target)
        except OSError:
            self.server.isOver = True
            self.reset()
            return
        if self.client.isOver:
            self.reset()
        self.release()

    def close(self):
        self.isCut = False
        for side in self.client, self.server:
            side.end()

    def reset(self):
        for side in self.client, self.server:
            side.reset()

    def hold(self):
        for side in self.client, self.server:
            if side.transport is not None:
                side.transport.pause_reading()

    def release(self):
        if self.server.transport is None:
            return
        for side in self.client, self.server:
            side.transport.resume_reading()
            if self.proxy.isHolding:
                side.transport.pause_reading()

    def cut(self):
        self.isCut = True

    def drop(self):
        self.isCut = True
        for side in self.client, self.server:
            _dropAll(side.transport.get_extra_info("socket"))


def _dropAll(line):
    line.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, _KEEP_NOTHING_AT))


def mayDrop():
    """Tell whether this system lets this user have a socket drop packets: Linux, mostly root."""
    if not sys.platform.startswith("linux"):
        return False
    with socket.socket() as line:
        try:
            _dropAll(line)
        except OSError:
            return False
    return True


class Side(asyncio.Protocol):
    """One end of a link."""

    def __init__(self, link):
        self.link = link
        self.proxy = link.proxy
        self.other = None
        self.transport = None
        self.isOver = False
        self._dueAt = 0.0

    @property
    def isHeld(self):
        """Tell whether whoever is on this side has not closed it, or is yet to be reached."""
        if self.transport is None or self.isOver:
            return not self.isOver
        number = self.transport.get_extra_info("socket").fileno()
        if number < 0:
            return False
        poller = select.poll()
        poller.register(number, _ENDED)
        return not poller.poll(0)

    def connection_made(self, transport):
        self.transport = transport
        # Soon, because Python 3.10 begins to read after this, whatever is said here.
        self.proxy.loop.call_soon(transport.pause_reading)
        if self is self.link.client:
            self.proxy.noteLink(self.link)
            self.task = self.proxy.loop.create_task(self.link.connect())

    def data_received(self, data):
        if self is self.link.server and self.proxy.tap is not None:
            self.proxy.tap(self.link, data)
        if not self.link.isCut:
            self._later(self.other.write, data)

    def eof_received(self):
        if not self.link.isCut:
            self._later(self.other.end)
        elif self is self.link.client:
            self.link.reset()
        return True  # stay open: what the other side says still passes

    def connection_lost(self, error):
        self.isOver = True
        if not self.link.isCut:
            self._later(self.other.end)
        elif self is self.link.client:
            self.other.reset()
        if self.other.isOver:
            self.proxy.noteEnd(self.link)

    def write(self, data):
        if not self.link.isCut and not self.isOver:
            self.transport.write(data)

    def end(self):
        """End this side, when all that was written has been sent."""
        if self.transport is not None:
            self.transport.close()

    def reset(self):
        if self.transport is not None and not self.isOver:
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def _later(self, what, *args):
        """Do it after the delay, and after all that was to be done before."""
        now = self.proxy.loop.time()
        dueAt = max(now + self.proxy.delay, self._dueAt)
        if dueAt <= now:
            what(*args)
        else:
            self._dueAt = dueAt
            self.proxy.loop.call_at(dueAt, what, *args)


def _bound(port):
    each = socket.socket()
    with contextlib.ExitStack() as stack:
        stack.callback(each.close)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind(("127.0.0.1", port))
        stack.pop_all()
    return each
