"""Names at Compute: short enough, unique, and the same every time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.configuration.naming import (
    MAX_BASE_INSTANCE_NAME_LENGTH,
    MAX_BASE_NAME_LENGTH,
    MAX_SHORT_ZONE_LENGTH,
    base_instance_name,
    group_name,
    short_zone,
    template_name,
)

CHECKSUM = "1f0c93aa" + "0" * 32
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
AREAS = ("africa", "asia", "australia", "europe", "me", "northamerica", "southamerica", "us")
SIDES = (
    *("north", "south", "east", "west", "central"),
    *("northeast", "northwest", "southeast", "southwest"),
)


def test_names_are_readable() -> None:
    """Base name, short checksum, short zone."""
    assert template_name("linux", CHECKSUM) == "linux-1f0c93aa"
    assert group_name("linux", CHECKSUM, "us-central1-a") == "linux-1f0c93aa-usc1a"
    assert base_instance_name("linux", CHECKSUM, "us-central1-a") == "linux-1f0c93aa-usc1a"


@pytest.mark.parametrize(
    ("zone", "short"),
    [
        ("us-central1-a", "usc1a"),
        ("northamerica-northeast1-b", "nane1b"),
        ("asia-southeast2-c", "asse2c"),
        ("asia-south1-a", "ass1a"),
        ("australia-southeast1-a", "ause1a"),
        ("us-south1-ai1b", "uss1ai1b"),
    ],
)
def test_short_zone_shows_area_direction_number_and_letter(zone: str, short: str) -> None:
    """People recognize the zone in a VM's name."""
    assert short_zone(zone) == short


def test_no_two_zones_share_a_short_form() -> None:
    """Host names are unique over zones in all areas, also in those still to come."""
    zones = [
        f"{area}-{side}{number}-{letter}"
        for area in (*AREAS, "mars", "antarctica")
        for side in SIDES
        for number in range(1, 16)
        for letter in ("a", "b", "f", "ai1a")
    ]
    shorts = {short_zone(zone) for zone in zones}
    assert len(shorts) == len(zones)
    assert all(len(short) <= MAX_SHORT_ZONE_LENGTH for short in shorts)


@given(zone=st.from_regex(r"[a-z]{1,14}-[a-z]{1,14}[0-9]{1,3}-[a-z][a-z0-9]{0,9}", fullmatch=True))
def test_longest_base_name_fits_in_every_zone(zone: str) -> None:
    """A base name that validation accepts makes names that Compute accepts."""
    base = "b" * MAX_BASE_NAME_LENGTH
    instance = base_instance_name(base, CHECKSUM, zone)
    assert len(instance) <= MAX_BASE_INSTANCE_NAME_LENGTH
    for name in (template_name(base, CHECKSUM), group_name(base, CHECKSUM, zone), instance):
        assert len(name) <= 63  # RFC 1035
        assert NAME.fullmatch(name)
