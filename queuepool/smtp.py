"""Connections to a mail server, opened with the standard library's smtplib."""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from typing import TYPE_CHECKING, Any

from queuepool.elsewhere import Elsewhere
from queuepool.resource import Resource


class Session(smtplib.SMTP):
    """A client of smtplib that knows, without asking the server, whether it can send a mail."""

    # These are class attributes because the constructor of smtplib.SMTP already reads a reply.
    #: Whether the last command got its final reply, so that the server expects the next one.
    _isAnswered = True
    #: Whether a mail was begun that was neither sent nor reset.
    isInMail = False
    _verb = ""

    @property
    def isReady(self) -> bool:
        """Whether a command can be sent: it is connected, and no reply is outstanding."""
        return self._isAnswered and self.sock is not None

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Send a command. Blocks for up to the timeout; raises what smtplib raises."""
        self._verb = cmd[:4].upper()  # every verb that is looked at has four letters
        if self._verb == "MAIL":
            self.isInMail = True
        super().putcmd(cmd, args)

    def send(self, s: Any) -> None:
        """Send a command, or the text of a mail. Blocks and raises as ``putcmd`` does."""
        self._isAnswered = False
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        """Read the next reply. Blocks for up to the timeout; raises SMTPServerDisconnected."""
        code, text = super().getreply()
        # 3xx asks for more. 421 says that the server closes the connection. -1 is no reply.
        self._isAnswered = 200 <= code < 300 or 400 <= code < 600 and code != 421
        if code == 250 and self._verb in ("DATA", "RSET", "EHLO", "HELO"):
            self.isInMail = False
        return code, text

    def listen(self) -> None:
        """Look whether the server closed the connection or is about to. Never blocks.

        Sends nothing. A mail server says nothing unasked but "421 closing", so whatever there is
        to read, its end included, means that the session is over. This reads instead of polling
        the file descriptor: so it also sees what is buffered already, and does not take TLS
        records without data (session tickets of TLS 1.3, key updates) for a reply.
        """
        sock = self.sock
        if sock is None or not self._isAnswered:
            return
        try:
            if self.file is None:  # as after STARTTLS; getreply opens it in the same way
                self.file = sock.makefile("rb")
            timeout = sock.gettimeout()
            sock.settimeout(0.0)
            try:
                isSilent = self.file.read(1) is None
            except ssl.SSLWantReadError:
                isSilent = True
            finally:
                sock.settimeout(timeout)
        except (OSError, ValueError):  # reset, not TLS any more, or closed by its user
            isSilent = False
        if not isSilent:
            self._isAnswered = False


def _ofConnection(use: str) -> Any:
    return Elsewhere(f"smtplib.SMTP has it: write 'with pool.take() as smtp: {use}', or use the "
                     f"'resource' of what take() returned")


class Connection(Resource):
    """A connection to a mail server; ``with pool.take() as smtp`` hands out an ``smtplib.SMTP``.

    ``take`` without ``with`` returns this object; its ``resource`` is the ``smtplib.SMTP``. A
    take opens the connection anew if the server has closed it. A put resets a mail that was begun
    and not sent.

    - ``user``, ``password``: the login; a user of None sends without one.
    - ``starttls``: whether to encrypt the connection. A server that cannot do so is refused.
    - ``timeout``: how many seconds to wait for each answer of the server; None: no limit.
    - ``context``: the settings for TLS; None: the certificate of the server and its name are
      verified.
    """

    if not TYPE_CHECKING:  # a type checker says itself that there is no such attribute
        sendmail = _ofConnection("smtp.sendmail(...)")
        send_message = _ofConnection("smtp.send_message(...)")

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
        """Connect, encrypt and log in.

        Blocks for at most ``timeout`` seconds at each step. Raises what smtplib and ssl raise,
        such as SMTPNotSupportedError if the server cannot encrypt.
        """
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
        """Send QUIT if the server expects a command, and disconnect.

        Blocks for at most ``timeout`` seconds. That the server has closed the connection already
        is no error.
        """
        smtp, self.resource = self.resource, None
        try:
            if smtp.isReady:
                # Otherwise a QUIT would be text of a mail, or get the reply of another command.
                with contextlib.suppress(OSError):  # SMTPException is a subclass of it
                    smtp.quit()
        finally:
            smtp.close()
            super().close()

    def takeRepair(self) -> None:
        """Close the connection if the server has closed it. Sends nothing, never blocks for it."""
        if self.isOpen:
            self.resource.listen()
            if not self.resource.isReady:
                self.close()

    def putRepair(self) -> None:
        """Reset a mail that was begun, and close the connection if no other can be sent on it.

        Blocks, for at most ``timeout`` seconds, only if there is a mail to reset. Raises what
        smtplib raises.
        """
        if self.isOpen:
            smtp = self.resource
            if smtp.isReady and smtp.isInMail:
                smtp.rset()
            if smtp.isInMail or not smtp.isReady:
                self.close()

    def abandon(self) -> None:
        """Close the socket without sending anything: the parent process uses the connection."""
        if self.resource is not None:
            self.resource.close()
        super().abandon()

    if TYPE_CHECKING:
        def __enter__(self) -> smtplib.SMTP: ...  # type: ignore[override]
