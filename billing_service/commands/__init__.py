"""The command `billing-service`: one module a subcommand."""
