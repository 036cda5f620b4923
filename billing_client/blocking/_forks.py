"""What a forked process must do before it uses an object that its parent made."""

import ctypes
import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """An object that a forked process can begin anew."""

    def begin_anew(self) -> None:
        """Forget what belongs to the parent: its threads do not run here, and its locks may be held for good."""


_ALL: "WeakSet[Forkable]" = WeakSet()


def watch_forks(thing: Forkable) -> None:
    """Have an object begin anew in each process that is forked from this one."""
    _ALL.add(thing)


def abandon(*things: object) -> None:
    """Never destroy these objects of the parent in this process.

    Parent and child share the kernel's epoll object: a destructor that closes a connection here would make the
    parent's loop deaf to its own.
    """
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _begin_all_anew() -> None:
    for thing in list(_ALL):
        thing.begin_anew()


if hasattr(os, "register_at_fork"):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_begin_all_anew)
