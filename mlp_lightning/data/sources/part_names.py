"""Names of the parts of a set, as people write them: train, Training, trainingSet, val, x_test, test_images, …"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

PartName = Literal["train", "val", "test"]
Role = Literal["x", "y"]

PARTS: dict[str, PartName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Short forms, which are too short for the name of a folder: those of languages are tr and te, too.
ARRAY_PARTS: dict[str, PartName] = {**PARTS, "tr": "train", "te": "test"}
# Words that may stand beside the part in the name of a folder or file: trainingSet, test_images, train-data.
FILLERS = frozenset({"set", "data", "dataset", "images", "image", "imgs", "pictures", "samples", "split"})
ROLES: dict[str, Role] = {
    **dict.fromkeys(("x", "xs", "image", "images", "data", "feature", "features", "sample", "samples"), "x"),
    **dict.fromkeys(("input", "inputs", "img", "imgs", "pictures"), "x"),
    **dict.fromkeys(("y", "ys", "label", "labels", "target", "targets", "class", "classes"), "y"),
}


class ArrayName(NamedTuple):
    """What an array holds: ``part`` is None for samples that are not split yet."""

    role: Role
    part: PartName | None


def part_of(name: str) -> PartName | None:
    """The part that a folder or file holds by its name; None for any other name, such as that of a class."""
    words = _words(name)
    if len(words) == 2 and words[1] in FILLERS:
        words = words[:1]
    # In lower case nothing separates the words: testset, trainingdata.
    if len(words) == 1:
        return PARTS.get(words[0]) or PARTS.get(re.sub(f"({'|'.join(FILLERS)})$", "", words[0]))
    return None


def array_name(name: str) -> ArrayName | None:
    """What an array holds by its name; None where the name does not tell."""
    words = _words(name)
    if len(words) == 1:
        (word,) = words
        if word in ROLES:
            return ArrayName(ROLES[word], None)
        # In lower case nothing separates the words: xtrain, ytest.
        words = [word[:1], word[1:]] if word[1:] in ARRAY_PARTS else [word]
    if len(words) == 2:
        for role, part in (words, words[::-1]):
            if role in ROLES and part in ARRAY_PARTS:
                return ArrayName(ROLES[role], ARRAY_PARTS[part])
    return None


def _words(name: str) -> Sequence[str]:
    """The words of snake_case, kebab-case and camelCase, in lower case."""
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[\s_.-]+", separated) if word]
