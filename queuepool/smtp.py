"""A connection to a mail server, over the standard library's smtplib."""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from typing import TYPE_CHECKING, Any

from queuepool.resource import Resource


class Session(smtplib.SMTP):
    """Be smtplib's client that knows, without asking the server, whether it is fit for a mail."""

    # Class attributes, because smtplib's constructor connects and so reads the first reply.
    #: The server has answered the last command for good, and listens for the next.
    _isAnswered = True
    #: A mail was begun, and neither sent nor reset.
    isInMail = False
    _verb = ""

    @property
    def isReady(self) -> bool:
        """Tell whether a command can be sent: the link is there and no reply is due."""
        return self._isAnswered and self.sock is not None

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Send a command."""
        self._verb = cmd[:4].upper()  # all verbs of interest have four letters
        if self._verb == "MAIL":
            self.isInMail = True
        super().putcmd(cmd, args)

    def send(self, s: Any) -> None:
        """Send a command or a mail's text."""
        self._isAnswered = False
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        """Read the reply to what was sent."""
        code, text = super().getreply()
        # 3xx asks for more, 421 says that the server goes; what is no code at all is no reply.
        self._isAnswered = 200 <= code < 300 or 400 <= code < 600 and code != 421
        if code == 250 and self._verb in ("DATA", "RSET", "EHLO", "HELO"):
            self.isInMail = False
        return code, text

    def listen(self) -> None:
        """Notice whether the server has gone or is about to. Never blocks, sends nothing.

        A mail server speaks only when it is asked, but for "421 closing": whatever there is to
        read, be it the end, means that the session is over. Reading is better than polling the
        descriptor: what is buffered is seen, and TLS records that carry no data (the session
        tickets of TLS 1.3, key updates) are not mistaken for words.
        """
        sock = self.sock
        if sock is None or not self._isAnswered:
            return
        try:
            if self.file is None:  # as after STARTTLS; getreply does the same
                self.file = sock.makefile("rb")
            timeout = sock.gettimeout()
            sock.settimeout(0.0)
            try:
                isSilent = self.file.read(1) is None
            except ssl.SSLWantReadError:
                isSilent = True
            finally:
                sock.settimeout(timeout)
        except (OSError, ValueError):  # reset, no TLS record, or closed behind our back
            isSilent = False
        if not isSilent:
            self._isAnswered = False


class Connection(Resource):
    """Be a connection to a mail server; the with statement hands out the ``smtplib.SMTP``.

    ``take()`` without ``with`` returns the Connection, whose ``resource`` it is. At each take
    one whose server has gone is opened anew; at each put what is left of a half-done mail is
    reset.

    - ``starttls``: encrypt the connection, and refuse a server that cannot.
    - ``context``: for TLS; None for one that verifies the server's certificate and name.
    - ``user``, ``password``: None to send without a login.
    - ``timeout``: seconds to wait for the server at each step, None for ever.
    """

    def __init__(self, name: str, host: str, port: int = 0, user: str | None = None,
                 password: str | None = None, *, starttls: bool = True,
                 timeout: float | None = 60.0, context: ssl.SSLContext | None = None) -> None:
        super().__init__(name)
        self.host = host
        self.port = port
        self.user = user
        self.password = password
        self.starttls = starttls
        self.timeout = timeout
        self.context = context

    def open(self) -> None:
        """Connect, encrypt and log in; raises what smtplib and ssl raise."""
        self.resource = smtp = Session(
            self.host, self.port, timeout=self.timeout)  # type: ignore[arg-type]
        if self.starttls:
            smtp.starttls(context=self.context or ssl.create_default_context())
        smtp.ehlo_or_helo_if_needed()
        if self.user is not None:
            smtp.login(self.user, self.password)  # type: ignore[arg-type]
        self.handOut(smtp)
        super().open()

    def close(self) -> None:
        """Say goodbye if the server listens, and disconnect; a dropped link is no error."""
        smtp, self.resource = self.resource, None
        try:
            if smtp.isReady:
                # In any other state a QUIT would become text of a mail, or its reply a riddle.
                with contextlib.suppress(OSError):  # SMTPException is one
                    smtp.quit()
        finally:
            smtp.close()
            super().close()

    def takeRepair(self) -> None:
        """Close the connection if the server has gone; costs no round trip."""
        if self.isOpen:
            self.resource.listen()
            if not self.resource.isReady:
                self.close()

    def putRepair(self) -> None:
        """Reset a mail that was begun; close the connection if it is fit for no other.

        Costs a round trip only if there is a mail to reset.
        """
        if self.isOpen:
            smtp = self.resource
            if smtp.isReady and smtp.isInMail:
                smtp.rset()
            if smtp.isInMail or not smtp.isReady:
                self.close()

    def abandon(self) -> None:
        """Let go of the socket without a word to the server: the parent process goes on with it."""
        if self.resource is not None:
            self.resource.close()
        super().abandon()

    if TYPE_CHECKING:
        def __enter__(self) -> smtplib.SMTP:  # type: ignore[override]
            ...
