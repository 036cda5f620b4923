"""The tokens of a call to a language model, as OpenAI and Anthropic tell them, as usage to bill."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from billing_client._records import DecimalLike, Usage


class Tokens(Struct, frozen=True, kw_only=True):
    """How many tokens a call took, none counted twice.

    Attributes:
        input: Tokens of the prompt that were not in the provider's cache.
        cached_input: Tokens of the prompt that were read from the cache.
        cache_write: Tokens of the prompt that were written to the cache, where the provider counts them apart.
        output: Tokens of the answer, those of its reasoning included.
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0

    @classmethod
    def of(cls, usage: object) -> "Tokens":
        """Read the `usage` of an answer: of OpenAI (chat completions, responses), Anthropic or LiteLLM.

        OpenAI counts cached tokens as part of the prompt, Anthropic beside it.

        Args:
            usage: The object of the provider's SDK, or the JSON object as a mapping.

        Raises:
            ValueError: It has neither `prompt_tokens` nor `input_tokens`.
        """
        written = _count(usage, "cache_creation_input_tokens")
        read = _count(usage, "cache_read_input_tokens")
        if _member(usage, "prompt_tokens") is not None:  # chat completions; LiteLLM adds Anthropic's members to these
            prompt, output = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
            cached = _count(_member(usage, "prompt_tokens_details"), "cached_tokens") or read
            return cls(input=max(prompt - cached - written, 0), cached_input=cached, cache_write=written, output=output)
        if _member(usage, "input_tokens") is None:
            raise ValueError("this is no usage of a language model: it has neither prompt_tokens nor input_tokens")
        prompt, output = _count(usage, "input_tokens"), _count(usage, "output_tokens")
        cached = _count(_member(usage, "input_tokens_details"), "cached_tokens")  # responses
        return cls(input=max(prompt - cached, 0), cached_input=cached + read, cache_write=written, output=output)


class TokenPrices(Struct, frozen=True, kw_only=True):
    """What one token costs.

    Attributes:
        input: The price of a token of the prompt.
        output: The price of a token of the answer.
        cached_input: The price of a token of the prompt that was read from the cache. By default that of `input`.
        cache_write: The price of a token of the prompt that was written to the cache. By default that of `input`.
    """

    input: DecimalLike
    output: DecimalLike
    cached_input: DecimalLike | None = None
    cache_write: DecimalLike | None = None

    def of(self, kind: str) -> DecimalLike:
        """The price of a kind of tokens, by the name of its attribute."""
        price: DecimalLike | None = getattr(self, kind)
        return self.input if price is None else price


def token_usages(
    usage: object,
    *,
    customer_id: str,
    event_id: str,
    prices: TokenPrices,
    service: str = "tokens",
    occurred_at: datetime | None = None,
    dimensions: Mapping[str, str] | None = None,
) -> list[Usage]:
    """The tokens of one call as usage: a use for each kind of tokens, with the dimension `tokens`.

    They belong together: give all of them to `Meter.record` or `UsageRecorder.record_many`.

    Args:
        usage: The `usage` of the provider's answer, or Tokens.
        customer_id: Who made the call.
        event_id: Your name for the call. The event id of each use is this, a slash, and the kind of tokens.
        prices: What each kind of tokens costs.
        service: What was used.
        occurred_at: When, with a time zone. By default when it is recorded.
        dimensions: What else you bill or report by, such as `{"model": "gpt-4o"}`.

    Raises:
        ValueError: It is no usage of a language model.
    """
    tokens = usage if isinstance(usage, Tokens) else Tokens.of(usage)
    return [
        Usage(
            customer_id=customer_id,
            service=service,
            units_consumed=count,
            price_per_unit=prices.of(kind),
            event_id=f"{event_id}/{kind}",
            occurred_at=occurred_at,
            dimensions={**(dimensions or {}), "tokens": kind},
        )
        for kind in Tokens.__struct_fields__
        if (count := getattr(tokens, kind))
    ]


def _member(owner: object, name: str) -> Any:
    return owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)


def _count(owner: object, name: str) -> int:
    return int(_member(owner, name) or 0)
