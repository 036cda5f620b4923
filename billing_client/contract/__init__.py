"""What every server makes of a request: the service, and the fake one of `billing_client.testing`."""
