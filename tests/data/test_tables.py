import pandas as pd
import pytest

from mlp_lightning.data.tables import read_table
from mlp_lightning.errors import UserError


@pytest.mark.parametrize(
    "contents",
    [
        "a,b\n1,x\n2,y\n",
        "a;b\n1;x\n2;y\n",
        "a\tb\r\n1\tx\r\n2\ty\r\n",
        "\ufeffa, b\n\n1, x\n\n2,y",
        ",a,b\n0,1,x\n1,2,y\n",
        '"a","b"\n"1","x"\n2,y\n',
    ],
    ids=["comma", "semicolon", "tab", "mark, blanks and empty lines", "pandas' index", "quoted"],
)
def test_one_table_in_many_spellings(tmp_path, contents):
    path = tmp_path / "it.csv"
    path.write_bytes(contents.encode())
    assert dict(read_table(path)) == {"a": ["1", "2"], "b": ["x", "y"]}


def test_it_is_what_pandas_reads(tmp_path):
    frame = pd.DataFrame({"n": ["1", "2", "3"], "t": ['say "no"', "a,b", "two\nlines"], "ü": ["ä", "", "z"]})
    frame.to_csv(tmp_path / "it.csv")
    table = read_table(tmp_path / "it.csv")
    assert {name: list(cells) for name, cells in table.items()} == frame.to_dict("list")
    # The last cell's second line is the row's last.
    assert table.lines == [2, 3, 5]
    part = table.take([2, 0])
    assert (part["n"], part.lines, part.n_rows) == (["3", "1"], [5, 2], 2)


def test_a_first_column_without_a_name_that_does_not_count_is_refused(tmp_path):
    (tmp_path / "it.csv").write_text(",a\n5,1\n3,2\n")
    with pytest.raises(UserError, match=r"it.csv, line 1: column 1 of 2 has no name"):
        read_table(tmp_path / "it.csv")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "no header"),
        (b"\n\n", "no header"),
        (b"a,b\n", "no rows"),
        (b"a,b\n1,2\n3\n", "line 3: 1 cells, must be 2"),
        (b"a,b\n1,2\n\n3,4,5\n", "line 4: 3 cells, must be 2"),
        (b"a,a\n1,2\n", "line 1: two columns are named 'a'"),
        (b"a,\n1,2\n", "line 1: column 2 of 2 has no name"),
        (b"a,b\n1,\xff\n", "no text in UTF-8"),
        (b'a,b\n1,"2\n', "no CSV file"),
        (None, "cannot be read (No such file"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, contents, message):
    path = tmp_path / "it.csv"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(UserError) as caught:
        read_table(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
