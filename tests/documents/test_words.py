"""The words of the documents, the pages and the commands: plain ones, and one glossary."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import pytest

from support.documents import DOCS, DOCUMENTS, ROOT, name_of, text_of

_SRC = ROOT / "src" / "gce_backend"
_DOCUMENTS = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
_PAGES = sorted(_SRC.rglob("*.html"))
_COMMANDS = sorted((_SRC / "cli").rglob("*.py"))

_INSTEAD = {
    r"(?:is|are|was|were) no more(?! than)": "no longer exists",
    r"any ?more": "no longer",
    r"afterwards": "say after what",
    r"bears?": "has",
    r"befall(?:s|en)?": "happens to",
    r"comes? to be": "is made",
    r"for ever": "forever",
    r"gravest": "most severe",
    r"in vain": "without success",
    r"likewise": "the same",
    r"mend(?:s|ed|ing)?": "fix or correct",
    r"virtual machines?": "VM",
    r"(?:whom|whence|hitherto|thereof|thereby|wherein)": "a shorter sentence",
    r"(?:bot|droplet)s? (?:is|are) (?:leased|cataloged|drained)": "machine",
}
"""Words that stop a reader, to what says the same."""

_MESSAGES = [
    path
    for path in sorted(_SRC.rglob("*.py"))
    if path.parts[len(_SRC.parts)] not in {"localcloud", "demo"}  # Google's words; a fixed fleet
]
_NOUNS = re.compile(
    r" (?:VM|machine|group|lease|message|deletion|entitie|template|manager|instance|request|key"
    r"|problem|check|warning|row|page|character|attribute|thing)s\b"
)
_NEVER_ONE = re.compile(r"^(?:\w+\.)?[A-Z][A-Z_]+$|^len\(found\)$|^len\(value\)$")
"""Constants, and numbers of which a message is only made when they are above one."""
_TERM = re.compile(r"^(?:The )?\*\*([A-Z][\w ]*?)\.\*\* ", re.MULTILINE)


def _words_of(path: Path) -> str:
    """What a reader sees: all of a document or page; the strings and comments of code."""
    text = text_of(path)
    if path.suffix != ".py":
        return re.sub(r"\]\([^)]*\)|`[^`\n]*`", " ", text)
    seen = (tokenize.STRING, tokenize.COMMENT)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join(token.string for token in tokens if token.type in seen)


@pytest.mark.parametrize("path", [*_DOCUMENTS, *_PAGES, *_COMMANDS], ids=name_of)
def test_no_word_stops_a_reader(path: Path) -> None:
    """CONTRIBUTING.md asks for plain English; these words have a plainer one."""
    words = _words_of(path)
    found = {
        match[0]: instead
        for pattern, instead in _INSTEAD.items()
        for match in re.finditer(rf"\b{pattern}\b", words, re.IGNORECASE)
    }
    assert not found


def _counts(tree: ast.AST) -> Iterator[str]:
    """Numbers that stand before a noun that is always in the plural."""
    for text in ast.walk(tree):
        if isinstance(text, ast.JoinedStr):
            for value, after in pairwise(text.values):
                if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                    continue
                number = ast.unparse(value.value)
                if _NOUNS.match(str(after.value)) and not _NEVER_ONE.search(number):
                    yield number + str(after.value)


def test_a_number_agrees_with_its_noun() -> None:
    """Never "1 machines": `base.plurals` has the noun in both numbers."""
    found = {name_of(path): list(_counts(ast.parse(text_of(path)))) for path in _MESSAGES}
    assert not {name: counts for name, counts in found.items() if counts}


def test_the_glossary_defines_each_term_once_and_is_the_only_one() -> None:
    """docs/concepts.md; no other document defines a term in its form."""
    terms = Counter(_TERM.findall(text_of(DOCS / "concepts.md")))
    assert {"Template", "Machine", "VM", "Member", "Lease", "Permit", "Tombstone"} <= terms.keys()
    assert set(terms.values()) == {1}
    others = [path for path in _DOCUMENTS if path.name != "concepts.md"]
    again = chain.from_iterable(_TERM.findall(text_of(path)) for path in others)
    assert not terms.keys() & set(again)
