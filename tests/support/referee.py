"""Google's own descriptions as referee of every exchange with Compute, Datastore and Pub/Sub.

Every HTTP server that a test starts in its process is watched, and so is what a mocked session
answers. Whether an exchange is one with Google is told by its path, and what it means by the
discovery documents: nothing is taken from the project's own tables.

Python processes that a test starts record what their servers see, and that is judged when the test
ends. They are told so by variables of the environment, which they must therefore inherit.

Use it by way of `conftest.py` alone: it judges every test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses
from aioresponses.compat import stream_reader_factory
from yarl import URL

from support.discovery.exchanges import Answer, Exchange, Tally, problems
from support.records import SITE, VARIABLE, Records
from support.watch import is_googles, servers_watched


class Referee:
    """Judges exchanges; what was wrong in a test is told when it ends.

    Attributes:
        tally: what was seen in all tests.
        records: what other processes see.
    """

    def __init__(self, records: Records) -> None:
        self.tally = Tally()
        self.records = records
        self._problems: list[str] = []
        self._expected: list[str] = []

    def look(self, exchange: Exchange) -> None:
        """Judges an exchange with Google."""
        self._problems += problems(exchange, self.tally)

    def expect(self, pattern: str) -> None:
        """Says that this test breaks a rule on purpose.

        Args:
            pattern: a regular expression that is found in every problem that is meant; there must
                be at least one until the test ends.
        """
        self._expected.append(pattern)

    def settle(self) -> None:
        """Ends a test; its processes have ended before.

        Raises:
            AssertionError: something was wrong unexpectedly, or was not wrong as expected.
        """
        for exchange in self.records.take():
            self.look(exchange)
        found, expected = list(dict.fromkeys(self._problems)), self._expected
        self._problems, self._expected = [], []
        wrong = [p for p in found if not any(re.search(pattern, p) for pattern in expected)]
        unmet = [e for e in expected if not any(re.search(e, problem) for problem in found)]
        wrong += [f"expected, and did not happen: {pattern}" for pattern in unmet]
        assert not wrong, "\n".join(["not as Google describes it:", *wrong])


@contextlib.contextmanager
def watching(referee: Referee) -> Iterator[None]:
    """Shows a referee all mocked exchanges, and those with servers that are made meanwhile.

    Servers of processes that are started meanwhile are among them.
    """
    match = aioresponses.match

    async def mocked(self: aioresponses, method: str, url: URL, **options: Any) -> Any:
        answer: Answer | None = None
        try:
            response = await match(self, method, url, **options)
            if response is not None:
                answer = await _mocked_answer(response)
        finally:
            if is_googles(url):
                referee.look(Exchange(method, url, options.get("data") or b"", answer))
        return response

    with servers_watched(referee.look), pytest.MonkeyPatch.context() as patched:
        patched.setattr(aioresponses, "match", mocked)
        patched.setenv("PYTHONPATH", str(SITE), prepend=os.pathsep)
        patched.setenv(VARIABLE, str(referee.records.directory))
        yield


async def _mocked_answer(response: ClientResponse) -> Answer:
    """A mocked answer, which can be read once more afterwards."""
    body = await response.content.read()
    response.content = stream_reader_factory(asyncio.get_running_loop())
    response.content.feed_data(body)
    response.content.feed_eof()
    return Answer(response.status, response.content_type, body)
