"""The log lines of one pool, on the logger ``queuepool``."""

from __future__ import annotations

import logging

#: How much of the text of an exception is told where there is one line for it.
BRIEF = 200


def brief(error: BaseException) -> str:
    """Return the class of an exception and the first line of its text."""
    try:
        text = next(iter(str(error).splitlines()), "")
    except Exception:  # a __str__ that fails
        text = "(it has no text)"
    return f"{type(error).__name__}: {text[:BRIEF]}"


logger = logging.getLogger("queuepool")
logger.addHandler(logging.NullHandler())


class Log:
    """Writes log lines that begin with the name of the pool. Raises nothing."""

    def __init__(self, poolName: str) -> None:
        self.poolName = poolName

    def debug(self, message: str, *args: object) -> None:
        """Log what the pool does."""
        self._write(logging.DEBUG, message, args)

    def info(self, message: str, *args: object) -> None:
        """Log the end of what was warned of."""
        self._write(logging.INFO, message, args)

    def warning(self, word: str, message: str, *args: object, details: str = "",
                exc_info: bool = False) -> None:
        """Log what somebody should look at. The README has a section for each ``word``."""
        if details:
            details = "\n" + details
        self._write(logging.WARNING, message + " [queuepool:%s]%s", (*args, word, details),
                    exc_info)

    def _write(self, level: int, message: str, args: tuple[object, ...],
               exc_info: bool = False) -> None:
        try:
            if logger.isEnabledFor(level):
                logger.log(level, "pool %s: " + message, self.poolName, *args, exc_info=exc_info)
        except Exception:  # a handler that fails must not become the pool's failure
            pass
