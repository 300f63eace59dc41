"""A real mail server on loopback, with TLS and AUTH, that can be told to fail."""

import asyncio
import ssl

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

from queuepool import Pool
from queuepool.smtp import Connection
from tests.helpers import PATIENCE, Gate

USER, PASSWORD = "post", "s3cret word"


class Dialog(SMTP):
    """The server's side of one connection."""

    def __init__(self, server, *args, **kwargs):
        self.server = server
        self.mails = 0
        super().__init__(*args, **kwargs)

    def connection_made(self, transport):
        if self.transport is None:  # else it is TLS on what came first
            self.server.transports.append(transport)
        super().connection_made(transport)

    async def _handle_client(self):
        self.server.dialogs.append(self)
        if self.server.isBusy:
            await self.push("421 too busy")
            self.transport.close()
        else:
            await super()._handle_client()

    async def smtp_MAIL(self, arg):
        if self.server.goesAtMail:
            await self.push("421 closing")
        elif await self.isLetThrough("MAIL"):
            await super().smtp_MAIL(arg)

    async def isLetThrough(self, verb):
        isSpent = self.mails == self.server.mailsPerSession and verb == self.server.refusesAt
        if isSpent:
            await self.push("452 4.4.5 maximum number of messages per session exceeded")
        return not isSpent

    async def smtp_DATA(self, arg):
        if not await self.isLetThrough("DATA"):
            return
        self.mails += 1
        if self.server.refusesData:
            await self.push("451 try later")
        elif self.server.dropsData:
            await self.push("354 go on")
            await self._reader.readuntil(b"\r\n")
            self.transport.abort()
        else:
            await super().smtp_DATA(arg)

    async def smtp_RSET(self, arg):
        self.server.resets += 1
        if self.server.refusesReset:
            await self.push("451 try later")
        else:
            await super().smtp_RSET(arg)

    async def smtp_NOOP(self, arg):
        await self.push("421 closing" if self.server.goes else "250 here")

    async def smtp_QUIT(self, arg):
        self.server.quits += 1
        if self.server.dropsQuit:
            self.transport.abort()
        else:
            await super().smtp_QUIT(arg)

    async def say(self, line):
        await self.push(line)

    async def drop(self):
        if self.transport is not None:
            self.transport.abort()

    async def hangUp(self):
        if self.transport is not None:
            self.transport.close()


class MailServer(Controller):
    """A mail server on a free loopback port, or on the port of one that was stopped."""

    def __init__(self, tls=None, users=(), port=0):
        super().__init__(
            self, hostname="127.0.0.1", port=port, tls_context=tls, enable_SMTPUTF8=True,
            require_starttls=tls is not None,
            auth_required=bool(users), auth_require_tls=tls is not None,
            authenticator=self._authenticate if users else None)
        self.users = dict(users)
        self.isBusy = self.refusesData = self.dropsData = False
        self.refusesReset = self.dropsQuit = self.goes = False
        self.goesAtMail = False
        self.mailsPerSession = self.refusesAt = None
        self.resets = self.quits = 0
        self.dialogs = []
        self.transports = []
        self.mails = []
        self.thaw = None

    def _authenticate(self, server, session, envelope, mechanism, data):
        isRight = self.users.get(data.login.decode()) == data.password.decode()
        return AuthResult(success=isRight, handled=False, auth_data=data if isRight else None)

    async def handle_DATA(self, server, session, envelope):
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, bytes(envelope.content)))
        return "250 sent"

    def factory(self):
        return Dialog(self, self.handler, **self.SMTP_kwargs)

    async def _create_server(self):
        server = await self.loop.create_server(
            self._factory_invoker, self.hostname, self.port)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def _trigger_server(self):
        """Be ready at once: the connection that Controller would make is not to be counted."""
        self.smtpd = True
        self._factory_invoked.set()

    def run(self, what, *args):
        """Run a coroutine function in the server's loop, to its end."""
        return asyncio.run_coroutine_threadsafe(what(*args), self.loop).result(PATIENCE)

    @property
    def opens(self):
        """How many connections there ever were."""
        return len(self.dialogs)

    @property
    def live(self):
        """How many connections there are."""
        return sum(dialog.transport is not None for dialog in self.dialogs)

    def endAll(self, how=Dialog.drop):
        """End every connection from the server's side."""
        for dialog in self.dialogs:
            self.run(how, dialog)

    def freeze(self):
        """Stand still, as a stopped process does: the kernel still accepts, nobody answers."""
        self.thaw = Gate()
        self.loop.call_soon_threadsafe(self.thaw)
        self.thaw.awaitArrival()

    async def _runOn(self, laps=10):
        """Have the loop run: what it has accepted becomes a dialog, what was aborted is closed."""
        for _ in range(laps):
            await asyncio.sleep(0)

    async def _stopListening(self):
        await self._runOn()  # asyncio forgets to close what it has accepted after the close
        self.server.close()
        await self._runOn()

    async def _endTransports(self):
        """End also those that wait for the peer's end of TLS."""
        for transport in self.transports:
            transport.abort()
        await self._runOn()

    def stop(self):
        """Stop listening and end every connection, also one that is just being made."""
        if self._thread is not None:
            if self.thaw is not None:
                self.thaw.open()
            self.run(self._stopListening)
            self.endAll()
            self.run(self._endTransports)
            super().stop()


@pytest.fixture(scope="session")
def authority():
    """A certificate authority that only these tests trust."""
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    return trustme.CA()


@pytest.fixture(scope="session")
def serverContext(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def context(authority):
    """What a client needs to verify the server."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def serve():
    """Start mail servers, to be stopped at the test's end."""
    servers = []

    def start(*args, **kwargs):
        servers.append(MailServer(*args, **kwargs))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def plainServer(serve):
    """A server without TLS and AUTH."""
    return serve()


@pytest.fixture
def tlsServer(serve, serverContext):
    """A server that demands TLS and a login."""
    return serve(serverContext, {USER: PASSWORD})


@pytest.fixture
def makePool():
    """Make pools of connections to a server; they are closed at the test's end."""
    pools = []

    def make(server, *args, capacity=1, **kwargs):
        pool = Pool("mail", capacity, closeOnException=kwargs.pop("closeOnException", True),
                    factory=lambda name: Connection(
                        name, server.hostname, server.port, *args, **kwargs))
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()
