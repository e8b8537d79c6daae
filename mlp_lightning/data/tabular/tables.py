"""Tables from CSV files: texts by column, and the line that each row stands in."""

import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from mlp_lightning.data.tabular.cells import column_name, composed
from mlp_lightning.errors import UserError

SEPARATORS = ",;\t|"
# Characters and rows of a file from which its separator is known.
SAMPLE, SAMPLE_ROWS = 2**16, 50
# Excel's first line, which tells the separator.
TOLD = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)


class Table(Mapping[str, Sequence[str]]):
    """The cells of each column by its name, all texts; names are as ``column_name`` makes them.

    Args:
        columns: by name, all as long.
        lines: for each row the line in the file at which it ends.
        file: where the rows come from.
        separator: between the columns.
        unnamed: columns without a name, which are left out, as pandas names them: ``Unnamed: 0`` is the first column.
        twice: names of several columns, which cannot be read.
    """

    def __init__(
        self,
        columns: dict[str, list[str]],
        lines: list[int],
        file: str,
        separator: str = ",",
        unnamed: tuple[str, ...] = (),
        twice: frozenset[str] = frozenset(),
    ) -> None:
        self.columns = columns
        self.lines = lines
        self.file = file
        self.separator = separator
        self.unnamed = unnamed
        self.twice = twice

    def __getitem__(self, name: str) -> Sequence[str]:
        """The cells; raises UserError for a name of several columns."""
        if name in self.twice:
            raise UserError(f"{self.file}, line 1: two columns are named {name!r}")
        return self.columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def n_rows(self) -> int:
        """N."""
        return len(self.lines)

    def take(self, rows: Sequence[int]) -> "Table":
        """Some of the rows, in that order."""
        columns = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        lines = [self.lines[row] for row in rows]
        return Table(columns, lines, self.file, self.separator, self.unnamed, self.twice)


def read_table(path: str | Path) -> Table:
    """Read a CSV file: a header, then a row a line; empty lines are skipped.

    Commas, semicolons, tabs or bars separate the columns: what cuts the first rows into as many cells as the header
    has. A first line ``sep=;`` tells it, as for Excel. Columns without a name are left out.

    Raises:
        UserError: no such file, one that is no text in UTF-8 or has no rows, quotes that are not closed, or a row of
            another length than the header.
    """
    try:
        with Path(path).open("rb") as binary:
            if binary.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                raise UserError(f"{path}: is no text in UTF-8 but in UTF-16 (Excel: save it as CSV UTF-8)")
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return _parsed(file, str(path))
    except UnicodeDecodeError as error:
        line, byte = _undecodable(Path(path))
        raise UserError(
            f"{path}: is no text in UTF-8 ({error.reason} at byte {byte}, in line {line}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _parsed(file: TextIO, path: str) -> Table:
    sample = file.read(SAMPLE)
    file.seek(0)
    told = TOLD.fullmatch(sample[: sample.find("\n") + 1])
    if told is not None:
        file.readline()
    separator = told[1] if told is not None else _separator(sample)
    rows = _rows(file, separator, path, 0 if told is None else 1)
    header, _ = next(rows, ([], 0))
    header = [column_name(name) for name in header]
    if not any(header):
        raise UserError(f"{path}: the file has no header in its first line")
    n = len(header)
    # A line of blanks is empty, but in a table of one column "" is a missing cell.
    body = [(cells, line) for cells, line in rows if cells and (n == 1 or len(cells) > 1 or cells[0].strip())]
    if not body:
        raise UserError(f"{path}: the file has a header, but no rows")
    # Some programs end every row with a separator, but not the header.
    if all(len(cells) == n + 1 and not cells[-1].strip() for cells, _ in body):
        body = [(cells[:-1], line) for cells, line in body]
    wrong = next(((cells, line) for cells, line in body if len(cells) != n), None)
    if wrong is not None:
        raise UserError(f"{path}, line {wrong[1]}: {len(wrong[0])} cells, must be {n} as in the header")
    columns: dict[str, list[str]] = {}
    unnamed, twice = [], []
    for k, (name, column) in enumerate(zip(header, zip(*(cells for cells, _ in body), strict=True), strict=True)):
        if not name:
            unnamed.append(f"Unnamed: {k}")
        elif name in columns:
            twice.append(name)
        else:
            columns[name] = [composed(cell.strip()) for cell in column]
    if not columns:
        raise UserError(f"{path}: no column has a name in the first line")
    return Table(columns, [line for _, line in body], path, separator, tuple(unnamed), frozenset(twice))


def _rows(file: TextIO, separator: str, path: str, lines_before: int) -> Iterator[tuple[list[str], int]]:
    """The cells of each row, and the line at which it ends; raises UserError for broken quotes and NUL bytes."""
    # Quotes that come after a space are quotes too.
    reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=True)
    line = lines_before
    while True:
        first, row = line + 1, None
        try:
            row = next(reader, None)
        except csv.Error as error:
            quotes = '"' in str(error) or "unexpected end" in str(error)
            hint = ": its quotes are not closed, or are followed by text" if quotes else ""
            raise UserError(f"{path}: is no CSV file (the row that begins in line {first}: {error}{hint})") from error
        line = reader.line_num + lines_before
        if row is None:
            return
        if any("\0" in cell for cell in row):
            raise UserError(f"{path}, line {line}: holds a NUL byte, must be text in UTF-8")
        yield row, line


def _separator(sample: str) -> str:
    """What cuts the first rows as the header; of several the one that gives most columns."""

    def columns(separator: str) -> tuple[bool, int]:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=True)
        try:
            rows = [row for row in itertools.islice(reader, SAMPLE_ROWS) if row]
        except csv.Error:
            return False, 0
        # The sample may end within a row.
        lengths = [len(row) for row in (rows[:-1] if len(sample) == SAMPLE else rows)] or [0]
        return lengths[0] > 1 and set(lengths) == {lengths[0]}, lengths[0]

    return max(SEPARATORS, key=columns)


def _undecodable(path: Path) -> tuple[int, int]:
    """Line and byte of what is no UTF-8: an error's own byte counts from what was read at once."""
    before = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return number, before + error.start
            before += len(line)
    return 1, 0
