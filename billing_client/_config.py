"""The client's settings, and the one place that reads its environment."""

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
    """The settings given, or from `BILLING_BASE_URL` and `BILLING_API_KEY`. Raises ConfigurationError."""
    base_url = base_url or os.environ.get("BILLING_BASE_URL")
    api_key = api_key or os.environ.get("BILLING_API_KEY") or None
    if not base_url:
        raise ConfigurationError("base_url is missing: give it, or set BILLING_BASE_URL, e.g. http://127.0.0.1:3000")
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"base_url {base_url!r} is not an http:// or https:// address of a service")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise ConfigurationError("api_key holds characters that no header can carry")
    config = Config(base_url=base_url.rstrip("/"), api_key=api_key, **rest)
    for name in ("timeout", "max_attempts", "max_connections"):
        if getattr(config, name) <= 0:
            raise ConfigurationError(f"{name} is {getattr(config, name)!r}, but must be above 0")
    return config
