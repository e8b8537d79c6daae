"""Texts in files that spreadsheets open: a cell that begins as a formula would be run."""

import re

# What Excel, LibreOffice or Google Sheets take for the beginning of a formula, also in full width, and the characters
# before one that they skip.
STARTS = "=+-@\t\r\n＝＋－＠"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def inert(text: str) -> str:
    """``text`` with an apostrophe before it where it begins as a formula; numbers such as -1 stay as they are."""
    return f"'{text}" if text[:1] in STARTS and text and not NUMBER.fullmatch(text) else text
