"""Data sets on disk, in blocks of rows: JSON lines and Parquet."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ._errors import FileError

Row = dict[str, Any]


def write_whole(path: Path, rows: Iterable[Row], schema: Any = None) -> None:
    """Writes rows to a file, which appears whole or not at all. A schema is one of Parquet's."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), temporary)
        else:
            with open(temporary, "w", encoding="utf-8") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Source(ABC):
    """The rows of a file, of which any block can be read for itself."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows

    @abstractmethod
    def block(self, number: int) -> list[Row]:
        """The rows of a block."""

    def stamp(self) -> list[int]:
        """Tells whether it is still the same file."""
        found = self.path.stat()
        return [found.st_size, found.st_mtime_ns]

    @abstractmethod
    def blocks(self) -> int:
        """How many blocks there are."""

    def schema(self, more: dict[str, str]) -> Any:
        """The types of its columns, and of new ones; None where the kind of file has none."""
        return None

    @abstractmethod
    def join(self, files: Sequence[Path], out: BinaryIO) -> int:
        """Writes the rows of files of this kind, one file after the other. The number of rows."""


class Lines(Source):
    """JSON lines; empty ones do not count."""

    def __init__(self, path: Path, rows: int) -> None:
        super().__init__(path, rows)
        self.starts: list[int] = []
        count = place = 0
        with open(path, "rb") as file:
            for line in file:
                if line.strip():
                    if count % rows == 0:
                        self.starts.append(place)
                    count += 1
                place += len(line)

    def blocks(self) -> int:
        return len(self.starts)

    def block(self, number: int) -> list[Row]:
        found: list[Row] = []
        with open(self.path, "rb") as file:
            file.seek(self.starts[number])
            for line in file:
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise FileError(f"{self.path}: expected JSON objects, found {line[:80]!r}")
                    found.append(row)
                if len(found) == self.rows:
                    break
        return found

    def join(self, files: Sequence[Path], out: BinaryIO) -> int:
        count = 0
        for file in files:
            data = file.read_bytes()
            count += data.count(b"\n")
            out.write(data)
        return count


class Parquet(Source):
    """A Parquet file."""

    def __init__(self, path: Path, rows: int) -> None:
        super().__init__(path, rows)
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            meta, self.columns = file.metadata, file.schema_arrow.remove_metadata()
            self.groups = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]

    def blocks(self) -> int:
        return int(-(-sum(self.groups) // self.rows))

    def block(self, number: int) -> list[Row]:
        import pyarrow.parquet

        first, last = number * self.rows, min((number + 1) * self.rows, sum(self.groups))
        start, wanted, before = 0, [], None
        for group, rows in enumerate(self.groups):
            if start < last and start + rows > first:
                wanted.append(group)
                before = start if before is None else before
            start += rows
        with pyarrow.parquet.ParquetFile(self.path) as file:
            table = file.read_row_groups(wanted)
        found: list[Row] = table.slice(first - (before or 0), last - first).to_pylist()
        return found

    def schema(self, more: dict[str, str]) -> Any:
        import pyarrow

        own = [field for field in self.columns if field.name not in more]
        new = [pyarrow.field(name, pyarrow.type_for_alias(kind)) for name, kind in more.items()]
        return pyarrow.schema(own + new)

    def join(self, files: Sequence[Path], out: BinaryIO) -> int:
        import pyarrow.parquet

        writer, count = None, 0
        for file in files:
            table = pyarrow.parquet.read_table(file)
            writer = writer or pyarrow.parquet.ParquetWriter(out, table.schema)
            writer.write_table(table)
            count += table.num_rows
        if writer is None:
            pyarrow.parquet.write_table(self.columns.empty_table(), out)
        else:
            writer.close()
        return count


def source(path: Path, rows: int) -> Source:
    """The rows of a file, in blocks of so many."""
    if not path.is_file():
        raise FileError(f"{path}: there is no such file")
    return Parquet(path, rows) if path.suffix == ".parquet" else Lines(path, rows)
