"""Tokens as OpenAI and Anthropic tell them; the objects are those of their API references."""

from types import SimpleNamespace

import pytest

from billing_client.metering import TokenPrices, Tokens, token_usages

CHAT = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 120, "audio_tokens": 0},
}
RESPONSES = {
    "input_tokens": 328,
    "input_tokens_details": {"cached_tokens": 128},
    "output_tokens": 52,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 380,
}
ANTHROPIC = {
    "input_tokens": 21,
    "cache_creation_input_tokens": 188086,
    "cache_read_input_tokens": 100,
    "output_tokens": 393,
}
LITELLM_OF_ANTHROPIC = {
    "prompt_tokens": 188207,
    "completion_tokens": 393,
    "prompt_tokens_details": {"cached_tokens": 100},
    "cache_creation_input_tokens": 188086,
    "cache_read_input_tokens": 100,
}
PRICES = TokenPrices(input="0.0000025", output="0.00001", cached_input="0.00000125")


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (CHAT, Tokens(input=86, cached_input=1920, output=300)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": None}, Tokens(input=9, output=1)),
        (RESPONSES, Tokens(input=200, cached_input=128, output=52)),
        (ANTHROPIC, Tokens(input=21, cached_input=100, cache_write=188086, output=393)),
        ({"input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": None}, Tokens(input=10, output=2)),
        (LITELLM_OF_ANTHROPIC, Tokens(input=21, cached_input=100, cache_write=188086, output=393)),
        (SimpleNamespace(prompt_tokens=9, completion_tokens=1), Tokens(input=9, output=1)),
    ],
)
def test_each_token_counts_once(usage: object, tokens: Tokens) -> None:
    assert Tokens.of(usage) == tokens


def test_what_is_no_usage_is_refused() -> None:
    with pytest.raises(ValueError, match="neither prompt_tokens nor input_tokens"):
        Tokens.of({"tokens": 5})


def test_each_kind_of_tokens_is_a_use_at_its_price() -> None:
    usages = token_usages(
        CHAT, customer_id="acme", event_id="chatcmpl-1", prices=PRICES, dimensions={"model": "gpt-4o"}
    )
    assert [(use.event_id, use.units_consumed, use.price_per_unit, use.dimensions) for use in usages] == [
        ("chatcmpl-1/input", 86, "0.0000025", {"model": "gpt-4o", "tokens": "input"}),
        ("chatcmpl-1/cached_input", 1920, "0.00000125", {"model": "gpt-4o", "tokens": "cached_input"}),
        ("chatcmpl-1/output", 300, "0.00001", {"model": "gpt-4o", "tokens": "output"}),
    ]
    assert all((use.customer_id, use.service) == ("acme", "tokens") for use in usages)


def test_a_kind_without_a_price_costs_what_the_prompt_costs() -> None:
    (use,) = token_usages(Tokens(cache_write=5), customer_id="acme", event_id="e", prices=PRICES, service="llm")
    assert (use.price_per_unit, use.service) == ("0.0000025", "llm")
