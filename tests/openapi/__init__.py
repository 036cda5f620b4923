"""The OpenAPI document, and what schemathesis finds when it compares it with the service."""
