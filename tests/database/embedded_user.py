"""Uses the embedded server of a folder until SIGTERM: `python -m tests.database.embedded_user FOLDER`."""

import signal
import sys

from billing_service.database.embedded import embedded_postgresql


def main(folder: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with embedded_postgresql(folder) as (url, _):
        print(url, flush=True)
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
