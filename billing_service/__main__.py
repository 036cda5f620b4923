"""The entry point of `billing-service`. It tells which package is missing if only the client is installed."""

import sys


def main() -> None:
    """Run the command line. Its packages come with the extra `service`."""
    try:
        from billing_service.commands.main import main as run

        run()
    except ModuleNotFoundError as error:
        sys.exit(f"billing-service: {error.name} is not installed; run: pip install 'billing-system[service]'")


if __name__ == "__main__":
    main()
