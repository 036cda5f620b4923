"""The command's entry: it says what is missing where the client was installed alone."""

import sys


def main() -> None:
    """Run the command line, whose packages come with an extra."""
    try:
        from billing_client.cli.command import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"billing: {error.name} is not installed; run: pip install 'billing-system[cli]'")
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
