"""What a caller has left of the rate limits, and the address it is counted under."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import NamedTuple


class Standing(NamedTuple):
    """How much of one limit a caller has left, as header items (draft-ietf-httpapi-ratelimit-headers-11).

    Attributes:
        policy: The item of `RateLimit-Policy`.
        left: The item of `RateLimit`: `r` tokens are left. In `t` seconds there are more, or enough after a refusal.
    """

    policy: str
    left: str


def rate_limit_headers(standings: Sequence[Standing]) -> list[tuple[bytes, bytes]]:
    """The headers that tell a caller what it has left of the limits it was counted against."""
    policies, left = (", ".join(items).encode() for items in zip(*standings, strict=True))
    return [(b"ratelimit-policy", policies), (b"ratelimit", left)]


@lru_cache(10_000)
def address_of(host: str) -> str:
    """The address a client is counted under: for IPv6 its /64 network, all of which one client controls."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))
