"""What happens on a connection before a request reaches the application, and after its answer has left it."""
