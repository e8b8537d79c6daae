"""The parser's messages, as jsonargparse 4.4x and argparse write them, in plain words."""

import pytest

from mlp_lightning.messages import plain_words

OPTIONS = ["model.hidden", "model.lr", "trainer.logger", "patience"]

UNION = """Parser key "{option}":
  Does not validate against any of the Union subtypes
  Subtypes: {subtypes}
  Errors:
    - Expected a <class 'float'>. Got value: a
    - Expected a <class 'NoneType'>
  Given value type: <class 'list'>
  Given value: {value}"""

ROWS = {
    "one type": (
        "Parser key \"model.lr\":\n  Expected a <class 'float'>. Got value: x",
        "model.lr: got x, must be a number",
    ),
    "a value of several words": (
        "Parser key \"model.lr\":\n  Expected a <class 'float'>. Got value: a b: c",
        "model.lr: got a b: c, must be a number",
    ),
    "null": ("Parser key \"a\":\n  Expected a <class 'int'>. Got value: None", "a: got null, must be a whole number"),
    "true": ("Parser key \"a\":\n  Expected a <class 'int'>. Got value: True", "a: got true, must be a whole number"),
    "nothing": ("Parser key \"a\":\n  Expected a <class 'bool'>. Got value: ", "a: got nothing, must be true or false"),
    "choice": (
        "Parser key \"model.loss\":\n  Expected a typing.Literal['cross_entropy', 'mse']. Got value: foo",
        "model.loss: got foo, must be one of cross_entropy, mse",
    ),
    "list or null": (
        UNION.format(option="a", subtypes="[list[float], <class 'NoneType'>]", value="['a']"),
        "a: got ['a'], must be a list of numbers or null",
    ),
    "int or float": (
        UNION.format(option="a", subtypes="[<class 'int'>, <class 'float'>]", value="many"),
        "a: got many, must be a number",
    ),
    "choices or null": (
        UNION.format(
            option="a", subtypes="[typing.Literal[64, 32], typing.Literal['x'], <class 'NoneType'>]", value="y"
        ),
        "a: got y, must be one of 64, 32 or one of x or null",
    ),
    "an object": (
        UNION.format(
            option="trainer.callbacks",
            subtypes="[list[lightning.Callback], <class 'lightning.Callback'>, <class 'NoneType'>]",
            value="foo",
        ),
        "trainer.callbacks: got foo, must be a list in brackets or a class path or null",
    ),
    "misspelt": (
        "unrecognized arguments: --model.hiden [3]",
        "model.hiden: there is no such option, did you mean model.hidden?",
    ),
    "misspelt, with its value": (
        "unrecognized arguments: --model.hiden=[3]",
        "model.hiden=[3]: there is no such option, did you mean model.hidden?",
    ),
    "misspelt in a config": (
        "Subcommand 'fit' does not accept option 'model.hiden'",
        "model.hiden: there is no such option, did you mean model.hidden?",
    ),
    "without its group": (
        "unrecognized arguments: --lr 3",
        "lr: there is no such option, did you mean model.lr?",
    ),
    "like no other": ("unrecognized arguments: --foo 3", "foo: there is no such option; see --help"),
    "no value": ("argument --model.lr: expected one argument", "model.lr: got nothing, must be followed by a value"),
    "no value, two names": (
        "argument -c/--config: expected one argument",
        "config: got nothing, must be followed by a value",
    ),
    "no subcommand": (
        'expected "subcommand" to be one of {fit,test}, but it was not provided.',
        "subcommand: got nothing, must be one of fit, test",
    ),
    "unknown subcommand": (
        "argument subcommand: invalid choice: 'foo' (choose from 'fit', 'test')",
        "subcommand: got foo, must be one of fit, test",
    ),
    "unknown subcommand, since Python 3.14": (
        "argument subcommand: invalid choice: 'foo' (choose from fit, test)",
        "subcommand: got foo, must be one of fit, test",
    ),
    "too early": (
        "Option 'trainer.max_epochs' is not accepted before subcommand 'fit'",
        "trainer.max_epochs: came before the subcommand fit; options and --config must come after it",
    ),
    "linked": (
        'Linked "model.seed" must be given via "seed_everything".',
        "model.seed: cannot be given, it is the value of seed_everything",
    ),
    "no group": (
        'Parser key "model":\nUnable to load config \'3\'\n  - Parser key "model": Unable to load config "3"',
        "model: got 3, must be options by name",
    ),
    "any other": ("Something  new\n  - in two lines", "Something new - in two lines"),
}


@pytest.mark.parametrize("name", ROWS)
def test_plain_words(name: str) -> None:
    message, plain = ROWS[name]
    assert plain_words(message, OPTIONS) == plain


def test_options_are_optional() -> None:
    assert plain_words("unrecognized arguments: --model.hiden") == "model.hiden: there is no such option; see --help"
