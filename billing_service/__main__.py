"""The command's entry: it says what is missing where the client was installed alone."""

import sys


def main() -> None:
    """Run the command line, whose packages come with an extra."""
    try:
        from billing_service.commands.main import main as run

        run()
    except ModuleNotFoundError as error:
        sys.exit(f"billing-service: {error.name} is not installed; run: pip install 'billing-system[service]'")


if __name__ == "__main__":
    main()
