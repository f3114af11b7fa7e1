"""Durable tables: dictionaries in memory, kept in one SQLite file that survives kill -9."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from gce_backend.base.errors import BackendError

STATE_VERSION = 1
"""Raised whenever the meaning of a row changes; a file of another version is refused."""

T = TypeVar("T")


class StateFileError(BackendError):
    """The state file cannot be used; the message says why and what to do."""


class Table(MutableMapping[str, T], Generic[T]):
    """A mapping from names to values of one type, written through at the next `Tables.commit`.

    A value that was changed in place must be assigned again (`table[key] = value`) to be written.
    Iteration is in order of insertion, also after a restart.
    """

    def __init__(self, name: str, kind: type[T], rows: dict[str, T], dirty: set[str]) -> None:
        self.name = name
        self.kind = kind
        self._rows = rows
        self._dirty = dirty

    def __getitem__(self, key: str) -> T:
        return self._rows[key]

    def __setitem__(self, key: str, value: T) -> None:
        self._rows[key] = value
        self._dirty.add(key)

    def __delitem__(self, key: str) -> None:
        del self._rows[key]
        self._dirty.add(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class Tables:
    """All tables of one embedded cloud.

    Args:
        path: the SQLite file, made when absent; None keeps everything in memory only.

    Raises:
        StateFileError: the file is of another version, in use, or not a state file.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._tables: dict[str, tuple[Table[Any], set[str]]] = {}
        self._connection: sqlite3.Connection | None = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._connection = self._open(path)
            except (OSError, sqlite3.OperationalError) as error:
                raise StateFileError(
                    f"{path}: cannot be made: {error}. Name another file with --state."
                ) from error

    def _open(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, timeout=0.5)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            # The process may be killed at any moment; only a power cut can lose the last writes.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("CREATE TABLE IF NOT EXISTS meta (version INTEGER NOT NULL)")
            connection.execute(
                'CREATE TABLE IF NOT EXISTS "row" (place INTEGER PRIMARY KEY AUTOINCREMENT, '
                "tab TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, UNIQUE (tab, key))"
            )
            found = connection.execute("SELECT version FROM meta").fetchone()
            if found is None:
                connection.execute("INSERT INTO meta VALUES (?)", (STATE_VERSION,))
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            connection.close()
            raise StateFileError(
                f"{path}: {error}. Another gce-backend probably uses this state file: stop it, or "
                "name another file with --state."
            ) from error
        except sqlite3.DatabaseError as error:
            connection.close()
            raise StateFileError(
                f"{path}: {error}. Move the file away, or name another one with --state."
            ) from error
        if found is not None and found[0] != STATE_VERSION:
            connection.close()
            raise StateFileError(
                f"{path}: written by another version of gce-backend (state version {found[0]}, "
                f"this one needs {STATE_VERSION}). Move the file away to start from an empty "
                "cloud, or run the version that wrote it."
            )
        return connection

    def table(self, name: str, kind: type[T]) -> Table[T]:
        """The table of that name, with the rows that it had when the file was last written.

        Args:
            name: unique within the cloud, e.g. `compute.instances`.
            kind: the type of its values: a msgspec Struct, or `dict` for plain JSON.
        """
        if name in self._tables:
            return self._tables[name][0]
        rows: dict[str, T] = {}
        if self._connection is not None:
            decoder = msgspec.json.Decoder(kind)
            query = 'SELECT key, value FROM "row" WHERE tab = ? ORDER BY place'
            for key, value in self._connection.execute(query, (name,)):
                try:
                    rows[key] = decoder.decode(value)
                except msgspec.DecodeError as error:
                    raise StateFileError(
                        f"{self._path}: {name} {key}: {error}. Move the file away to start from an "
                        "empty cloud."
                    ) from error
        dirty: set[str] = set()
        table = Table(name, kind, rows, dirty)
        self._tables[name] = (table, dirty)
        return table

    def commit(self) -> None:
        """Writes what changed since the last call, in one SQLite transaction.

        Raises:
            StateFileError: the disk is full or the file cannot be written; nothing was written.
        """
        changed = [(table, dirty) for table, dirty in self._tables.values() if dirty]
        if not changed:
            return
        if self._connection is not None:
            try:
                self._connection.execute("BEGIN")
                for table, dirty in changed:
                    self._write(self._connection, table, dirty)
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise StateFileError(f"{self._path}: cannot be written: {error}") from error
        for _, dirty in changed:
            dirty.clear()

    @staticmethod
    def _write(connection: sqlite3.Connection, table: Table[Any], dirty: set[str]) -> None:
        encode = msgspec.json.encode
        gone = [(table.name, key) for key in dirty if key not in table]
        kept = [(table.name, key, encode(table[key])) for key in dirty if key in table]
        connection.executemany('DELETE FROM "row" WHERE tab = ? AND key = ?', gone)
        connection.executemany(
            'INSERT INTO "row" (tab, key, value) VALUES (?, ?, ?) '
            "ON CONFLICT (tab, key) DO UPDATE SET value = excluded.value",
            kept,
        )

    def close(self) -> None:
        """Commits and closes the file."""
        self.commit()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
