"""Tells one webhook of events and problems, and knows what it has been told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from gce_backend.base.dates import UnixSeconds
from gce_backend.clients.webhook import GIVE_UP_SECONDS, Webhook
from gce_backend.fleet.history import HistoryEntry
from gce_backend.model.entities import ToldNotices
from gce_backend.rules import notices
from gce_backend.rules.history_pages import PageName
from gce_backend.settings.settings import WebhookSettings

LATE_SECONDS = 60.0
"""How late a page of history may appear after its time: a slow commit, a clock that is behind."""
MAX_PAGES = 2000
"""Pages remembered as told, beyond those below which all are told."""
MAX_PROBLEMS = 100


class Teller:
    """A webhook, and what it has been told.

    Args:
        style: the webhook's format.
        webhook: sends.
        settings: what it is sent.
        sender: whose notices they are.

    Attributes:
        changed: whether what it has been told has changed since `told` was last asked for.
    """

    def __init__(
        self, style: str, webhook: Webhook, settings: WebhookSettings, sender: notices.Sender
    ) -> None:
        self.style = style
        self.changed = False
        self._webhook = webhook
        self._settings = settings
        self._sender = sender
        self._after = ""
        self._pages: set[str] = set()
        self._open: Counter[str] = Counter()
        self._known: notices.Known = {}
        self._told: dict[str, Mapping[str, Any]] = {}

    def resume(self, stored: ToldNotices | None, now: UnixSeconds) -> str:
        """Continues where an earlier process ended, at most as long ago as a notice is tried.

        Args:
            stored: what it was told then; None for a webhook that is new, which is told what
                happens from now on.

        Returns:
            The text that sorts before the names of all pages that it may not have been told.
        """
        if stored is None:
            self._after, self.changed = PageName.first(now), True
        else:
            self._after = max(stored.after, PageName.first(now - GIVE_UP_SECONDS))
            self._pages = set(stored.pages)
            self._known = notices.resumed(stored.problems)
            self._told = {notices.name_of(problem): problem for problem in stored.problems}
        return self._after

    def tell_problems(self, found: Iterable[Mapping[str, Any]], now: UnixSeconds) -> None:
        """Offers what began and ended among the problems."""
        self._known, began, ended = notices.judge(self._known, found)
        for is_over, problems in ((False, began), (True, ended)):
            for problem in problems:
                notice = notices.of_problem(self._sender, problem, now, ended=is_over)
                self._offer(notice, partial(self._problem_told, problem, ended=is_over))

    def tell_page(self, name: str, events: Iterable[HistoryEntry]) -> None:
        """Offers the events of a page of history, unless it was told of them before."""
        if name <= self._after or name in self._pages:
            return
        self._open[name] += 1
        for entry in events:
            self._open[name] += 1
            self._offer(notices.of_event(self._sender, *entry), partial(self._page_told, name))
        self._page_told(name)

    def told(self, now: UnixSeconds) -> ToldNotices:
        """What it has been told, for a later process."""
        first = min(self._open, default=None)
        late = PageName.first(now - LATE_SECONDS)
        bound = late if first is None else min(late, PageName.before(first))
        self._after = max(self._after, bound)
        pages = sorted(name for name in self._pages if name > self._after)
        if len(pages) > MAX_PAGES:
            self._after = pages[-MAX_PAGES - 1]
            pages = pages[-MAX_PAGES:]
        self._pages, self.changed = set(pages), False
        problems = tuple(map(dict, self._told.values()))[:MAX_PROBLEMS]
        return ToldNotices(self._after, tuple(pages), problems)

    def _offer(self, notice: notices.Notice, done: partial[None]) -> None:
        body = None
        settings = self._settings
        if notices.is_wanted(notice, settings.events, settings.severity):
            key = settings.secret.reveal() if settings.secret is not None else ""
            body = notices.body(self.style, notice, key)
        if body is None:
            done()
        else:
            self._webhook.offer(body, done)

    def _page_told(self, name: str) -> None:
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]
            self._pages.add(name)
            self.changed = True

    def _problem_told(self, problem: Mapping[str, Any], *, ended: bool) -> None:
        name = notices.name_of(problem)
        if ended:
            self._told.pop(name, None)
        else:
            self._told[name] = problem
        self.changed = True
