"""Makes blocking methods of async ones: their parameters, types and documentation are those of the async method."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from billing_client.blocking._iteration import Caller, iterate
from billing_client.blocking._loop_thread import LoopThread

A_co = TypeVar("A_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Blocking(ABC, Generic[A_co]):
    """What the blocking classes share: an object of the async class, and the thread whose loop it belongs to."""

    @abstractmethod
    def _in_thread(self) -> tuple[A_co, LoopThread]:
        """The async object of this process, ready to be used, and its thread."""


def waiting(
    method: Callable[Concatenate[A_co, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[A_co], P], T]:
    """The method that waits for what this one returns."""

    def blocking(self: Blocking[A_co], /, *arguments: P.args, **named: P.kwargs) -> T:
        target, thread = self._in_thread()
        return thread.run(method(target, *arguments, **named))

    return _dressed_as(method, blocking)


def calling(method: Callable[Concatenate[A_co, P], T]) -> Callable[Concatenate[Blocking[A_co], P], T]:
    """The method that calls this one, which waits for nothing, in its thread."""

    def blocking(self: Blocking[A_co], /, *arguments: P.args, **named: P.kwargs) -> T:
        target, thread = self._in_thread()
        return thread.call(lambda: method(target, *arguments, **named))

    return _dressed_as(method, blocking)


def iterating(
    method: Callable[Concatenate[A_co, P], AsyncGenerator[T, None]], *, fed: str | None = None
) -> Callable[Concatenate[Blocking[A_co], P], Generator[T, None, None]]:
    """The method that iterates over what this one yields. `fed` names an iterable of the caller's thread."""
    signature = inspect.signature(method)

    def blocking(self: Blocking[A_co], /, *arguments: P.args, **named: P.kwargs) -> Generator[T, None, None]:
        target, thread = self._in_thread()
        bound = signature.bind(target, *arguments, **named)

        def make(caller: Caller[T]) -> AsyncGenerator[T, None]:
            if fed is not None and not isinstance(bound.arguments[fed], AsyncIterable):
                bound.arguments[fed] = caller.feed(bound.arguments[fed])
            return method(*bound.args, **bound.kwargs)

        return iterate(thread, make)

    return _dressed_as(method, blocking)


def parameters_of(
    method: Callable[Concatenate[Any, P], Any],
) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, P], R]]:
    """Gives a method that takes anything the parameters and the documentation of this one."""

    def decorate(function: Callable[..., R]) -> Callable[Concatenate[Any, P], R]:
        function.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]  # PEP 362
        function.__doc__ = function.__doc__ or method.__doc__
        return function

    return decorate


def _dressed_as(method: Callable[..., Any], blocking: Callable[P, T]) -> Callable[P, T]:
    """Give a method the name, parameters and documentation of the one it is made of."""
    update_wrapper(blocking, method)
    del blocking.__wrapped__  # type: ignore[attr-defined]  # else it would pass for a coroutine function
    blocking.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]  # PEP 362
    return blocking
