"""Usage whose amount is known only when the work is done: what a block used, and the tokens of language models."""

from billing_client.metering._meter import Meter, MeteredBlock, meter
from billing_client.metering._tokens import TokenPrices, Tokens, token_usages

__all__ = ["Meter", "MeteredBlock", "TokenPrices", "Tokens", "meter", "token_usages"]
