"""Text-format protobuf, read together with the line on which each field stands.

The protobuf library gives line numbers for syntax errors only. What is wrong with a well-formed
file is found later, so a small scanner goes over the same text and notes where every field begins.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from gce_backend.base.errors import BackendError

M = TypeVar("M", bound=Message)

Path = tuple[str | int, ...]
"""Where a value is: field names and, after each, the index, e.g. `("templates", 2, "tags", 0)`."""

_TOKEN = re.compile(
    r"""
    \#[^\n]*                        # a comment
    | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*'
    | [{}<>\[\]:,;]
    | [^\s{}<>\[\]:,;\#"']+         # a name, a number, a word
    """,
    re.VERBOSE | re.DOTALL,
)
_UNKNOWN = re.compile(
    r'Message type "[\w.]*?(?P<type>\w+)" has no field named "(?P<name>[^"]*)"\.?'
)
_REMEDIES: Final = {
    "Value out of range": "write a smaller number",
    "Couldn't parse integer": "write a whole number, without quotes",
    "Expected string": 'write it in quotes: "..."',
}
_CLOSING: Final = {"{": "}", "<": ">"}
_END: Final = ("", 0)


class TextSyntaxError(BackendError):
    """The text is not of the message's language.

    Attributes:
        line: counted from 1; None when unknown.
        reason: what the parser found.
    """

    def __init__(self, line: int | None, reason: str) -> None:
        self.line = line
        self.reason = reason
        super().__init__(reason)


class LineIndex:
    """The lines on which the fields of one well-formed text begin."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._ahead = next(self._tokens, _END)
        self._lines: dict[Path, int] = {}
        self._message((), closing="")

    def repeated(self) -> Iterator[Path]:
        """Where a field is given a second time, and so on: its last index."""
        for path in self._lines:
            if isinstance(path[-1], int) and path[-1] > 0:
                yield path

    def find(self, path: Path) -> int | None:
        """The line of the value, or of the innermost message around it when it is absent."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None

    def _peek(self) -> tuple[str, int]:
        return self._ahead

    def _next(self) -> tuple[str, int]:
        token, self._ahead = self._ahead, next(self._tokens, _END)
        return token

    def _message(self, path: Path, closing: str) -> None:
        seen: Counter[str] = Counter()
        while (token := self._next()) != _END and token[0] != closing:
            name, line = token
            if name in {",", ";"}:
                continue
            if self._peek()[0] == ":":
                self._next()
            if self._peek()[0] == "[":
                self._list(path, name, seen)
            else:
                self._value(path, name, seen, line)

    def _list(self, path: Path, name: str, seen: Counter[str]) -> None:
        self._next()
        while (token := self._peek()) != _END and token[0] != "]":
            if token[0] == ",":
                self._next()
            else:
                self._value(path, name, seen, token[1])
        self._next()

    def _value(self, path: Path, name: str, seen: Counter[str], line: int) -> None:
        here = (*path, name, seen[name])
        seen[name] += 1
        self._lines[here] = line
        self._lines.setdefault((*path, name), line)
        word, _ = self._next()
        if word in _CLOSING:
            self._message(here, _CLOSING[word])
        elif word.startswith(('"', "'")):
            while self._peek()[0].startswith(('"', "'")):  # adjacent strings are one
                self._next()
        elif word == "-":  # a sign may stand apart from its number
            self._next()


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Each token that is not a comment, with its line."""
    line, at = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        if not match[0].startswith("#"):
            yield match[0], line


def decoded(content: bytes) -> str:
    """The text of a file, also with a byte order mark.

    Raises:
        ValueError: it is not UTF-8; the message says where, and what to do.
    """
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise ValueError('is UTF-16, which Windows programs call "Unicode": save it as UTF-8')
    try:
        return content.removeprefix(BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}: save it as UTF-8") from None


def message_of(text: str, kind: type[M]) -> M:
    """Parses a text-format message; of a field that is given twice, the last value counts.

    Args:
        text: the file's text.
        kind: the message's type.

    Raises:
        TextSyntaxError: the text is not such a message.
    """
    try:
        return text_format.Merge(text, kind())
    except text_format.ParseError as error:
        reason = str(error)
        line = error.GetLine()
        if line is not None:
            reason = reason.removeprefix(f"{line}:{error.GetColumn()} : ")
        raise TextSyntaxError(line, _with_remedy(reason, kind)) from None
    except (ValueError, RecursionError) as error:  # of texts that the library does not expect
        raise TextSyntaxError(None, str(error)) from None


def _with_remedy(reason: str, kind: type[Message]) -> str:
    """What the library says, with what to write instead where that can be told."""
    if unknown := _UNKNOWN.fullmatch(reason):
        fields = kind.DESCRIPTOR.file.message_types_by_name[unknown["type"]].fields_by_name
        near = get_close_matches(unknown["name"], fields, n=1)
        use = f'did you mean "{near[0]}"?' if near else f"use one of: {', '.join(sorted(fields))}"
        return f'unknown field "{unknown["name"]}"; {use}'
    for said, remedy in _REMEDIES.items():
        if said in reason:
            return f"{reason}; {remedy}"
    return reason
