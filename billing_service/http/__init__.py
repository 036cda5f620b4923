"""HTTP: from bytes on a socket to a handler's call, and from its result or error to an answer."""
