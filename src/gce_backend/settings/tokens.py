"""The tokens of the daemon's HTTP endpoint: who has each, and what it lets them do.

The file of `http.tokens_file` is TOML, with a table for each person or program:

    ["alice@example.com"]
    role = "operate"
    token = "a long random text"

It is read when the daemon starts, and again when it changes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

from gce_backend.base.errors import SettingsError
from gce_backend.settings.settings import HttpSettings, Secret, secret

OPERATOR = "operator"
"""The name of the token `http.token`."""
MAX_TOKENS = 500
MAX_FILE_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


class Role(StrEnum):
    """What a token lets its holder do; each role includes those above it."""

    READ = "read"
    """Read pages, documents and metrics."""
    OPERATE = "operate"
    """Pause and resume, drain and cordon machines, acknowledge messages."""
    ADMINISTER = "administer"
    """Approve a held configuration, and lift the caps on deletions."""

    def includes(self, other: Role) -> bool:
        """Whether it lets its holder do all that the other one does."""
        roles = list(Role)
        return roles.index(self) >= roles.index(other)


class NamedToken(msgspec.Struct, frozen=True):
    """A token of the HTTP endpoint.

    Attributes:
        name: who has it.
        role: what it lets them do.
        token: the token itself.
    """

    name: str
    role: Role
    token: Secret


def named_tokens(http: HttpSettings) -> tuple[NamedToken, ...]:
    """All tokens of the endpoint: `http.token`, and those of `http.tokens_file`.

    Raises:
        SettingsError: the file cannot be used, with a line for every problem found.
    """
    single = (NamedToken(OPERATOR, Role.ADMINISTER, http.token),) if http.token else ()
    if http.tokens_file is None:
        return single
    problems: list[str] = []
    tokens = (*single, *_in_file(http.tokens_file, problems))
    problems += [f"{http.tokens_file}: {problem}" for problem in _doubles(tokens)]
    if problems:
        raise SettingsError("\n".join(problems))
    return tokens


def _in_file(path: Path, problems: list[str]) -> list[NamedToken]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise SettingsError(f"{path}: has more than {MAX_FILE_BYTES} bytes")
        tables = tomllib.loads(content.decode())
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); correct http.tokens_file"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from None
    if len(tables) > MAX_TOKENS:
        problems.append(f"{path}: has {len(tables)} tokens, more than {MAX_TOKENS}")
    found = []
    for name, table in tables.items():
        wrong = list(_problems(name, table))
        problems += [f"{path}: {name[:100]}{problem}" for problem in wrong]
        if not wrong:
            found.append(NamedToken(name, Role(table["role"]), Secret(table["token"])))
    return found


def _problems(name: str, table: object) -> Iterator[str]:
    """What is wrong with the table of a token; no problem quotes the token."""
    if not _NAME.fullmatch(name):
        yield ': is not a name: write letters, digits and ".", "_", "@", "+", "-"; 100 at most'
    if not isinstance(table, Mapping):
        yield ': is not a table: write [NAME], and below it role = "..." and token = "..."'
        return
    for key in table.keys() - {"role", "token"}:
        yield f': unknown key "{key}"; use role and token, and quote a name with "." or "@"'
    if table.get("role") not in list(Role):
        yield f".role: must be one of {', '.join(Role)}"
    token = table.get("token")
    try:
        if not isinstance(token, str):
            raise ValueError("is missing, or is not a text")  # noqa: TRY301, TRY004
        secret(token)
    except ValueError as error:
        yield f".token: {error}"


def _doubles(tokens: tuple[NamedToken, ...]) -> Iterator[str]:
    names: set[str] = set()
    holders: dict[Secret, str] = {}
    for one in tokens:
        if one.name in names:
            yield f"{one.name}: is the name of http.token; use another one"
        elif one.token in holders:
            yield f"{one.name}.token: is the token of {holders[one.token]} too; make another one"
        names.add(one.name)
        holders.setdefault(one.token, one.name)
