"""A sample of what `make fuzz` does by the hundred thousand."""

from __future__ import annotations

from pathlib import Path
from random import Random

from fuzz.__main__ import Findings, configurations, requests
from support.referee import Referee


def test_a_spoiled_configuration_is_taken_or_refused_and_nothing_else() -> None:
    """By the errors of this project alone."""
    findings = Findings()
    configurations(findings, 300, Random(7))
    assert findings.foreign == {}
    assert findings.outcomes["configurations"].keys() == {"taken", "refused"}


async def test_a_spoiled_request_is_no_error_of_the_servers(
    tmp_path: Path, referee: Referee
) -> None:
    """Of the embedded cloud and of the daemon; no answer holds a token."""
    referee.expect(r"^(?!.*: response)")  # what is sent is not as Google describes it
    findings = Findings()
    await requests(findings, 300, Random(7), tmp_path)
    assert findings.server_errors == {}
    assert findings.tokens == []
    assert findings.tried["requests"] == 300
