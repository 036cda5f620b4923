"""A Celery application whose task records usage with the blocking client. APP_BROKER is its broker."""

import os

from celery import Celery
from celery.signals import worker_process_shutdown

from billing_client.blocking import BillingClient
from tests.faults.applications.names import note, usages_of

VISIBILITY_SECONDS = 2  # after which Redis gives a task of a killed worker to another

client = BillingClient(timeout=2)
recorder = client.recorder(spool_dir=os.environ["APP_SPOOL_DIR"])
app = Celery("applications", broker=os.environ["APP_BROKER"])
app.conf.broker_transport_options = {"visibility_timeout": VISIBILITY_SECONDS}


def record(name: str) -> None:
    """Record the usage of a task; once it is in the journal, it is safe."""
    recorder.record_many(usages_of(name))
    note(name)


def close(**_: object) -> None:
    """Deliver what is left. Celery ends its processes without the hooks of Python."""
    client.close()


app.task(name="record", acks_late=True, reject_on_worker_lost=True)(record)
worker_process_shutdown.connect(close)
