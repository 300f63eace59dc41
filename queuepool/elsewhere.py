"""Attributes that users look for on the wrong object."""

from __future__ import annotations

from typing import NoReturn


class Elsewhere:
    """An attribute that a class does not have; reading it raises an error that says where it is.

    The error is an AttributeError: ``hasattr`` is False, and a ``__getattr__`` is asked as usual.
    What a subclass defines, or what is set on an instance, takes its place.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(
            f"{owner.__name__!r} object has no attribute {self._name!r}; {self._advice}",
            name=self._name, obj=instance)
