"""The SMTP connection manager of 1.3.2: ``queuepool.smtp`` under its old name and manners."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, TypeVar

from queuepool.smtp import Connection

M = TypeVar("M", bound="ConnectionManager")


class ConnectionManager(Connection):
    """Be a connection to a mail server; the with statement hands out the manager itself.

    ``starttls``, ``timeout`` and ``context`` are Connection's; all other further arguments are
    ignored, as in 1.3.2. As there, the server's certificate is not verified unless a context
    that does is given (``context=ssl.create_default_context()``).
    """

    def __init__(self, name: str, host: str = "", port: int = 0, user: str | None = None,
                 password: str | None = None, *args: object, **kwargs: Any) -> None:
        options = {key: kwargs[key] for key in ("starttls", "timeout", "context")
                   if key in kwargs}
        if options.get("context") is None:
            options["context"] = _trustAll()
        super().__init__(name, host, port, user, password, **options)

    def sendmail(self, *args: Any, **kwargs: Any) -> dict[str, tuple[int, bytes]]:
        """Send a mail; takes, returns and raises what ``smtplib.SMTP.sendmail`` does."""
        return self.resource.sendmail(*args, **kwargs)  # type: ignore[no-any-return]

    def handOut(self, target: Any) -> None:
        """Have the with statement hand out the manager itself, whatever was opened."""
        super().handOut(self)

    if TYPE_CHECKING:
        def __enter__(self: M) -> M: ...  # type: ignore[override]

    def __repr__(self) -> str:
        return str(dict(host=self.host, port=self.port, user=self.user, password="xxxxxxx",
                        ResourceManager=super().__repr__()))


def _trustAll() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
