"""Text from files and folders as a terminal may show it: what would steer the terminal is shown as its escape."""

import unicodedata

# Joiners between the letters of words and the parts of emojis.
JOINERS = "\u200c\u200d"
# Control, format, surrogate, private and unassigned characters, and the separators of lines and paragraphs.
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def printable(text: str) -> str:
    """``text`` on one line, in which a terminal finds nothing to obey: an escape shows as \\x1b, U+202E as \\u202e."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in HIDDEN and c not in JOINERS else c for c in text)


def printable_lines(text: str) -> str:
    """The same of text that has several lines of its own."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
