"""Connections to a mail server, opened with the standard library's smtplib."""

from __future__ import annotations

import smtplib
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from queuepool.elsewhere import Elsewhere
from queuepool.resource import Resource

#: Seconds to wait for the answer to QUIT. The answer changes nothing here; the wait only lets a
#: server that limits its connections end this one before the next is opened.
QUIT_TIME = 0.5
#: Seconds to wait for the answer to RSET. A put must not hang for what another connection replaces.
RESET_TIME = 1.0
#: Seconds that an open may use, however little time the take has left: TCP, TLS and the login need
#: about eight round trips, and a take with a short timeout could never open a connection otherwise.
LEAST_OPEN_TIME = 2.0

#: The pools whose last QUIT got no answer in time, until one of their connections can be opened.
#: By id: what users define to compare pools does not matter.
_unanswered: WeakValueDictionary[int, Any] = WeakValueDictionary()


class Session(smtplib.SMTP):
    """A client of smtplib that knows, without asking the server, whether it can send a mail."""

    # These are class attributes because the constructor of smtplib.SMTP already reads a reply.
    #: Whether the last command got its final reply, so that the server expects the next one.
    _isAnswered = True
    #: Whether a mail was begun that was neither sent nor reset.
    isInMail = False
    #: Whether the server lets no more mails through on this connection.
    isSpent = False
    _verb = ""
    _deadline: float | None = None

    def __init__(self, host: str = "", port: int = 0, localName: str | None = None, *,
                 timeout: float | None = None, deadline: float | None = None) -> None:
        """Connect. Until ``endDeadline``, nothing waits beyond ``deadline`` (time.monotonic)."""
        self._deadline = deadline
        super().__init__(host, port, localName, timeout=timeout)  # type: ignore[arg-type]

    @property
    def isReady(self) -> bool:
        """Whether a command can be sent: it is connected, and no reply is outstanding."""
        return self._isAnswered and self.sock is not None and self.sock.fileno() >= 0

    def endDeadline(self) -> None:
        """Wait for up to ``timeout`` at each step from now on."""
        self._deadline = None
        self.restoreTimeout()

    def restoreTimeout(self) -> None:
        """Set the time limit of the socket to what it is to be now."""
        if self.sock is not None:
            self.sock.settimeout(self._within(self.timeout))

    def _within(self, seconds: float | None) -> float | None:
        """Return a time limit that ends at the deadline at the latest."""
        if self._deadline is None:
            return seconds
        left = max(self._deadline - time.monotonic(), 0.001)
        return left if seconds is None else min(seconds, left)

    def _get_socket(self, host: str, port: int, timeout: Any) -> Any:
        if self._deadline is not None:
            # The addresses of the host are tried one after the other, each for up to the timeout.
            count = len(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            left: Any = self._within(None)
            timeout = left / count if timeout is None else min(timeout, left / count)
        return super()._get_socket(host, port, timeout)  # type: ignore[misc]

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
        if self._deadline is not None:
            self.restoreTimeout()
        code, text = super().getreply()
        if self._deadline is not None:  # for the handshake of TLS, which may be next
            self.restoreTimeout()
        # 3xx asks for more. 421 says that the server closes the connection. -1 is no reply.
        self._isAnswered = 200 <= code < 300 or 400 <= code < 600 and code != 421
        if code == 250 and self._verb in ("DATA", "RSET", "EHLO", "HELO"):
            self.isInMail = False
        if code == 452 and self._verb in ("MAIL", "DATA"):
            self.isSpent = True  # how servers say that a session has sent its number of mails
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

    def leave(self, seconds: float) -> bool:
        """Send QUIT, and return whether the server reacts to it within so many seconds.

        Blocks no longer, whatever the timeout is. The first byte of the reply is enough, and so is
        the end of the connection.
        """
        try:
            sock: Any = self.sock
            sock.settimeout(seconds)
            self.putcmd("QUIT")
            if self.file is None:
                self.file = sock.makefile("rb")
            self.file.read(1)
        except TimeoutError:
            return False
        except (OSError, ValueError):  # SMTPException is an OSError
            pass
        return True


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
    - ``timeout``: how many seconds to wait for each answer of the server; None: no limit. What the
      pool sends on its own account, QUIT and RSET, has shorter limits.
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
        #: The name of this host, which smtplib would ask the DNS for at each open.
        self._localName: str | None = None

    def open(self) -> None:
        """Connect, encrypt and log in.

        Blocks for at most ``timeout`` seconds at each step, and in all no longer than the take
        has time, or LEAST_OPEN_TIME if that is longer; only what the DNS is asked has no limit.
        Raises what smtplib and ssl raise, such as SMTPNotSupportedError if the server cannot
        encrypt.
        """
        left = self.timeLeft
        self.resource = smtp = Session(
            self.host, self.port, self._localName, timeout=self.timeout,
            deadline=None if left is None else time.monotonic() + max(left, LEAST_OPEN_TIME))
        if self.starttls:
            smtp.starttls(context=self.context or ssl.create_default_context())
        smtp.ehlo_or_helo_if_needed()
        if self.user is not None:
            smtp.login(self.user, self.password)  # type: ignore[arg-type]
        self._localName = smtp.local_hostname
        smtp.endDeadline()
        if self.pool is not None:
            _unanswered.pop(id(self.pool), None)
        self.handOut(smtp)
        super().open()

    def close(self) -> None:
        """Send QUIT if the server expects a command, and disconnect.

        Waits for the answer for at most QUIT_TIME, ``timeout`` or half of what the take has left,
        whichever is shortest. After one that did not come, the pool waits for no other until it
        could open a connection again. That the server has closed the connection is no error.
        """
        smtp, self.resource = self.resource, None
        try:
            # Otherwise a QUIT would be text of a mail, or get the reply of another command.
            if smtp.isReady and not smtp.leave(self._quitTime) and self.pool is not None:
                _unanswered[id(self.pool)] = self.pool
        finally:
            smtp.close()
            super().close()

    @property
    def _quitTime(self) -> float:
        if id(self.pool) in _unanswered:
            return 0.0
        left = self.timeLeft
        return min(QUIT_TIME, QUIT_TIME if self.timeout is None else self.timeout,
                   QUIT_TIME if left is None else left / 2)

    def takeRepair(self) -> None:
        """Close the connection if the server has closed it. Sends nothing, never blocks for it."""
        if self.isOpen:
            self.resource.listen()
            if not self.resource.isReady:
                self.close()

    def putRepair(self) -> None:
        """Reset a mail that was begun, and close the connection if no other can be sent on it.

        Also sets back the timeout of the socket and the encoding of commands. Blocks only if there
        is a mail to reset, for at most ``timeout`` or RESET_TIME, whichever is shorter, or if it
        closes. Raises what smtplib raises.
        """
        if self.isOpen:
            smtp = self.resource
            if smtp.isReady:
                if smtp.isInMail:
                    smtp.sock.settimeout(RESET_TIME if self.timeout is None
                                         else min(RESET_TIME, self.timeout))
                    smtp.rset()
                smtp.timeout = self.timeout
                smtp.restoreTimeout()
                # A mail with SMTPUTF8 leaves it at UTF-8; only such mails may have it.
                smtp.command_encoding = "ascii"
            if smtp.isInMail or smtp.isSpent or not smtp.isReady:
                self.close()

    def isTransient(self, error: BaseException) -> bool:
        """Tell whether another attempt may succeed where an open raised this.

        False for what the server refuses with 5xx, such as a wrong password (4xx means later), for
        what it cannot do, and for a certificate that cannot be verified.
        """
        if isinstance(error, smtplib.SMTPResponseException):
            return not 500 <= error.smtp_code < 600
        # smtplib raises SMTPException itself if the server offers no login that it knows.
        return type(error) is not smtplib.SMTPException and not isinstance(
            error, (smtplib.SMTPNotSupportedError, ssl.SSLCertVerificationError, UnicodeError))

    def abandon(self) -> None:
        """Close the socket without sending anything: the parent process uses the connection."""
        if self.resource is not None:
            self.resource.close()
        super().abandon()

    if TYPE_CHECKING:
        def __enter__(self) -> smtplib.SMTP: ...  # type: ignore[override]
