"""Tells webhooks of events and problems. It only looks: no job waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

import msgspec

from gce_backend.base.errors import BackendError
from gce_backend.clients.webhook import Webhook
from gce_backend.fleet.history import EventFilter, HistoryEntry, entries
from gce_backend.fleet.store import Store
from gce_backend.model.events import HistoryPage
from gce_backend.model.keys import Key
from gce_backend.rules import notices
from gce_backend.rules.history_pages import PageName
from gce_backend.settings.settings import WebhookSettings
from gce_backend.web.survey.problems import problems
from gce_backend.web.survey.view import View

LOOK_SECONDS = 5.0
LATE_SECONDS = 60.0
"""How late a page of history may appear after its time: a slow commit, a clock that is behind."""


class Destination(NamedTuple):
    """A webhook, and what it is sent."""

    webhook: Webhook
    settings: WebhookSettings


class Notifier:
    """Looks for events and problems, and offers them to the webhooks.

    Events are read from the store, because commands and other daemons write some of them.

    Args:
        view: what is known.
        store: holds the history.
        destinations: the webhooks, by their formats.
    """

    def __init__(self, view: View, store: Store, destinations: Mapping[str, Destination]) -> None:
        self._view = view
        self._store = store
        self._destinations = destinations
        context = view.context
        self._sender = notices.Sender(context.project, context.settings.owner)
        self._after = PageName.first(context.clock.now())
        self._seen: set[str] = set()
        self._known: notices.Known = {}

    async def run(self) -> NoReturn:
        """Looks every few seconds, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look_at_problems()
            try:
                await self._look_at_events()
            except BackendError as error:  # the next look finds the same events
                self._view.context.log.warning("webhook.no_events", error=str(error))

    async def _look_at_problems(self) -> None:
        view = self._view
        survey = await view.census.survey()
        found = problems(view.context, survey, view.scheduler.status(), view.queue())
        self._known, began, ended = notices.judge(self._known, map(msgspec.to_builtins, found))
        now = view.context.clock.now()
        for problem in began:
            self._offer(notices.of_problem(self._sender, problem, now, ended=False))
        for problem in ended:
            self._offer(notices.of_problem(self._sender, problem, now, ended=True))

    async def _look_at_events(self) -> None:
        late = PageName.first(self._view.context.clock.now() - LATE_SECONDS)
        self._after = max(self._after, late)
        read: set[str] = set()
        news: list[HistoryEntry] = []
        async for found in self._store.read_kind(
            HistoryPage.KIND, Key(HistoryPage.KIND, self._after)
        ):
            for key, stored in found.items():
                read.add(key.name)
                if key.name not in self._seen and isinstance(stored.entity, HistoryPage):
                    news += entries(key.name, stored.entity, EventFilter())
        self._seen = read
        for entry in news:
            self._offer(notices.of_event(self._sender, *entry))

    def _offer(self, notice: notices.Notice) -> None:
        for style, (webhook, settings) in self._destinations.items():
            if notices.is_wanted(notice, settings.events, settings.severity):
                key = settings.secret.reveal() if settings.secret is not None else ""
                body = notices.body(style, notice, key)
                if body is not None:
                    webhook.offer(body)
