"""Bodies that mean to cost memory or time, and a program that measures what reading each of them takes."""

import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from billing_client.contract.decoding import RecordDecoder, decode_batch, decode_usage
from billing_client.contract.problems import ProblemError
from billing_client.contract.wire import ProblemDetails, UsageRecord

SIZE = 2_000_000
NOW = datetime(2026, 11, 1, tzinfo=UTC)
USAGE = '{"customerId":"a","service":"s","pricePerUnit":"1","unitsConsumed":'

LONG_ID = "\U0010ffff" * 128


def filled(start: str, unit: str, end: str = "") -> bytes:
    """A body of SIZE bytes at most: a start, so many units, and an end."""
    count = (SIZE - len(start.encode()) - len(end)) // len(unit.encode())
    return (start + unit * count + end).encode()


def numbered(start: str, unit: str, end: str) -> bytes:
    """As `filled`, with a number in each unit."""
    return (start + ",".join(unit % number for number in range(SIZE // (len(unit) + 6))) + end).encode()


BODIES = {
    "unclosed strings": filled("", '"\\'),
    "an unclosed string": filled('{"records":["', "a"),
    "an unclosed string of escapes": filled('{"records":["', '\\"'),
    "quotation marks": filled('{"records":[', '"'),
    "zeros": filled('{"records":[', "0,", "0]}"),
    "zeros without end": filled('{"records":[', "0,"),
    "zeros under a name with an escape": filled('{"r\\u0065cords":[', "0,", "0]}"),
    "zeros, then records": filled('{"records":[', "0,", '0],"records":[]}'),
    "zeros and an escape": filled('{"records":["\\n",', "0,", "0]}"),
    "zeros in a record": filled('{"records":["\\n",[', "0,", "0]]}"),
    "zeros in a field": filled(USAGE + "[", "0,", "0]}"),
    "empty arrays": filled('{"records":[', "[],", "0]}"),
    "empty objects": filled('{"records":[', "{},", "{}]}"),
    "empty strings": filled('{"records":[', '"",', '""]}'),
    "deep arrays": filled('{"records":[', "["),
    "deep objects": filled("", '{"records":'),
    "deep arrays, closed": filled('{"records":[', "[" * 30 + "]" * 30 + ",", "0]}"),
    "names": numbered("{", '"n%d":0', "}"),
    "names in a record": numbered('{"records":[{', '"n%d":0', "}]}"),
    "one name": filled("{", '"customerId":"a",', '"customerId":"a"}'),
    "one name, with an escape": filled("{", '"customerI\\u0064":"a",', '"customerId":"a"}'),
    "a long name": filled('{"', "a", '":1}'),
    "a long name of four bytes a character": filled('{"', "\U0001f600", '":1}'),
    "a long name of escapes": filled('{"', "\\n", '":1}'),
    "escapes": filled('{"records":["', "\\n", '"]}'),
    "escaped letters": filled('{"records":["', "\\u0041", '"]}'),
    "half surrogate pairs": filled('{"records":["', "\\ud800", '"]}'),
    "half a surrogate pair before whole ones": filled('{"records":["\\ud800', "\\ud83d\\ude00", '"]}'),
    "half a surrogate pair before backslashes": filled('{"records":["\\ud800', "\\\\", '"]}'),
    "a long number": filled(USAGE, "1", "}"),
    "a long number in a string": filled(USAGE + '"', "1", '"}'),
    "a long number in escapes": filled(USAGE + '"', "\\u0031", '"}'),
    "a long fraction": filled(USAGE + "0.", "1", "}"),
    "a fraction of zeros": filled(USAGE + "0.", "0", "1e9}"),
    "a long exponent": filled(USAGE + "1e", "9", "}"),
    "a long id": filled('{"customerId":"', "a", '"}'),
    "a long time": filled(USAGE + '1,"occurredAt":"', "2026-10-31T12:00:00.123456", '"}'),
    "a long fraction of a second": filled(USAGE + '1,"occurredAt":"2026-10-31T12:00:00.', "1", 'Z"}'),
    "records of many names": filled('{"records":[', "{" + ",".join(['"name":0'] * 40) + "},", "{}]}"),
    "records of many distinct names": filled(
        '{"records":[', "{" + ",".join(f'"n{n}":0' for n in range(40)) + "},", "{}]}"
    ),
    "records of a long id": filled('{"records":[', USAGE.replace('"a"', f'"{LONG_ID}"') + "1},", "{}]}"),
    "records of names of slashes": filled('{"records":[', '{"' + "/~" * 100 + '":0},', "{}]}"),
}


SLICE = 1_000  # records that the service reads together, at most


def read(body: bytes, *, is_batch: bool) -> Iterator[UsageRecord[str] | ProblemDetails[str]]:
    """What the service makes of a body."""
    try:
        if is_batch:
            decode, records = RecordDecoder(NOW), decode_batch(body).records
            for start in range(0, len(records), SLICE):
                for entry in decode.many(records[start : start + SLICE]):
                    yield entry.details if isinstance(entry, ProblemError) else entry
        else:
            yield decode_usage(body, NOW)
    except ProblemError as error:
        yield error.details


def measure(body: bytes, *, is_batch: bool) -> tuple[float, float]:
    """The memory that the body and reading it take at their peak, and the length of the answer, as parts of the body's
    length."""
    tracemalloc.start()
    try:
        entries = list(read(body, is_batch=is_batch))
        peak = len(body) + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak / len(body), len(msgspec.json.encode(entries)) / len(body)


if __name__ == "__main__":
    for name, body in BODIES.items():
        for is_batch in (True, False):
            print(json.dumps([name, is_batch, *measure(body, is_batch=is_batch)]), flush=True)
