"""rules.ownership: whose a resource at Compute is."""

from __future__ import annotations

import random
import re

import pytest

from gce_backend.model.keys import revision_key
from gce_backend.rules.ownership import (
    Mark,
    Whose,
    description_of,
    is_meant,
    mark_of,
    mark_of_labels,
    may_be_ours,
    name_taken,
    new_store_id,
    replaced,
    whose,
)

REVISION = revision_key("linux", "0123456789abcdef" * 2 + "01234567")
OURS = Mark("me", "0123456789ab")


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (description_of(OURS, REVISION), Whose.OURS),
        (description_of(Mark("me"), REVISION), Whose.UNMARKED),
        (description_of(Mark("me", "ba9876543210"), REVISION), Whose.ANOTHERS),
        (description_of(Mark("you", OURS.store), REVISION), Whose.ANOTHERS),
        (description_of(Mark("you"), REVISION), Whose.ANOTHERS),
        (description_of(OURS, revision_key("linux", "f" * 40)), Whose.FOREIGN),
        (description_of(OURS, revision_key("other", REVISION.checksum)), Whose.FOREIGN),
        (f"{description_of(OURS, REVISION)} and more", Whose.FOREIGN),
        ("a group of mine", Whose.FOREIGN),
        ("", Whose.FOREIGN),
    ],
)
def test_a_description_says_whose_a_resource_is(description: str, expected: Whose) -> None:
    """Owner, store and revision all count; an earlier release named no store."""
    assert whose(description, OURS, REVISION) is expected


def test_a_daemon_that_does_not_know_its_store_takes_nothing_that_names_one() -> None:
    """Its entity is corrupt: what names a store may be another's."""
    unsure = Mark("me")
    assert whose(description_of(OURS, REVISION), unsure, REVISION) is Whose.ANOTHERS
    assert not may_be_ours(OURS, unsure)


def test_marks_are_read_back() -> None:
    """From descriptions and from labels, with and without a store."""
    for mark in (OURS, Mark("me")):
        assert mark_of(description_of(mark, REVISION)) == mark
    assert mark_of("gce-backend owner=me") is None
    labels = {"gce-backend-owner": "me", "gce-backend-store": "0123456789ab", "x": "y"}
    assert mark_of_labels(labels) == OURS
    assert mark_of_labels({"gce-backend-owner": "me"}) == Mark("me")
    assert mark_of_labels({"gce-backend-store": "0123456789ab"}) is None


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        (OURS, True),
        (Mark("me"), True),
        (Mark("me", "ba9876543210"), False),
        (Mark("you"), False),
        (None, False),
    ],
)
def test_only_what_nobody_else_marked_is_ours_to_report(mark: Mark | None, expected: bool) -> None:
    """What is another daemon's is never called unmanaged."""
    assert may_be_ours(mark, OURS) is expected


@pytest.mark.parametrize(
    ("found", "known", "description", "expected"),
    [
        (7, 7, "somebody's", True),
        (7, 7, description_of(Mark("me", "ba9876543210"), REVISION), True),
        (8, 7, description_of(OURS, REVISION), False),
        (7, None, description_of(OURS, REVISION), True),
        (7, None, description_of(Mark("me"), REVISION), True),
        (7, None, description_of(Mark("formerly-me"), REVISION), True),
        (7, None, description_of(Mark("me", "ba9876543210"), REVISION), False),
        (7, None, description_of(Mark("me"), revision_key("linux", "f" * 40)), False),
        (7, None, "somebody's", False),
    ],
)
def test_a_stored_link_means_one_resource(
    found: int, known: int | None, description: str, expected: bool
) -> None:
    """Its numeric id decides; where an earlier release stored none, its description."""
    assert is_meant(found, description, known, OURS, REVISION) is expected


def test_what_has_taken_the_place_of_ours_is_told_with_both_ids() -> None:
    """And what becomes of it."""
    told = replaced("group g", 8, 7)
    assert "its id is 8, ours was 7" in told
    assert "Delete it if nobody needs it" in told
    assert "ours was" not in replaced("group g", 8, None)


def test_who_is_in_the_way_is_said_with_what_to_do() -> None:
    """Another daemon is named; what an earlier release made can be adopted."""
    other = description_of(Mark("me", "ba9876543210"), REVISION)
    assert "owner 'me', store 'ba9876543210'" in name_taken("group g", other, Whose.ANOTHERS)
    old = description_of(Mark("me"), REVISION)
    assert "`gce-backend adopt`" in name_taken("group g", old, Whose.UNMARKED)
    assert "delete it" in name_taken("group g", "mine", Whose.FOREIGN)


def test_ids_of_stores_are_short_and_fit_a_label() -> None:
    """Twelve hexadecimal digits, zeros in front included."""
    rng = random.Random(1)
    made = {new_store_id(rng) for _ in range(200)}
    assert len(made) == 200
    assert all(re.fullmatch(r"[0-9a-f]{12}", one) for one in made)
