"""The settings, and the only place that reads the environment. `.env.example` describes each setting."""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import msgspec
from dotenv import dotenv_values
from msgspec import Meta, Struct

from billing_client.contract.wire import MAX_BATCH_RECORDS
from billing_service.currencies import MINOR_UNITS
from billing_service.database_url import DatabaseUrlError, parse_database_url

ENV_FILES = {"development": ".env", "staging": ".env.staging", "production": ".env.production"}
_SECRET = {"DATABASE_URL", "BILLING_READ_DATABASE_URL", "BILLING_RATE_LIMIT_STORE"}
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_OTHER_PROGRAMS = frozenset({"BILLING_BASE_URL", "BILLING_API_KEY"})  # the client's, which may run beside the service
_TESTS = "BILLING_TEST_"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"  # RFC 1123, section 2.1, and the underscores of container names
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
# Kubernetes injects variables for each Service of a namespace into its containers; Docker's --link does the same for a
# container. For a Service called billing: BILLING_SERVICE_HOST, BILLING_SERVICE_PORT, BILLING_PORT=tcp://10.0.0.1:80,
# BILLING_PORT_80_TCP=tcp://10.0.0.1:80, BILLING_PORT_80_TCP_ADDR, …
_LINK_URL = re.compile(r"(?:tcp|udp|sctp)://.+")
_LINK = re.compile(r"(BILLING(?:_[A-Z0-9_]+)?)_PORT_[0-9]+_(?:TCP|UDP|SCTP)")
_LINK_REST = re.compile(
    r"_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_[A-Z]+(?:_[A-Z]+)?|NAME|ENV_.+)"
)


class SettingsError(Exception):
    """A setting is not valid. The message is one line for the operator, without secrets."""


class Rate(NamedTuple):
    """A rate limit: a bucket of `quota` requests or records that refills within `period`."""

    quota: int
    period: timedelta
    unit: Literal["requests", "records"]

    @property
    def seconds(self) -> int:
        return int(self.period.total_seconds())


_PERIODS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_RateText = Annotated[
    Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,8}/[smhd]\Z")] | None,
    Meta(description="a number for each second, minute, hour or day, such as 600/m"),
]


def _variable(field: str) -> str:
    return "DATABASE_URL" if field == "database_url" else f"BILLING_{field.upper()}"


class Settings(Struct, frozen=True, kw_only=True, rename=_variable):
    """All settings, validated. Times are in seconds, sizes in bytes. Limits apply to each worker process by itself."""

    env: Annotated[
        Literal["development", "staging", "production"],
        Meta(description="one of development, staging, production"),
    ] = "development"
    database_url: Annotated[
        str | None, Meta(description="a URL such as postgresql://user:password@host:5432/database")
    ] = None
    read_database_url: Annotated[
        str | None, Meta(description="a URL such as postgresql://user:password@replica:5432/database")
    ] = None
    data_dir: Annotated[str | None, Meta(description="the path of a folder")] = None
    host: Annotated[str, Meta(min_length=1, description="an address or host name")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="a port from 1 to 65535")] = 3000
    workers: Annotated[int, Meta(ge=1, le=256, description="a whole number from 1 to 256")] = 1
    currency: Annotated[
        str,
        Meta(pattern=rf"^(?:{'|'.join(MINOR_UNITS)})\Z", description="the ISO 4217 code of a currency such as USD"),
    ] = "USD"
    pgbouncer: Annotated[
        bool, Meta(description="true or false: whether DATABASE_URL is a PgBouncer in transaction mode")
    ] = False
    pool_size: Annotated[int, Meta(ge=2, le=1000, description="a whole number from 2 to 1000")] = 10
    database_timeout: Annotated[float, Meta(gt=0, le=600, description="seconds, above 0, at most 600")] = 10
    read_timeout: Annotated[float, Meta(gt=0, le=3600, description="seconds, above 0, at most 3600")] = 30
    drain_delay: Annotated[float, Meta(ge=0, le=600, description="seconds from 0 to 600")] = 0
    shutdown_timeout: Annotated[int, Meta(ge=1, le=600, description="whole seconds from 1 to 600")] = 30
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30, description="a whole number from 1024 to 1073741824")] = (
        8 * 1024 * 1024
    )
    max_receiving_bytes: Annotated[
        int,
        Meta(
            ge=1024, le=1 << 40, description="a whole number from 1024 to 1099511627776, BILLING_MAX_BODY_BYTES or more"
        ),
    ] = 64 * 1024 * 1024
    max_sending_bytes: Annotated[
        int, Meta(ge=1 << 20, le=1 << 40, description="a whole number from 1048576 to 1099511627776")
    ] = 64 * 1024 * 1024
    queue_records: Annotated[int, Meta(ge=1, le=1_000_000, description="a whole number from 1 to 1000000")] = 10_000
    max_requests: Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")] = 1000
    max_event_streams: Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")] = 1000
    refusal_days: Annotated[int, Meta(ge=0, le=3650, description="a whole number of days from 0 to 3650")] = 30
    refusals_per_customer: Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")] = 1000
    refusals_kept: Annotated[int, Meta(ge=1, le=10_000_000, description="a whole number from 1 to 10000000")] = 100_000
    requests_per_key: _RateText = None
    records_per_key: _RateText = None
    requests_per_address: _RateText = None
    records_per_address: _RateText = None
    rate_limit_store: Annotated[
        Annotated[str, Meta(pattern=r"^rediss?://")] | None,
        Meta(description="a URL such as redis://user:password@host:6379/0"),
    ] = None
    allowed_hosts: Annotated[
        str | None, Meta(description="host names or IP addresses without ports, separated by commas")
    ] = None
    trusted_proxies: Annotated[str | None, Meta(description="addresses or networks, separated by commas")] = None
    signing_key_file: Annotated[
        str | None, Meta(description="the path of a file with Ed25519 keys in PEM, the one that signs first")
    ] = None
    log_format: Annotated[Literal["auto", "json", "console"], Meta(description="one of auto, json, console")] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="one of debug, info, warning, error")
    ] = "info"
    traces: Annotated[Literal["off", "otlp"], Meta(description="one of off, otlp")] = "off"

    @property
    def of_reads(self) -> "Settings":
        """These settings with the database for large reads: any server of BILLING_READ_DATABASE_URL if it is set."""
        if self.read_database_url is None:
            return self
        url = self.read_database_url
        if "target_session_attrs=" not in url:
            url += ("&" if "?" in url else "?") + "target_session_attrs=any"
        return msgspec.structs.replace(self, database_url=url, read_database_url=None)

    @property
    def log_is_json(self) -> bool:
        """Whether the log is written as JSON."""
        return self.log_format == "json" or (self.log_format == "auto" and self.env != "development")

    @property
    def key_required(self) -> bool:
        """Whether every request needs an API key."""
        return self.env != "development"

    @property
    def host_names(self) -> frozenset[str]:
        """The names in BILLING_ALLOWED_HOSTS, in lower case, IPv6 addresses without brackets; empty if it is not set.

        In development only these and the loopback names are served. This keeps web pages from reaching the service
        under a name of their own (DNS rebinding). In staging and production, empty means that every name is served.
        """
        return frozenset(_host_name(name) for name in (self.allowed_hosts or "").split(",") if name.strip())

    @property
    def rates(self) -> dict[str, Rate | None]:
        """The rate limits by policy name; None means no limit."""
        return {
            "address-requests": _rate(self.requests_per_address, "requests"),
            "address-records": _rate(self.records_per_address, "records"),
            "key-requests": _rate(self.requests_per_key, "requests"),
            "key-records": _rate(self.records_per_key, "records"),
        }


def _rate(text: str | None, unit: Literal["requests", "records"]) -> Rate | None:
    if text is None:
        return None
    quota, _, period = text.partition("/")
    return Rate(int(quota), _PERIODS[period], unit)


def load_settings(environment: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """Read and validate the settings.

    An environment variable wins over the env file of BILLING_ENV, and that over the default. An empty variable counts
    as not set.

    Args:
        environment: The environment variables; by default those of this process.
        **overrides: Settings by field name. They win over everything else, except for those that are None.

    Raises:
        SettingsError: A setting is not valid. Its one line names the variable, what is wrong and what is allowed.
    """
    environment = os.environ if environment is None else environment
    given = _without_links({name: value for name, value in environment.items() if value})
    env = _convert("env", given.get("BILLING_ENV", "development"))
    file = {name: value for name, value in dotenv_values(ENV_FILES[env]).items() if value}
    _check_names(given, "the environment")
    _check_names(file, ENV_FILES[env])
    if "BILLING_ENV" in file:
        fault = f"it is set in the file {ENV_FILES[env]}, but it decides which file is read"
        raise SettingsError(f"BILLING_ENV: {fault}; it must be set in the environment, and removed from the file")
    return _validate(file | given | {"BILLING_ENV": env}, overrides)


def _validate(values: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    given: dict[str, object] = {
        field: values[_variable(field)] for field in Settings.__struct_fields__ if _variable(field) in values
    }
    given |= {field: value for field, value in overrides.items() if value is not None}
    settings = Settings(**{field: _convert(field, value) for field, value in given.items()})
    _check_database_url(settings)
    _check_limits(settings)
    _check_addresses(settings)
    return settings


def _without_links(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables that Kubernetes or Docker injected for services named billing….

    A group of injected variables is recognised by a member such as BILLING_PORT_80_TCP=tcp://10.0.0.1:80. Without one,
    a similar name is a misspelt setting. BILLING_PORT is injected if it holds such a URL; otherwise it is the setting.
    """
    links = {match[1] for name, value in environment.items() if (match := _LINK.fullmatch(name)) and _is_link(value)}
    injected = {
        name
        for name, value in environment.items()
        for link in links
        if name.startswith(link) and _LINK_REST.fullmatch(name[len(link) :])
        if name not in Settings.__struct_encode_fields__ or _is_link(value)
    }
    return {name: value for name, value in environment.items() if name not in injected}


def _is_link(value: str) -> bool:
    return _LINK_URL.fullmatch(value) is not None


def _check_names(values: Mapping[str, str], where: str) -> None:
    """Refuse unknown variables that begin with BILLING_, so that a misspelt setting is not ignored silently."""
    known = {name.removeprefix("BILLING_"): name for name in (*Settings.__struct_encode_fields__, *_OTHER_PROGRAMS)}
    for name in sorted(values):
        if name.startswith("BILLING_") and name not in known.values() and not name.startswith(_TESTS):
            close = get_close_matches(name.removeprefix("BILLING_"), known, n=1)
            right = f"it must be {known[close[0]]}" if close else "it must be a name that .env.example lists"
            raise SettingsError(f"{name}: there is no such setting (found in {where}); {right}, or be removed")


def _convert(field: str, value: object) -> Any:
    type_ = get_type_hints(Settings, include_extras=True)[field]
    try:
        return msgspec.convert(value, type_, strict=False)
    except msgspec.ValidationError as error:
        name = _variable(field)
        shown = "its value (not shown)" if name in _SECRET else repr(value)
        raise SettingsError(f"{name}: {shown} is not valid; it must be {type_.__metadata__[0].description}") from error


def _check_database_url(settings: Settings) -> None:
    right = "it must be a URL such as postgresql://user:password@host:5432/database"
    if settings.database_url is None:
        if settings.env != "development":
            fault = f"it is not set, and BILLING_ENV={settings.env} does not run on the embedded database"
            raise SettingsError(f"DATABASE_URL: {fault}; {right}")
        return
    for field in ("database_url", "read_database_url"):
        try:
            parse_database_url(getattr(settings, field) or settings.database_url)
        except DatabaseUrlError as error:
            raise SettingsError(f"{_variable(field)}: {error}; {right}") from error


def _check_limits(settings: Settings) -> None:
    for field in ("records_per_key", "records_per_address"):
        rate = _rate(getattr(settings, field), "records")
        if rate is not None and rate.quota < MAX_BATCH_RECORDS:
            fault = f"a batch may hold {MAX_BATCH_RECORDS} records, and a full one would never be accepted"
            right = f"it must be {MAX_BATCH_RECORDS} or more, such as {MAX_BATCH_RECORDS}/m"
            raise SettingsError(f"{_variable(field)}: {getattr(settings, field)!r} is not valid: {fault}; {right}")
    if settings.rate_limit_store is not None and find_spec("redis") is None:
        fault = "it is set, but the Redis client is not installed; unset it, or run"
        raise SettingsError(f"BILLING_RATE_LIMIT_STORE: {fault}: pip install 'billing-system[service,redis]'")
    if settings.max_receiving_bytes < settings.max_body_bytes:
        fault = "a body of BILLING_MAX_BODY_BYTES could never be received"
        right = f"it must be BILLING_MAX_BODY_BYTES ({settings.max_body_bytes}) or more"
        raise SettingsError(
            f"BILLING_MAX_RECEIVING_BYTES: {settings.max_receiving_bytes} is not valid: {fault}; {right}"
        )


def _check_addresses(settings: Settings) -> None:
    for address in filter(None, (settings.trusted_proxies or "").split(",")):
        try:
            ip_network(address.strip())
        except ValueError as error:
            right = "it must be addresses or networks, separated by commas, such as 10.0.0.1,10.1.0.0/16"
            raise SettingsError(f"BILLING_TRUSTED_PROXIES: {address!r} is not valid; {right}") from error
    bad_names = sorted(name for name in settings.host_names if not _is_host(name))
    if bad_names or (settings.allowed_hosts is not None and not settings.host_names):
        shown = bad_names[0] if bad_names else settings.allowed_hosts
        right = "it must be host names or IP addresses without ports, separated by commas, such as billing.example"
        raise SettingsError(f"BILLING_ALLOWED_HOSTS: {shown!r} is not valid; {right}")


def _host_name(text: str) -> str:
    name = text.strip().lower()
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name


def _is_host(name: str) -> bool:
    if ":" not in name:
        return _HOST_NAME.fullmatch(name) is not None
    try:
        return ip_address(name).version == 6
    except ValueError:
        return False


def export_settings(settings: Settings) -> None:
    """Pass the settings on to the worker processes, which inherit the environment."""
    for name, value in msgspec.to_builtins(settings).items():
        if value is not None:
            os.environ[name] = str(value)


def share_metrics(folder: str) -> None:
    """Make the worker processes keep their metrics in this folder. prometheus_client reads it from the environment."""
    os.environ[_METRICS_FOLDER] = folder


def metrics_folder() -> Path | None:
    """The folder set by `share_metrics`; None if this process serves alone."""
    folder = os.environ.get(_METRICS_FOLDER)
    return Path(folder) if folder else None
