"""How often a process does its background work, and how much at a time."""

from datetime import timedelta

from msgspec import Struct


class Pace(Struct, frozen=True, kw_only=True):
    """The intervals and bounds of background work. They are no settings: only tests shorten them.

    Attributes:
        key_seconds: How long an API key is cached: a revoked one is accepted for at most this long.
        change_seconds: What changes is gathered this long before it is told to those who watch.
        change_pause_seconds: The pause before more is gathered.
        poll_seconds: How often event streams read what changed.
        heartbeat_seconds: How often a stream says something while nothing changes: below the time after which clients
            and proxies give up a connection that is silent.
        refusal_seconds: How often refusals are written.
        first_round_seconds: After the start, until pieces of statements are prepared.
        round_seconds: Between two rounds of that over recent usage.
        full_round_seconds: Between two rounds of that over all usage.
        piece_age: A piece is brought up to date no more often, unless somebody waits for it.
        statement_records: A statement for which more records than this would have to be hashed is prepared first.
        pdf_seconds: How long a statement may take to be printed.
    """

    key_seconds: float = 5.0
    change_seconds: float = 0.2
    change_pause_seconds: float = 0.8
    poll_seconds: float = 0.5
    heartbeat_seconds: float = 10.0
    refusal_seconds: float = 1.0
    first_round_seconds: float = 10.0
    round_seconds: float = 60.0
    full_round_seconds: float = 6 * 3600.0
    piece_age: timedelta = timedelta(hours=1)
    statement_records: int = 100_000
    pdf_seconds: float = 60.0


USUAL = Pace()
