"""Retries: which failures are retried, and how long the client waits between attempts."""

import random
import ssl
import time
from collections.abc import Generator
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from billing_client._calls import ApiCall
from billing_client._errors import BillingError
from billing_client._responses import Response

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 10.0
RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
# Network errors that the next attempt would meet again: the same certificate, the same address.
_NEVER_RETRIED = (aiohttp.ClientSSLError, ssl.SSLError, aiohttp.ServerFingerprintMismatch, aiohttp.InvalidURL)


class RetryableError(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, call: ApiCall, error: BillingError) -> None:
        super().__init__(str(error))
        self.error = call.last_error = error
        self.is_in_time = time.monotonic() + error.retry_after < call.deadline


def waits() -> Generator[float, Any, None]:
    """Exponential waits with full jitter, on top of what the service asked for.

    (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.)
    """
    failed = yield 0.0
    longest = FIRST_WAIT_SECONDS
    while True:
        failed = yield failed.error.retry_after + random.uniform(0.0, longest)  # noqa: S311 - spreads load, keeps no secret
        longest = min(longest * 2, LONGEST_WAIT_SECONDS)


def is_retryable(error: Exception) -> bool:
    """Whether another attempt may get past a network error."""
    return not (isinstance(error, _NEVER_RETRIED) or isinstance(error.__cause__, ssl.SSLError))


def retry_after(response: Response) -> float:
    """The seconds that Retry-After asks for (RFC 9110, section 10.2.3), 0 if it asks for none.

    A date is by the clock of who wrote it, which may be another than ours: the response has that in `Date`.
    """
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    until, now = _instant(value), _instant(response.headers.get("Date", ""))
    return 0.0 if until is None else max(0.0, until - (time.time() if now is None else now))


def _instant(value: str) -> float | None:
    """An HTTP date in seconds since 1970; None if it is none."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
