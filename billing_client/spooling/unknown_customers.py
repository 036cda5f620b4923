"""Creates the customers that the service does not know, where a recorder is told to."""

import logging
from collections.abc import Iterable
from uuid import uuid4

from billing_client._calls import ApiCall
from billing_client._encoding import encode_body
from billing_client._errors import BillingError, CustomerExistsError
from billing_client._transport import Transport
from billing_client.contract.wire import NewCustomer

MOST_REMEMBERED = 10_000

_logger = logging.getLogger(__name__)


class UnknownCustomers:
    """Creates customers, each once: if the service does not know one all the same, another creation would not help."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._created: set[str] = set()

    async def create(self, customer_ids: Iterable[str]) -> set[str]:
        """Create these customers, with their id for a name; those that exist now and did not before."""
        return {customer_id for customer_id in customer_ids if await self._create(customer_id)}

    async def _create(self, customer_id: str) -> bool:
        if customer_id in self._created:
            return False
        body = encode_body(NewCustomer, name=customer_id, id=customer_id)
        try:
            await self._transport.send(ApiCall("POST", "/customers", body, str(uuid4())))
        except CustomerExistsError:
            pass
        except BillingError as error:
            _logger.warning("the customer %r was not created, and its usage waits: %s", customer_id, error)
            return False
        if len(self._created) >= MOST_REMEMBERED:
            self._created.clear()
        self._created.add(customer_id)
        return True
