"""Content negotiation: `?format=` decides, else the `Accept` header (RFC 9110, section 12.5.1)."""

from collections.abc import Mapping

from starlette.requests import Request

from billing_service.http.errors import ProblemError, invalid_input, problem


def choose_format(request: Request, named: str | None, media_types: Mapping[str, str]) -> str:
    """Choose the format of a response.

    Args:
        request: The request with its `Accept` header.
        named: The value of `?format=`; None if it was not sent. It wins over `Accept`.
        media_types: The possible formats with their media types. The first one is the default.

    Raises:
        ProblemError: 400 if `named` is not one of the formats, 406 if `Accept` allows none of them.
    """
    if named is not None:
        if named not in media_types:
            raise invalid_input("query/format", f"must be one of {', '.join(media_types)}")
        return named
    weights = _weights(request, "accept") or {"*/*": 1.0}
    weighed = {format_: _weight_of(media_type, weights) for format_, media_type in media_types.items()}
    best = max(weighed, key=lambda format_: weighed[format_])
    if weighed[best] > 0:
        return best
    available = ", ".join(media_types.values())
    raise ProblemError(problem("not_acceptable", f"Accept one of the media types of this resource: {available}."))


def accepts_encoding(request: Request, coding: str) -> bool:
    """Whether `Accept-Encoding` lists this content coding by name, with a weight above 0."""
    return _weights(request, "accept-encoding").get(coding, 0.0) > 0


def _weight_of(media_type: str, weights: Mapping[str, float]) -> float:
    """The weight of the most specific pattern that matches; 0 if none does."""
    patterns = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    return next((weights[pattern] for pattern in patterns if pattern in weights), 0.0)


def _weights(request: Request, name: str) -> dict[str, float]:
    """The values of a header, from all its lines, each with its weight (`q`)."""
    weights = {}
    for member in ",".join(request.headers.getlist(name)).lower().split(","):
        value, *parameters = (part.strip() for part in member.split(";"))
        if value:
            weights[value] = next((_weight(part[2:]) for part in parameters if part.startswith("q=")), 1.0)
    return weights


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
