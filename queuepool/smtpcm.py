"""The SMTP connection manager of 1.3.2, for programs written for it. New ones use queuepool.smtp.

``with pool.take() as manager`` hands out the manager; its ``resource`` is the ``smtplib.SMTP``.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Self

from queuepool.elsewhere import Elsewhere
from queuepool.smtp import Connection


class ConnectionManager(Connection):
    """A connection to a mail server that a with statement hands out as it is: the manager.

    ``starttls``, ``timeout`` and ``context`` are those of Connection. All other additional
    arguments are ignored, as in 1.3.2. As there, the certificate of the server is not verified,
    unless you pass a context that does so: ``context=ssl.create_default_context()``.
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
        if options.get("context") is None:
            options["context"] = _trustAll()
        super().__init__(name, host, port, user, password, **options)

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
