"""1.3.2's SMTP connection manager, which does not verify certificates. New code: queuepool.smtp.

``with pool.take() as manager`` hands out the manager; its ``resource`` is the ``smtplib.SMTP``.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from typing import TYPE_CHECKING, Any, Self
from weakref import ref

from queuepool.elsewhere import Elsewhere
from queuepool.smtp import Connection

#: The pools that were warned, by id: what users define to compare pools does not matter.
_warned: dict[int, ref[Any]] = {}


class ConnectionManager(Connection):
    """A connection to a mail server whose certificate is not verified, as in 1.3.2.

    Pass ``context=ssl.create_default_context()`` to have it verified; without a context, the first
    connection of a pool that is opened with STARTTLS logs a warning. ``starttls``, ``timeout`` and
    ``context`` are those of Connection; all other additional arguments are ignored, as in 1.3.2.
    A with statement hands out the manager itself.
    """

    if TYPE_CHECKING:
        def __enter__(self) -> Self: ...  # type: ignore[override]
    else:
        send_message = Elsewhere(
            "smtplib.SMTP has it: write 'manager.resource.send_message(...)'")

    def __init__(self, name: str, host: str = "", port: int = 0, user: str | None = None,
                 password: str | None = None, *args: object, **kwargs: Any) -> None:
        options = {key: kwargs[key] for key in ("starttls", "timeout", "context")
                   if key in kwargs}
        self._trustAll: ssl.SSLContext | None = None
        if options.get("context") is None:
            self._trustAll = options["context"] = _trustAll()
        super().__init__(name, host, port, user, password, **options)

    def open(self) -> None:
        """Open as Connection does, and warn once per pool if the certificate is not verified."""
        super().open()
        if self.starttls and self.context is self._trustAll:
            self._warn()

    def _warn(self) -> None:
        pool = self if self.pool is None else self.pool
        key = id(pool)
        # Each is an object of its own, which tells who came first.
        mark = ref(pool, lambda _: _warned.pop(key, None))
        if _warned.setdefault(key, mark) is mark:
            with contextlib.suppress(Exception):  # a handler that fails fails no open
                logging.getLogger("queuepool").warning(
                    "pool %s: the certificate of the mail server %s is not verified, so anybody "
                    "on the way can read mails and password; pass "
                    "context=ssl.create_default_context() to smtpcm.ConnectionManager to have it "
                    "verified [queuepool:not-verified]", pool.name, self.host)

    def sendmail(self, *args: Any, **kwargs: Any) -> dict[str, tuple[int, bytes]]:
        """Send a mail. Takes, returns and raises what ``smtplib.SMTP.sendmail`` does; blocks."""
        return self.resource.sendmail(*args, **kwargs)  # type: ignore[no-any-return]

    def handOut(self, target: Any) -> None:
        """Have the with statement hand out the manager, whatever ``target`` is."""
        super().handOut(self)

    def __repr__(self) -> str:
        return str(dict(host=self.host, port=self.port, user=self.user, password="xxxxxxx",
                        ResourceManager=super().__repr__()))


def _trustAll() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
