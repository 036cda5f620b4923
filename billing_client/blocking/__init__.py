"""The client without asyncio: the same methods, which wait, for any number of threads and forked processes."""

from billing_client.blocking._client import BillingClient
from billing_client.blocking._meter import MeteredBlock, meter
from billing_client.blocking._recorder import UsageRecorder

__all__ = ["BillingClient", "MeteredBlock", "UsageRecorder", "meter"]
