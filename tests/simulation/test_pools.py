"""The configurations that chance draws: valid, with every field and the sizes that they say."""

from __future__ import annotations

import random

import pytest

from gce_backend.configuration.alternatives import kinds_of
from gce_backend.configuration.parsing import parse
from gce_backend.configuration.proto import config_pb2
from gce_backend.model.keys import revision_key
from gce_backend.rules.compute_bodies import template_body
from gce_backend.rules.ownership import Mark
from simulation.chance import EPOCH
from simulation.pools import (
    DRAWN,
    NOT_DRAWN,
    OLD_SECONDS,
    TOGETHER,
    TYPES,
    ZONES,
    Maxima,
    Pool,
    Timetable,
    draw,
    owner_of,
)


@pytest.mark.parametrize("message", sorted(DRAWN))
def test_every_field_of_our_own_is_drawn_or_has_a_reason(message: str) -> None:
    """A field that is new in the .proto is neither, and fails here."""
    fields = config_pb2.DESCRIPTOR.message_types_by_name[message].fields
    own = {one.name for one in fields if one.number >= 100 or message == "Schedule"}
    assert own <= DRAWN[message] | NOT_DRAWN[message].keys()
    assert not DRAWN[message] & NOT_DRAWN[message].keys()
    assert {one.name for one in fields} >= DRAWN[message] | NOT_DRAWN[message].keys()
    assert all(NOT_DRAWN[message].values())


def test_what_is_drawn_is_valid_and_names_each_field() -> None:
    """A configuration that is refused would show nothing."""
    seen = ""
    for seed in range(120):
        rng = random.Random(f"pools {seed}")
        pool = Pool(rng.choice(TYPES), {zone: rng.randint(1, 9) for zone in ZONES})
        draw(pool, rng, EPOCH + rng.uniform(0, 3e6))
        texts = pool.texts("linux")
        found = parse(*texts, {})
        assert len(found.managers) == len(pool.zones)
        seen += "".join(texts)
    for names in DRAWN.values():
        assert [name for name in names if f"{name}:" not in seen and f"{name} {{" not in seen] == []


@pytest.mark.parametrize(
    ("timetable", "sizes"),
    [
        (Timetable(17 * 60 + 40, 10, "UTC", 2), (5, 6, 1)),
        (Timetable(17 * 60 + 40, 5, "UTC", 2), (3, 4, 1)),
        (Timetable(18 * 60, 1439, "UTC", 1, headroom=2, spare=0), (4, 6, 0)),
        (Timetable(18 * 60 + 40, 10, "Europe/Zurich", 0, spare=2), (3, 3, 2)),
    ],
)
def test_a_timetable_is_in_force_at_its_time(
    timetable: Timetable, sizes: tuple[int, int, int]
) -> None:
    """EPOCH is 17:46:40 in UTC, and 18:46:40 in Zurich."""
    pool = Pool(TYPES[0], {ZONES[0]: 3}, headroom=1, spare=1, schedules=(timetable,))
    found = pool.sizes(3, EPOCH)
    expected = (sizes[0], found.maximum, sizes[2])
    assert (found.minimum, found.maximum, found.spare) == expected
    assert pool.most(3) == max(4, 3 + timetable.more + (timetable.headroom or 0))


def test_the_largest_maximum_counts_that_may_be_in_force() -> None:
    """What was configured before counts for half an hour, also after a restore brings it back.

    Shared zones have no limit of one.
    """
    known, inf = Maxima(), float("inf")
    pool = Pool(TYPES[0], dict.fromkeys(ZONES, 3), headroom=4)
    assert known.limit("linux", ZONES[0], 0.0) == inf
    known.note("linux", pool, 0.0)
    pool.headroom = 1
    known.note("linux", pool, 100.0)
    for now, limit in ((50.0, 7.0), (100.0 + OLD_SECONDS - 1, 7.0), (100.0 + OLD_SECONDS, 4.0)):
        assert known.limit("linux", ZONES[0], now) == limit
    known.restored(50.0, 4000.0)
    for now, limit in ((4000.0, 7.0), (4000.0 + OLD_SECONDS, 4.0)):
        assert known.limit("linux", ZONES[0], now) == limit
    pool.together = True
    known.note("linux", pool, 9000.0)
    assert known.limit("linux", ZONES[0], 9000.0) == inf
    assert known.limit("linux", TOGETHER, 9000.0) == inf  # it was, until half an hour ago
    assert known.limit("linux", TOGETHER, 9000.0 + OLD_SECONDS) == 7.0


def test_a_vm_belongs_to_the_pool_of_its_template_or_of_an_alternative() -> None:
    """Its name begins with the template's."""
    pools = {name: Pool(TYPES[0], {}) for name in ("linux", "other")}
    for name in ("linux-74a47a08-euw1b-0s0l", "linux-n2-74a47a08-euw1b-0s0l"):
        assert owner_of(name, pools) == "linux"
    assert not owner_of("odd-74a47a08-euw1b-0s0l", pools)


def test_a_template_is_of_the_present_revision_by_what_is_drawn() -> None:
    """Machine type, alternatives, labels and Spot: each makes another revision."""
    for seed in range(40):
        rng = random.Random(f"described {seed}")
        pool = Pool(rng.choice(TYPES), {ZONES[0]: 3})
        draw(pool, rng, EPOCH)
        pool.marks.pop("image_family", None)
        other = Pool(TYPES[TYPES.index(pool.machine_type) - 1], {}, marks=pool.marks)
        is_spot = pool.marks.get("provisioning_model") == "SPOT"
        spot = "STANDARD" if is_spot else "SPOT"
        others = (
            other,
            Pool(pool.machine_type, {}, marks={**pool.marks, "provisioning_model": spot}),
            Pool(pool.machine_type, {}, marks={**pool.marks, "labels": "team:else"}),
        )
        (parsed,) = parse(*pool.texts("linux"), {}).templates
        for kind in kinds_of(parsed):
            key = revision_key(kind.template.base_name, kind.checksum)
            made = template_body(Mark("owner"), key, kind.template)["properties"]
            assert pool.is_described_by(made)
            assert not any(one.is_described_by(made) for one in others)
