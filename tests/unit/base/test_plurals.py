"""base.plurals: a number agrees with its noun."""

from __future__ import annotations

from gce_backend.base.plurals import plural


def test_only_one_is_singular() -> None:
    """Zero takes the plural, too."""
    assert [plural(n, "VM") for n in (0, 1, 2)] == ["0 VMs", "1 VM", "2 VMs"]
    assert [plural(n, "entity", "entities") for n in (1, 2)] == ["1 entity", "2 entities"]
