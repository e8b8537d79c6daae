"""Tables from CSV files: texts by column, and the line that each row stands in."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlp_lightning.errors import UserError

SEPARATORS = ",;\t"


class Table(Mapping[str, Sequence[str]]):
    """The cells of each column by its name, all texts.

    Args:
        columns: by name, all as long.
        lines: for each row the line in the file at which it ends.
        file: where the rows come from.
    """

    def __init__(self, columns: dict[str, list[str]], lines: list[int], file: str) -> None:
        self.columns = columns
        self.lines = lines
        self.file = file

    def __getitem__(self, name: str) -> Sequence[str]:
        return self.columns[name]

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
        return Table(columns, [self.lines[row] for row in rows], self.file)


def read_table(path: str | Path) -> Table:
    """Read a CSV file: a header, then a row a line; empty lines are passed over.

    Columns are separated by whichever of comma, semicolon and tab is most frequent in the header. A first column
    without a name that counts the rows, which pandas writes, is left out.

    Raises:
        UserError: no such file, one that is no text in UTF-8 or has no rows, a column without a name or with that of
            another, or a row of another length than the header.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return _parsed(file, str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text in UTF-8 ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise UserError(f"{path}: is no CSV file ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _parsed(file: Iterator[str], path: str) -> Table:
    head = next(file, "")
    separator = max(SEPARATORS, key=head.count)
    header = [name.strip() for name in next(csv.reader([head], delimiter=separator), [])]
    if not any(header):
        raise UserError(f"{path}: the file has no header in its first line")
    rows, lines = [], []
    reader = csv.reader(file, delimiter=separator, strict=True)
    for row in reader:
        if not row:
            continue
        line = reader.line_num + 1
        if any("\0" in cell for cell in row):
            raise UserError(f"{path}, line {line}: holds a NUL byte, must be text")
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}: {len(row)} cells, must be {len(header)} as in the header")
        rows.append(row)
        lines.append(line)
    if not rows:
        raise UserError(f"{path}: the file has a header, but no rows")
    columns = [[cell.strip() for cell in column] for column in zip(*rows, strict=True)]
    if not header[0] and _counts(columns[0]):
        header, columns = header[1:], columns[1:]
    for k, name in enumerate(header):
        if not name:
            raise UserError(f"{path}, line 1: column {k + 1} of {len(header)} has no name")
        if name in header[:k]:
            raise UserError(f"{path}, line 1: two columns are named {name!r}")
    return Table(dict(zip(header, columns, strict=True)), lines, path)


def _counts(cells: Sequence[str]) -> bool:
    first = int(cells[0]) if cells[0].isdecimal() else -1
    return first >= 0 and all(cell == str(first + k) for k, cell in enumerate(cells))
