"""Cells of CSV that a spreadsheet would run as formulas (OWASP, "CSV Injection"), disarmed and rearmed."""

_DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def disarm(text: str) -> str:
    """A cell's text with an apostrophe before it where a spreadsheet might run it; `rearm` takes it away again."""
    return f"'{text}" if text.startswith(_DANGEROUS) else text


def rearm(text: str) -> str:
    """The text that `disarm` was given."""
    return text.removeprefix("'")
