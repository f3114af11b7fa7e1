"""The referee catches what it is there to catch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fleet_harness import world
from gce_backend import specs
from localcloud.discovery import check_response
from referee import watching


async def test_exchanges_of_a_whole_start_are_as_google_describes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they are many, of all three services."""
    with watching(monkeypatch) as referee:
        async with world(tmp_path) as w:
            await w.until_states(cataloged=3)
            assert referee.exchanges > 50


async def test_request_field_that_google_does_not_know_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here: a misspelt field of an instance template, deep inside."""
    original = specs.template_body

    def misspelt(*arguments: Any) -> dict[str, Any]:
        body = original(*arguments)
        body["properties"]["disks"][0]["autoDelet"] = True
        return body

    monkeypatch.setattr(specs, "template_body", misspelt)
    with pytest.raises(AssertionError, match="autoDelet"), watching(monkeypatch):
        async with world(tmp_path) as w:
            await w.pass_time(30)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ({"kind": "compute#operation", "status": "FINISHED"}, "FINISHED"),
        ({"id": 12}, "id"),
        ({"targetId": "twelve"}, "twelve"),
        ({"progress": "100"}, "progress"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_answer_that_google_would_not_give_is_caught(answer: dict[str, Any], word: str) -> None:
    """A wrong enum, wrong types, an unknown field."""
    problems = check_response("compute.v1", "compute.zoneOperations.get", answer)
    assert word in " ".join(problems)
