"""The option parser's errors in the user's words: the option, the value received, what is allowed."""

import difflib
import re
from collections.abc import Iterable

TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list in brackets",
    "NoneType": "null",
}


def plain_words(message: str, options: Iterable[str] = ()) -> str:
    """One line for a message of jsonargparse (4.x); ``options`` are those that a misspelt one may have meant."""
    option = re.match(r'Parser key "([^"]+)"', message)
    expected = re.findall(r"Expected an? (typing\.Literal\[.*?\]|<class '\w+'>)", message)
    value = re.search(r"(?:Given value|Got value): (.*)", message)
    if option and expected and value:
        allowed = list(dict.fromkeys(_allowed(name) for name in expected))
        return f"{option[1]}: got {value[1]}, must be {' or '.join(allowed)}"
    unknown = re.match(r"unrecognized arguments: -*(\S+)", message) or re.match(
        r".*does not accept option '([^']+)'", message
    )
    if unknown:
        meant = difflib.get_close_matches(unknown[1].partition("=")[0], options, n=1)
        return f"{unknown[1]}: there is no such option{f', did you mean {meant[0]}?' if meant else '; see --help'}"
    return " ".join(message.split())


def _allowed(expected: str) -> str:
    if expected.startswith("<class"):
        name = expected.split("'")[1]
        return TYPES.get(name, name)
    return f"one of {expected[len('typing.Literal[') : -1].replace(chr(39), '')}"
