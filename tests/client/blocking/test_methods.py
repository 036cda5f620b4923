"""The blocking classes have what the async ones have: the same methods, parameters and documentation."""

import inspect
from typing import Any

import pytest

import billing_client
from billing_client import BillingSystemClient, blocking
from billing_client.blocking import BillingClient

PAIRS = [(BillingSystemClient, BillingClient), (billing_client.UsageRecorder, blocking.UsageRecorder)]
ENTERING = {"__aenter__": "__enter__", "__aexit__": "__exit__"}
OWN = {"begin_anew"}  # see billing_client.blocking._forks


def offered(class_: type) -> dict[str, Any]:
    """What a class offers, by name."""
    names = [name for name in dir(class_) if not name.startswith("_") or name in (*ENTERING, *ENTERING.values())]
    return {name: inspect.getattr_static(class_, name) for name in names}


@pytest.mark.parametrize(("async_class", "blocking_class"), PAIRS)
def test_both_have_the_same_methods(async_class: type, blocking_class: type) -> None:
    theirs, ours = offered(async_class), offered(blocking_class)
    assert {ENTERING.get(name, name) for name in theirs} == set(ours) - OWN
    for name in theirs.keys() - ENTERING.keys():
        if name != "close":  # the client's closes its recorders too
            assert ours[name].__doc__ == theirs[name].__doc__, name
        if inspect.isfunction(theirs[name]):
            assert inspect.signature(ours[name]) == inspect.signature(theirs[name]), name


def test_both_take_the_same_settings() -> None:
    assert inspect.signature(BillingClient) == inspect.signature(BillingSystemClient)


@pytest.mark.parametrize("blocking_class", [pair[1] for pair in PAIRS])
def test_nothing_is_left_to_await(blocking_class: type) -> None:
    for name, method in offered(blocking_class).items():
        assert not inspect.iscoroutinefunction(method), name
        assert not inspect.isasyncgenfunction(method), name
