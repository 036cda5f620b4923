"""Checks the `Host` header against the allowed host names.

A web page can point its own host name at 127.0.0.1, and then call the service as its own origin (DNS rebinding). So in
development, where no API key is required, only the names of this machine and of BILLING_ALLOWED_HOSTS are served.
"""

from billing_client.contract.problems import ProblemError, problem
from billing_service.settings import Settings

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not listened on
MAX_SERVED = 1_000


class HostNames:
    """The host names that are served: all if keys are required and `BILLING_ALLOWED_HOSTS` is not set.

    `served` caches `Host` headers that were accepted before, at most MAX_SERVED.
    """

    def __init__(self, settings: Settings) -> None:
        self._all = settings.key_required and not settings.host_names
        own = LOOPBACK | ({settings.host.lower()} - _EVERYWHERE)
        self._names = settings.host_names if settings.key_required else settings.host_names | own
        self.served: set[bytes | None] = {None}

    def require(self, host: bytes | None) -> None:
        """Raise ProblemError (421; RFC 9110, section 15.5.20) for a `Host` that is not served.

        A request without `Host` is accepted: it does not come from a browser.
        """
        if host is None or self._all:
            return
        if _name_of(host) not in self._names:
            detail = "This host name is not served here. Add it to BILLING_ALLOWED_HOSTS if it should be."
            raise ProblemError(problem("misdirected_request", detail))
        if len(self.served) < MAX_SERVED:
            self.served.add(host)


def _name_of(host: bytes) -> str:
    """The name in a `Host` header, in lower case, without port and brackets."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
