"""Reads a tree of msgspec Structs from a TOML file and environment variables, key by key.

Knows nothing of this project's settings. Values are converted one at a time, so that every problem
is reported at once, each with its file or variable, its key and the remedy. No problem quotes a
value that could be a secret.
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec

from gce_backend.base.errors import SettingsError

SectionT = TypeVar("SectionT", bound=msgspec.Struct)

Key = tuple[str, ...]

Checks = Mapping[tuple[type[msgspec.Struct], str], Callable[[str], str]]
"""Section and field to a function that returns the text normalised, or raises ValueError.

In a list of texts, each of them goes through it."""


def read(
    root: type[SectionT],
    *,
    path: Path | None,
    environ: Mapping[str, str],
    prefix: str,
    names: Mapping[str, Sequence[str]],
    checks: Checks,
    from_text: Mapping[type, Callable[[str], object]],
) -> SectionT:
    """Builds `root` from a file, overridden by the environment, over its defaults.

    Args:
        root: the tree's type; sections are Structs in it, or mappings of a name to a Struct.
        path: a TOML file; None when there is none.
        environ: the environment; names that do not begin with `prefix` are ignored.
        prefix: what variables begin with; the key's path follows in capitals, joined by `__`.
        names: for each field of `root` that is a mapping, the names that it may hold; dashes in
            them may be written as underscores.
        checks: what texts must fulfil beyond their type.
        from_text: how to make types that msgspec does not know. A relative `Path` in the file
            starts at the file's directory.

    Raises:
        SettingsError: with a line for every problem found.
    """
    reader = _Reader(root, names, checks, from_text)
    if path is not None:
        reader.read_file(path)
    reader.read_environment(environ, prefix)
    tree = reader.build(root, ())
    if reader.problems:
        raise SettingsError("\n".join(reader.problems))
    return tree


class _Given(NamedTuple):
    """A value as it was given: described for people, by which file (None: a variable), and what."""

    source: str
    file: Path | None
    value: object


class _Reader:
    def __init__(
        self,
        root: type[msgspec.Struct],
        names: Mapping[str, Sequence[str]],
        checks: Checks,
        from_text: Mapping[type, Callable[[str], object]],
    ) -> None:
        self.problems: list[str] = []
        self._root = root
        self._names = names
        self._checks = checks
        self._from_text = from_text
        self._given: dict[Key, _Given] = {}

    def read_file(self, path: Path) -> None:
        try:
            document = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            self.problems.append(f"{path}: cannot be read ({error.strerror}); name another file")
        except UnicodeDecodeError:
            self.problems.append(f"{path}: is not UTF-8 text; save it as UTF-8")
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{path}: is not valid TOML: {error}")
        else:
            for written, value in _leaves(document, ()):
                self._add(written, _Given(f"{path}: {'.'.join(written)}", path, value))

    def read_environment(self, environ: Mapping[str, str], prefix: str) -> None:
        for name in sorted(environ):
            if name.startswith(prefix):
                key = tuple(name.removeprefix(prefix).lower().split("__"))
                self._add(key, _Given(name, None, environ[name]))

    def _add(self, written: Key, given: _Given) -> None:
        """Notes one value under its key, if there is such a key."""
        key = written
        if len(key) > 1 and key[0] in self._names:
            key = (key[0], key[1].replace("_", "-"), *key[2:])
        annotation: object = self._root
        for depth, part in enumerate(key):
            members = self._members(annotation, key[:depth])
            if part not in members:
                self.problems.append(f"{given.source}: {_unknown(part, members)}")
                return
            annotation = members[part]
        members = self._members(annotation, key)
        if members:
            remedy = f"set one of its keys: {', '.join(members)}"
            self.problems.append(f"{given.source}: is a section; {remedy}")
        elif given.file and key in self._given:
            self.problems.append(f"{given.source}: is given twice; remove one")
        else:
            self._given[key] = given

    def _members(self, annotation: object, at: Key) -> Mapping[str, object]:
        """The names that may stand under a key, with their types; empty for a value."""
        if _is_section(annotation):
            return {field.name: field.type for field in msgspec.structs.fields(annotation)}
        if len(at) == 1 and at[0] in self._names:
            return dict.fromkeys(self._names[at[0]], typing.get_args(annotation)[1])
        return {}

    def build(self, section: type[SectionT], at: Key) -> SectionT:
        """The section with all that was given for it; where there are problems, its defaults."""
        values: dict[str, object] = {}
        before = len(self.problems)
        for name, annotation in self._members(section, at).items():
            key = (*at, name)
            if _is_section(annotation):
                values[name] = self.build(annotation, key)
            elif members := self._members(annotation, key):
                given = {known[1] for known in self._given if known[: len(key)] == key}
                values[name] = {
                    member: self.build(kind, (*key, member))
                    for member, kind in members.items()
                    if member in given and _is_section(kind)
                }
            elif key in self._given:
                try:
                    values[name] = self._convert(section, name, annotation, self._given[key])
                except ValueError as error:
                    self.problems.append(
                        f"{self._given[key].source}: {error}; {_remedy(section, name)}"
                    )
        if len(self.problems) > before:
            return section()
        try:
            return section(**values)
        except ValueError as error:
            sources = [given.source for key, given in self._given.items() if key[:-1] == at]
            self.problems.append(f"{', '.join(sources)}: {error}")
            return section()

    def _convert(
        self, section: type[msgspec.Struct], name: str, annotation: object, given: _Given
    ) -> object:
        """The value in its type, checked.

        Raises:
            ValueError: it does not fit; says what would.
        """
        value = given.value
        if given.file is None and isinstance(value, str):
            if value == "" and type(None) in typing.get_args(annotation):
                return None
            if typing.get_origin(annotation) is tuple:
                value = [part.strip() for part in value.split(",") if part.strip()]
        if typing.get_origin(annotation) is Literal and value not in typing.get_args(annotation):
            choices = ", ".join(f'"{choice}"' for choice in typing.get_args(annotation))
            raise ValueError(f"must be one of {choices}")
        converted: object = msgspec.convert(
            value, annotation, strict=given.file is not None, dec_hook=self._make
        )
        if isinstance(converted, Path) and given.file is not None:
            return given.file.parent / converted
        check = self._checks.get((section, name))
        if check and isinstance(converted, str):
            return check(converted)
        if check and isinstance(converted, tuple):
            return tuple(check(element) for element in converted)
        return converted

    def _make(self, wanted: type, value: object) -> object:
        if not isinstance(value, str) or not value:
            raise ValueError("Expected a text that is not empty")
        return self._from_text[wanted](value)


def _is_section(annotation: object) -> typing.TypeGuard[type[msgspec.Struct]]:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _leaves(table: Mapping[str, object], at: Key) -> Iterator[tuple[Key, object]]:
    """The values in a TOML table with their paths; empty tables say nothing."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*at, name))
        else:
            yield (*at, name), value


def _unknown(part: str, known: Mapping[str, object]) -> str:
    if not known:
        return f'unknown key "{part}": what stands before it is a value, not a section; remove it'
    close = difflib.get_close_matches(part, known, n=1)
    remedy = f'did you mean "{close[0]}"?' if close else f"use one of: {', '.join(known)}"
    return f'unknown key "{part}"; {remedy}'


def _remedy(section: type[msgspec.Struct], name: str) -> str:
    default = getattr(section(), name)
    shown = "" if default is None else f", {default!r}"
    return f"correct it, or remove it for the default{shown}"
