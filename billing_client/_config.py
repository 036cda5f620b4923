"""The client's settings. Only this module reads the environment."""

import os
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from billing_client._errors import ConfigurationError


class Config(Struct, frozen=True, kw_only=True):
    """Validated settings. Times are in seconds."""

    base_url: str
    api_key: str | None
    timeout: float
    max_attempts: int
    max_connections: int


def load_config(*, base_url: str | None, api_key: str | None, **rest: Any) -> Config:
    """Check the settings. `BILLING_BASE_URL` and `BILLING_API_KEY` fill gaps. Raises ConfigurationError."""
    base_url = base_url or os.environ.get("BILLING_BASE_URL")
    key_name = "api_key" if api_key else "BILLING_API_KEY"
    api_key = (
        api_key or os.environ.get("BILLING_API_KEY", "").rstrip("\r\n") or None
    )  # a file's content ends in a line end
    if not base_url:
        raise ConfigurationError("base_url is missing: give it, or set BILLING_BASE_URL, e.g. http://127.0.0.1:3000")
    if not _is_base_url(base_url):
        raise ConfigurationError(
            "base_url is not the http:// or https:// address of a service, without user, query and fragment"
        )
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise ConfigurationError(
            f"{key_name} holds characters that no header can carry, such as a line end; correct it"
        )
    config = Config(base_url=base_url.rstrip("/"), api_key=api_key, **rest)
    for name in ("timeout", "max_attempts", "max_connections"):
        if not getattr(config, name) > 0:  # NaN is not
            raise ConfigurationError(f"{name} is {getattr(config, name)!r}, but must be above 0")
    return config


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = parts.username is None and not any(mark in url for mark in "?#\\") and url.isprintable() and " " not in url
    return parts.scheme in ("http", "https") and bool(parts.hostname) and has_port and plain
