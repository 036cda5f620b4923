"""A callback of LiteLLM that records the tokens of each call (extra `litellm`)."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from billing_client.metering._tokens import TokenPrices, token_usages
from billing_client.spooling.recorder import UsageRecorder

__all__ = ["UsageCallback"]

_logger = logging.getLogger(__name__)


class UsageCallback(CustomLogger):  # type: ignore[misc]  # mypy does not look into LiteLLM
    """Records the tokens of each asynchronous call of LiteLLM: `litellm.callbacks.append(UsageCallback(…))`.

    LiteLLM calls it in the background when an answer is complete, and catches what it raises: usage that cannot be
    recorded is in the log. It does not call it for a stream that nobody read to its end. An answer from LiteLLM's own
    cache took no tokens, and is not recorded. Where that will not do, use `meter` and `token_usages`.

    Args:
        recorder: An open recorder of the loop in which `acompletion` is awaited. Leave LiteLLM a moment before it is
            closed.
        prices: The prices of a model's tokens, by the model's name as it was called.
        customer_id: Whose call it is, from LiteLLM's arguments of the call. By default its `metadata["customer_id"]`,
            else its `user`.
        service: What was used.
    """

    def __init__(
        self,
        recorder: UsageRecorder,
        prices: Mapping[str, TokenPrices],
        *,
        customer_id: Callable[[Mapping[str, Any]], str | None] | None = None,
        service: str = "tokens",
    ) -> None:
        super().__init__()
        self._recorder = recorder
        self._prices = prices
        self._customer_id = customer_id or _customer_of
        self._service = service

    async def async_log_success_event(
        self,
        kwargs: Mapping[str, Any],
        response_obj: Any,
        start_time: datetime,
        end_time: datetime,
    ) -> None:
        """See litellm.integrations.custom_logger."""
        usage = getattr(response_obj, "usage", None)
        if usage is None or kwargs.get("cache_hit"):
            return
        call, model = kwargs["litellm_call_id"], kwargs["model"]
        customer_id = self._customer_id(kwargs)
        try:
            if customer_id is None:
                raise ValueError("it has neither metadata['customer_id'] nor user")
            usages = token_usages(
                usage,
                customer_id=customer_id,
                event_id=call,
                prices=self._prices[model],
                service=self._service,
                dimensions={"model": model},
            )
            await self._recorder.record_many(usages)
        except Exception:
            _logger.exception(
                "the tokens of call %s of %s for %r were not recorded: %r", call, model, customer_id, usage
            )
            raise


def _customer_of(call: Mapping[str, Any]) -> str | None:
    metadata = (call.get("litellm_params") or {}).get("metadata") or {}
    return metadata.get("customer_id") or call.get("user")
