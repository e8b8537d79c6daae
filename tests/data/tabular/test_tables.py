import pandas as pd
import pytest

from mlp_lightning.data.tabular.tables import read_table
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


@pytest.mark.parametrize(
    ("contents", "unnamed"),
    [
        (",a\n5,1\n3,2\n", ("Unnamed: 0",)),
        ("a,\n1,\n2,\n", ("Unnamed: 1",)),
        ("a,b\n1,x,\n2,y,\n", ()),
        (",a,,\n7,1,x,\n7,2,y,\n", ("Unnamed: 0", "Unnamed: 2", "Unnamed: 3")),
    ],
    ids=["index", "comma in every row", "comma in every row but the header", "several"],
)
def test_columns_without_a_name_are_left_out(tmp_path, contents, unnamed):
    (tmp_path / "it.csv").write_text(contents)
    table = read_table(tmp_path / "it.csv")
    assert (set(table) - {"b"}, len(table["a"])) == ({"a"}, 2)
    assert table.unnamed == unnamed


def test_columns_of_one_name_are_refused_once_they_are_read(tmp_path):
    (tmp_path / "it.csv").write_text("a,a,b\n1,2,3\n")
    table = read_table(tmp_path / "it.csv")
    assert table["b"] == ["3"]
    with pytest.raises(UserError, match=r"it.csv, line 1: two columns are named 'a'"):
        table["a"]


@pytest.mark.parametrize(
    ("contents", "header"),
    [
        ('"two\nlines",b\n1,x\n2,y\n', "two lines"),
        ('"a;b; c",b\n1,x\n2,y\n', "a;b; c"),
        ('"a, b";b\n1;x\n2;y\n', "a, b"),
        ("sep=;\r\na, a;b\r\n1;x\r\n2;y\r\n", "a, a"),
        ("\ufeffsep=|\nü|b\n1|x\n2|y\n", "ü"),
        ("u\u0308|b\n1|x\n2|y\n", "ü"),
        ('a, "b"\n1, "x"\n2, "y"\n', "a"),
        ("a,b\r1,x\r2,y\r", "a"),
    ],
    ids=["line break", "semicolons", "comma", "sep=", "mark and sep=", "decomposed", "quotes after a space", "old Mac"],
)
def test_headers_of_other_programs(tmp_path, contents, header):
    (tmp_path / "it.csv").write_bytes(contents.encode())
    assert dict(read_table(tmp_path / "it.csv")) == {header: ["1", "2"], "b": ["x", "y"]}


def test_lines_count_those_of_the_header(tmp_path):
    (tmp_path / "it.csv").write_text('sep=,\n"a\nb",c\n1,x\n\n2,"y\nz"\n')
    assert read_table(tmp_path / "it.csv").lines == [4, 7]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "no header"),
        (b"\n\n", "no header"),
        (b"a,b\n", "no rows"),
        (b"a,b\n1,2\n3\n", "line 3: 1 cells, must be 2"),
        (b"a,b\n1,2\n\n3,4,5\n", "line 4: 3 cells, must be 2"),
        (b"a,b\n1,\xff\n", "no text in UTF-8 (invalid start byte at byte 6, in line 2)"),
        (b"x\n" * 100_000 + b"\xff\n", "at byte 200000, in line 100001)"),
        ("a,b\n1,2\n".encode("utf-16"), "no text in UTF-8 but in UTF-16"),
        ("a,b\n1,2\n".encode("utf-16-le"), "line 1: holds a NUL byte"),
        (b'a,b\n1,"2\n', "no CSV file (the row that begins in line 2: "),
        (b'a,b\n1,"2\n3,4\n5,"6\n', "no CSV file (the row that begins in line 2: "),
        (b'a,b\n1,2\n1,"2" x\n', "no CSV file (the row that begins in line 3: "),
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
