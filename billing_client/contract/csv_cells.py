"""Cells of CSV that a spreadsheet would run as formulas (OWASP, "CSV Injection"), disarmed and rearmed."""

# the last four are the full-width forms of the first, which some spreadsheets take for them
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def disarm(text: str) -> str:
    """A cell's text with an apostrophe before it where a spreadsheet might run it; `rearm` takes it away again."""
    return f"'{text}" if text.startswith(_DANGEROUS) else text


def rearm(text: str) -> str:
    """The text that `disarm` was given."""
    return text.removeprefix("'")
