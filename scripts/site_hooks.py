"""What becomes of a page of docs/ on the site only (`hooks` in mkdocs.yml)."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.structure.pages import Page

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Links to files beside docs/ become their words: the site does not hold those files.

    The home page has no menu beside it: it would hold nothing but the page itself.
    """
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]
    directory = posixpath.dirname(page.file.src_uri)

    def words_or_link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(directory, found[2]))
        return found[1] if target.startswith("../") else found[0]

    return _LINK.sub(words_or_link, markdown)
