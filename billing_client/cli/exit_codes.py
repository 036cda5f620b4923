"""The exit codes of `billing`, which scripts may rely on."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. `MEANINGS` explains each code in a sentence."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    DUPLICATE = 3
    DENIED = 4
    UNREACHABLE = 5
    UNKNOWN = 6
    MISSING = 7
    INTERRUPTED = 130
    PIPE_CLOSED = 141


MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.REFUSED: "the input, or a part of it, was refused; it says why",
    ExitCode.USAGE: "wrong options or settings, or a file that cannot be read or written",
    ExitCode.DUPLICATE: "the same usage was recorded before, by another call; "
    "import: lines without event id repeat others",
    ExitCode.DENIED: "the API key is missing, not valid, or does not permit this",
    ExitCode.UNREACHABLE: "no usable answer from the service; nothing was recorded by the call that failed",
    ExitCode.UNKNOWN: "the answer was lost, it may be recorded; run the same again, it is counted once",
    ExitCode.MISSING: "import --dry-run: some of it is not on the server",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C",
    ExitCode.PIPE_CLOSED: "whoever read the output went away",
}
