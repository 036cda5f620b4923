"""The callback in the real LiteLLM, with LiteLLM's own fake model."""

import logging

import pytest

from billing_client import BillingSystemClient
from billing_client.metering import TokenPrices
from tests.services import until

PRICES = {"gpt-4o": TokenPrices(input="0.0000025", output="0.00001")}
CALL = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "mock_response": "hello there to you"}


@pytest.mark.filterwarnings("ignore")  # LiteLLM's own
async def test_the_tokens_of_each_call_are_recorded(
    shared_client: BillingSystemClient, customer: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks a server for prices
    litellm = pytest.importorskip("litellm", reason="LiteLLM is not installed: pip install '.[litellm]' (400 MB)")
    from billing_client.metering.litellm import UsageCallback

    monkeypatch.setattr(litellm, "callbacks", [])
    async with shared_client.recorder() as recorder:
        litellm.callbacks.append(UsageCallback(recorder, PRICES))
        whole = await litellm.acompletion(**CALL, user="nobody", metadata={"customer_id": customer})
        stream = await litellm.acompletion(**CALL, user=customer, stream=True)
        chunks = [chunk async for chunk in stream]
        await until(lambda: recorder.counts.recorded >= 4)  # LiteLLM calls back later, and does not say when
        assert (await recorder.flush(60)).pending == 0
        records = [record async for record in shared_client.usage(customer_id=customer)]
        assert len(records) == 4
        assert {record.dimensions["tokens"] for record in records} == {"input", "output"}
        assert {record.dimensions["model"] for record in records} == {"gpt-4o"}
        units = {(record.dimensions["tokens"], record.units_consumed) for record in records}
        assert ("input", whole.usage.prompt_tokens) in units
        assert ("output", whole.usage.completion_tokens) in units
        assert len(chunks) > 1

        with caplog.at_level(logging.ERROR, "billing_client"):
            await litellm.acompletion(**CALL)
            await until(lambda: "neither metadata['customer_id'] nor user" in caplog.text)
        assert recorder.counts.recorded == 4
