"""The console: pages for people, rendered on the server. They read and write by the same functions as the API."""
