"""Checks the `Host` header against the allowed host names.

A web page can point its own host name at 127.0.0.1, and then call the service as its own origin (DNS rebinding). So in
development, where no API key is required, only the names of this machine and of BILLING_ALLOWED_HOSTS are served.
"""

import re

from billing_client.contract.problems import ProblemError, problem
from billing_service.settings import Settings

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not listened on
MAX_SERVED = 1_000
# RFC 9110, section 7.2, with the host of RFC 3986, section 3.2.2. Two lines come joined by a comma and a space.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=%-]*)(:[0-9]*)?", re.ASCII)
_BAD_HOST = "A request has exactly one `Host` header, a host name and perhaps a port (RFC 9112, section 3.2)."


class HostNames:
    """The host names that are served: all if keys are required and `BILLING_ALLOWED_HOSTS` is not set.

    `served` caches `Host` headers that were accepted before, at most MAX_SERVED.
    """

    def __init__(self, settings: Settings) -> None:
        self._all = settings.key_required and not settings.host_names
        own = LOOPBACK | ({settings.host.lower()} - _EVERYWHERE)
        self._names = settings.host_names if settings.key_required else settings.host_names | own
        self.served: set[bytes | None] = set()

    def require(self, host: bytes | None, http_version: str) -> None:
        """Raise ProblemError for a `Host` that is not served.

        Args:
            host: The header's value; None without one, which HTTP/1.0 permits.
            http_version: The version of HTTP that the request has: `1.0` or `1.1`.

        Raises:
            ProblemError: 400; there is none, more than one, or one that is not valid (RFC 9112, section 3.2). 421; the
                name is not served (RFC 9110, section 15.5.20).
        """
        if host is None and http_version == "1.0":
            return
        if host is None or not _HOST.fullmatch(host):
            raise ProblemError(problem("validation_error", _BAD_HOST), {"Connection": "close"})
        if not self._all and _name_of(host) not in self._names:
            detail = "This host name is not served here. Add it to BILLING_ALLOWED_HOSTS if it should be."
            raise ProblemError(problem("misdirected_request", detail))
        if len(self.served) < MAX_SERVED:
            self.served.add(host)


def _name_of(host: bytes) -> str:
    """The name in a `Host` header, in lower case, without port and brackets."""
    text = host.decode("ascii").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
