"""Which host names are served.

A page on another site can point a name of its own at 127.0.0.1 and then read and write as if it were the service's own
(DNS rebinding). So in development, where no key is asked for, only the names of this machine are served.
"""

from billing_client.contract.problems import ProblemError, problem
from billing_service.settings import Settings

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not listened on
MAX_SERVED = 1_000


class HostNames:
    """The host names that are served; all where `BILLING_ALLOWED_HOSTS` is not set and keys are required.

    `served` holds `Host` headers that were let through before, so that most need no look at the name in them.
    """

    def __init__(self, settings: Settings) -> None:
        self._all = settings.key_required and not settings.host_names
        own = LOOPBACK | ({settings.host.lower()} - _EVERYWHERE)
        self._names = settings.host_names if settings.key_required else settings.host_names | own
        self.served: set[bytes | None] = {None}

    def require(self, host: bytes | None) -> None:
        """Raise ProblemError (421, RFC 9110 section 15.5.20) for a `Host` that is not served.

        A request without one comes from no browser, and passes.
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
