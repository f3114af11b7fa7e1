"""Reads the daemon's pages as a browser would: text, links, forms, and what is loaded.

Use it for a test of what a page says and links to.
"""

from __future__ import annotations

from html.parser import HTMLParser

from support.fleet_harness import World

_EMPTY = {"meta", "link", "input", "br", "rect", "path"}
_BLOCKS = {"h1", "h2", "p", "li", "dt", "dd", "th", "td", "tr", "caption", "summary", "pre", "ins"}
_LOADING = {
    ("link", "href"),
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("form", "action"),
}


class Page(HTMLParser):
    """A page.

    Attributes:
        status: the HTTP status.
        source: the HTML.
        tags: all elements: their names and attributes.
        links: addresses of all links.
        loaded: addresses of all that the page loads or sends to.
        inputs: values of named fields.
    """

    def __init__(self, status: int, source: str) -> None:
        super().__init__()
        self.status = status
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.inputs: dict[str, str] = {}
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    @property
    def text(self) -> str:
        """What can be read in `<main>`."""
        return " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        if tag in _BLOCKS:
            self._text.append(" ")
        if tag == "title" and "svg" in self._open:  # that of a chart, not of the page
            tag = "desc"
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "a" and (address := found.get("href")):
            self.links.append(address)
        self.loaded += [
            found[name] or "" for kind, name in _LOADING if kind == tag and name in found
        ]
        if tag == "input" and (name := found.get("name")):
            self.inputs[name] = found.get("value") or ""
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that closes itself, of SVG."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """An element ends: the one that was opened last."""
        if tag == "title" and "svg" in self._open:
            tag = "desc"
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1] == tag, f"</{tag}> closes <{self._open[-1]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        """Text."""
        if "main" in self._open:
            self._text.append(data)


async def visit(w: World, path: str, **headers: str) -> Page:
    """A page of the daemon."""
    given = {"Accept": "text/html", **headers}
    async with w.session.get(w.daemon.url + path, headers=given) as response:
        assert response.content_type == "text/html", await response.text()
        return Page(response.status, await response.text())
