"""Cells of CSV that a spreadsheet would run as formulas (OWASP, "CSV Injection"), disarmed and rearmed.

A spreadsheet may be set to another separator than the comma. Then a cell may begin within one of ours: behind a
semicolon, a tab or a line end, whether quoted or not.
"""

import re

# the last four are the full-width forms of the first, which some spreadsheets take for them
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_BEGIN = r"(?:\A|(?<=[;\t\r\n]))"
_ARMED = re.compile(f"{_BEGIN}(?=[{re.escape(''.join(_DANGEROUS))}])")
_DISARMED = re.compile(f"{_BEGIN}'")
_holds_separators = re.compile(r"[;\t\r\n]").search


def disarm(text: str) -> str:
    """A cell's text with an apostrophe wherever a spreadsheet might run what follows; `rearm` takes them away again."""
    if text.startswith(_DANGEROUS) or _holds_separators(text):
        return _ARMED.sub("'", text)
    return text


def rearm(text: str) -> str:
    """The text that `disarm` was given."""
    return _DISARMED.sub("", text)
