"""Questions that go together, and what spoils them together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gce_backend.base.errors import (
    InvalidRequestError,
    MalformedResponseError,
    NotFoundError,
    RemoteError,
    TransientError,
)
from gce_backend.clients.batches import Batches

METHOD = "s.delete_all"


class Service:
    """A service that answers each subject in capitals.

    Attributes:
        calls: the subjects of each call.
        failure: what a call for several raises.
        seconds: what each call takes, on the event loop's clock.
        called: set when a call for several comes.
    """

    def __init__(self, most: int = 100) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.failure: RemoteError | None = None
        self.seconds = 0.0
        self.called = asyncio.Event()
        self.batches = Batches(self.one, self.many, most=most)

    async def one(self, subject: str) -> str:
        """Answers one."""
        self.calls.append((subject,))
        await asyncio.sleep(self.seconds)
        return subject.upper()

    async def many(self, subjects: Sequence[str]) -> Sequence[str | RemoteError]:
        """Answers several; `bad` alone is refused."""
        self.calls.append(tuple(subjects))
        self.called.set()
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        bad = InvalidRequestError(METHOD, "bad", status=200)
        return [bad if subject == "bad" else subject.upper() for subject in subjects]

    async def ask(self, subjects: str) -> list[str | BaseException]:
        """Asks about all these words at the same moment."""
        asked = (self.batches.ask(word) for word in subjects.split())
        return await asyncio.gather(*asked, return_exceptions=True)


async def test_questions_of_one_moment_go_together_more_and_more() -> None:
    """One, then two, then four: each has its own answer."""
    service = Service()
    assert await service.ask("a") == ["A"]
    words = "b c d e f g h"
    assert await service.ask(words) == words.upper().split()
    assert await service.ask(words) == words.upper().split()
    assert max(map(len, service.calls)) == 4
    assert await service.ask(words) == words.upper().split()
    assert service.calls[-1] == tuple(words.split())


async def test_no_call_is_for_more_than_allowed() -> None:
    """However quick the service is."""
    service = Service(most=3)
    for _ in range(6):
        await service.ask("a b c d e f g")
    assert max(map(len, service.calls)) == 3


async def test_what_is_refused_alone_spoils_no_other() -> None:
    """An answer that is an error is that subject's."""
    service = Service()
    await service.ask("a")
    first, second = await service.ask("bad b")
    assert isinstance(first, InvalidRequestError)
    assert second == "B"


@pytest.mark.parametrize(
    "failure",
    [
        InvalidRequestError(METHOD, "no", status=400),
        MalformedResponseError(METHOD, "?", status=200),
    ],
)
async def test_a_batch_that_is_refused_as_a_whole_is_asked_one_by_one(
    failure: RemoteError,
) -> None:
    """What spoiled it is not known; later ones are tried together again."""
    service = Service()
    await service.ask("a")
    service.failure = failure
    assert await service.ask("b c") == ["B", "C"]
    assert service.calls[1:] == [("b", "c"), ("b",), ("c",)]
    service.failure = None
    assert await service.ask("d e") == ["D", "E"]
    assert service.calls[-1] == ("d", "e")


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_service_without_the_method_is_asked_for_it_once(status: int) -> None:
    """The original Machine Provider knows single removals alone."""
    service = Service()
    await service.ask("a")
    kind = NotFoundError if status == 404 else InvalidRequestError
    service.failure = kind(METHOD, "what?", status=status)
    for _ in range(5):
        assert await service.ask("b c") == ["B", "C"]
    assert [call for call in service.calls if len(call) > 1] == [("b", "c")]


async def test_a_call_without_an_answer_is_everybody_s_and_the_next_one_is_small() -> None:
    """Nobody knows what became of theirs."""
    service = Service()
    for _ in range(3):
        await service.ask("a b c d")
    service.failure = TransientError(METHOD, "no answer")
    assert set(map(type, await service.ask("a b c d"))) == {TransientError}
    assert service.calls[-1] == ("a", "b", "c", "d")
    service.failure = None
    await service.ask("a b c d")
    assert service.calls[-4:] == [("a",), ("b",), ("c",), ("d",)]


async def test_who_asks_about_the_same_subject_has_a_call_of_its_own() -> None:
    """Two jobs ask about one machine: both have an answer."""
    service = Service()
    for _ in range(3):
        await service.ask("a b c d")
    assert await service.ask("a a b") == ["A", "A", "B"]


async def test_a_caller_that_gives_up_does_not_leave_the_others_waiting() -> None:
    """Its job met its deadline in the middle of a call; they ask again, each for itself."""
    service = Service()
    for _ in range(3):
        await service.ask("a b c d")
    service.seconds = 3600.0
    asked = [asyncio.create_task(service.batches.ask(word)) for word in "abcd"]
    service.called.clear()
    await service.called.wait()
    service.seconds = 0.0
    asked[2].cancel()
    asked[0].cancel()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert found[1::2] == ["B", "D"]
    assert {type(one) for one in found[::2]} == {asyncio.CancelledError}
    assert service.calls[-2:] == [("b",), ("d",)]
