"""The option parser's errors in the user's words: the option, the value received, what is allowed."""

import difflib
import re
from collections.abc import Callable, Iterable

TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list in brackets",
    "dict": "values by name",
    "NoneType": "null",
}
LISTS = {"list[int]": "a list of whole numbers", "list[float]": "a list of numbers"}
VALUES = {"None": "null", "True": "true", "False": "false", "": "nothing"}
KIND = r"typing\.Literal\[.*?\]|list\[.*?\]|<class '[\w.]+'>"

# What jsonargparse says of the types that a class path is not.
NO_REASON = ("Does not validate", "Subtypes:", "Errors:", "Expected a", "Not a valid subclass", "Problem with given")

# The other messages of jsonargparse and argparse: their pattern, and the sentence made of its groups.
SENTENCES: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"argument (?:\S+/)?-*(\S+): expected one argument", "{0}: got nothing, must be followed by a value".format),
    (
        r"argument subcommand: invalid choice: '?([^' ]+)'? \(choose from (.*)\)",
        lambda given, known: f"subcommand: got {given}, must be one of {known.replace(chr(39), '')}",
    ),
    (
        r'expected "subcommand" to be one of \{(.*)\}, but it was not provided',
        lambda known: f"subcommand: got nothing, must be one of {known.replace(',', ', ')}",
    ),
    (
        r"Option '([^']+)' is not accepted before subcommand '([^']+)'",
        "{0}: came before the subcommand {1}; options and --config must come after it".format,
    ),
    (r'Linked "([^"]+)" must be given via "([^"]+)"', "{0}: cannot be given, it is the value of {1}".format),
    (
        r'Parser key "(data\.deform\.class_rotation)"',
        '{0}: must be numbers by class name, such as {{"1": 0.5, "7": 0.5}}, with a space after each colon'.format,
    ),
    (r"Parser key \"([^\"]+)\":\s+Unable to load config '(.*)'", "{0}: got {1}, must be options by name".format),
)


def plain_words(message: str, options: Iterable[str] = ()) -> str:
    """One line for a message of jsonargparse (4.x); ``options`` are those that a misspelt one may have meant."""
    return _wrong_type(message) or _unknown(message, list(options)) or _sentence(message)


def reason_of_class(message: str) -> str:
    """Why a class could not be made from its options, out of a message of jsonargparse about a class path."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    after_class = [lines[k + 1] for k, line in enumerate(lines[:-1]) if "Problem with given class_path" in line]
    tried = [line for line in lines if not line.startswith(NO_REASON)]
    return (after_class or tried or lines)[0]


def _wrong_type(message: str) -> str | None:
    option = re.match(r'Parser key "([^"]+)"', message)
    union = re.search(r"Subtypes: \[(.*)\]$", message, re.MULTILINE)
    kinds = re.findall(KIND, union[1]) if union else re.findall(rf"Expected an? ({KIND})", message)
    value = re.search(r"Given value: (.*)", message) or re.search(r"Got value: (.*)", message)
    if not (option and kinds and value):
        return None
    allowed = list(dict.fromkeys(_allowed(kind) for kind in kinds))
    if TYPES["float"] in allowed and TYPES["int"] in allowed:
        allowed.remove(TYPES["int"])
    return f"{option[1]}: got {VALUES.get(value[1], value[1])}, must be {' or '.join(allowed)}"


def _allowed(kind: str) -> str:
    if kind.startswith("typing.Literal"):
        return f"one of {kind[len('typing.Literal[') : -1].replace(chr(39), '')}"
    if kind.startswith("list"):
        return LISTS.get(kind, TYPES["list"])
    name = kind.split("'")[1]
    return TYPES.get(name, "a class path" if "." in name else name)


def _unknown(message: str, options: list[str]) -> str | None:
    unknown = re.match(r"unrecognized arguments: -*(\S+)", message) or re.match(
        r".*does not accept option '([^']+)'", message
    )
    if not unknown:
        return None
    name = unknown[1].partition("=")[0]
    in_group = [option for option in options if option.endswith(f".{name}")]
    meant = in_group or difflib.get_close_matches(name, options, n=1, cutoff=0.75)
    return f"{unknown[1]}: there is no such option{f', did you mean {meant[0]}?' if meant else '; see --help'}"


def _sentence(message: str) -> str:
    for pattern, sentence in SENTENCES:
        match = re.match(pattern, message)
        if match:
            return sentence(*match.groups())
    return " ".join(message.split())
