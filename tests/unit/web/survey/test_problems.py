"""web.survey.problems: a list that stays short."""

from __future__ import annotations

from gce_backend.web.survey.problems import MAX_ALIKE, FleetProblem, Severity, bounded


def _problem(number: int, **fields: object) -> FleetProblem:
    known = {"severity": Severity.WARNING, "kind": "machine", "reason": "Missing", "count": 2}
    told = {"subject": f"place {number}", "message": f"why {number}", "since": 100.0 + number}
    return FleetProblem(**{**known, **told, **fields})  # type: ignore[arg-type]  # of a test


def test_of_many_alike_the_first_are_shown_and_the_others_summed_up() -> None:
    """Other reasons, kinds and severities count apart; the order stays."""
    many = [_problem(number, retry_at=500.0 - number) for number in range(MAX_ALIKE + 10)]
    stopped = _problem(0, reason="Stopped")
    critical = _problem(0, severity=Severity.CRITICAL)
    found = bounded([critical, *many, stopped])
    assert found[0] == critical
    assert found[1 : MAX_ALIKE + 1] == many[:MAX_ALIKE]
    rest, last = found[MAX_ALIKE + 1 :]
    assert last == stopped
    assert rest.subject == "10 others"
    assert rest.count == 20
    assert rest.examples == tuple(f"place {MAX_ALIKE + number}" for number in range(5))
    assert rest.since == 100.0 + MAX_ALIKE
    assert rest.retry_at == 500.0 - MAX_ALIKE - 9
    assert "10 others" in rest.message
    assert f"why {MAX_ALIKE}" in rest.message


def test_one_more_than_are_shown_is_shown_as_it_is() -> None:
    """A sum of one would say less in as many lines."""
    many = [_problem(number) for number in range(MAX_ALIKE + 1)]
    assert bounded(many) == many
