"""Which of its forms an answer takes: what `?format=` names, else what `Accept` prefers (RFC 9110, section 12.5.1)."""

from collections.abc import Mapping

from starlette.requests import Request

from billing_service.problems import ProblemError, invalid_input, problem


def choose_format(request: Request, named: str | None, media_types: Mapping[str, str]) -> str:
    """One of the formats that `media_types` maps to their types; the first where the caller does not mind.

    Raises ProblemError: 400 for a format that is none of them, 406 where `Accept` takes none of them.
    """
    if named is not None:
        if named not in media_types:
            raise invalid_input("query/format", f"must be one of {', '.join(media_types)}")
        return named
    accepted = _preferences(request.headers.get("accept", "*/*"))
    for pattern in accepted:
        for format_, media_type in media_types.items():
            if pattern in (media_type, "*/*", media_type.partition("/")[0] + "/*"):
                return format_
    raise ProblemError(problem("not_acceptable", f"This address answers in {', '.join(media_types.values())}."))


def accepts_encoding(request: Request, coding: str) -> bool:
    """Whether the caller takes this content coding by name."""
    return coding in _preferences(request.headers.get("accept-encoding", ""))


def _preferences(header: str) -> list[str]:
    """The members of a header with weights, most wanted first, without those that weigh nothing."""
    weighed = []
    for member in header.lower().split(","):
        value, *parameters = (part.strip() for part in member.split(";"))
        weight = next((_weight(part[2:]) for part in parameters if part.startswith("q=")), 1.0)
        weighed.append((weight, value))
    return [value for weight, value in sorted(weighed, key=lambda pair: -pair[0]) if weight > 0 and value]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
