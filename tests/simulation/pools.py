"""What the configuration says in a simulated world: pools of machines, whose fields chance draws.

Each field of our own in the .proto is in `DRAWN`, or in `NOT_DRAWN` with the reason, which a test
compares with the descriptor. Sizes are relative to the minimum, so that whatever changes a pool
leaves a valid one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from support.fleet_harness import manager, template

ZONES = ("us-central1-a", "europe-west1-b")
TYPES = ("e2-small", "e2-medium", "e2-standard-2")
ALTERNATIVES: Final = {"e2-standard-2": ("n2-standard-2", "n1-standard-2")}
"""Machine types of the same size, by type."""
FAMILY = "debian-12"
OLD_SECONDS = 1800.0
"""How long a configuration may be in force after another one was written."""
DAY_MINUTES = 24 * 60

ONLY_THE_BODY = "it is a part of the VM's body, and changes nothing else"
NOT_DRAWN: Final = {
    "InstanceTemplate": {
        "boot_snapshot_name": ONLY_THE_BODY,
        "require_agent": "no agents run on simulated VMs: nothing would be leasable",
        "local_ssds": ONLY_THE_BODY,
        "guest_accelerators": ONLY_THE_BODY,
        "secure_boot": ONLY_THE_BODY,
        "confidential_type": ONLY_THE_BODY,
        "reservation": ONLY_THE_BODY,
        "resource_policies": ONLY_THE_BODY,
        "additional_disks": ONLY_THE_BODY,
    },
    "InstanceGroupManager": {},
    "Schedule": {},
}
"""The fields that chance leaves alone, and why, by message."""


class Timetable(msgspec.Struct, frozen=True):
    """Other sizes at a time of the day.

    Attributes:
        start: when it begins, in minutes of the day.
        minutes: how long it lasts.
        time_zone: whose day.
        more: by how much the minimum is higher.
        headroom: by how much the maximum is higher than that; None as at other times.
        spare: machines kept free; None as at other times.
        weekdays: whether it is named for each day of the week, which is the same as for none.
    """

    start: int
    minutes: int
    time_zone: str
    more: int
    headroom: int | None = None
    spare: int | None = None
    weekdays: bool = False

    def is_in_force(self, now: float) -> bool:
        """Whether it decides at a time, Unix seconds."""
        local = datetime.fromtimestamp(now, ZoneInfo(self.time_zone))
        for days in (0, 1):
            day = (local - timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
            begun = day + timedelta(minutes=self.start)
            if begun <= local < begun + timedelta(minutes=self.minutes):
                return True
        return False

    def text(self, minimum: int, maximum: int | None) -> str:
        """Its text in a manager of this minimum and maximum."""
        end = (self.start + self.minutes) % DAY_MINUTES
        values = {"minimum_size": minimum + self.more, "spare_size": self.spare}
        if maximum is not None:
            values["maximum_size"] = minimum + self.more + (self.headroom or 0)
        sizes = " ".join(f"{name}: {value}" for name, value in values.items() if value is not None)
        days = "days: [MON, TUE, WED, THU, FRI, SAT, SUN] " if self.weekdays else ""
        times = f'start: "{_clock(self.start)}" end: "{_clock(end)}"'
        return f'schedules {{ {days}{times} time_zone: "{self.time_zone}" {sizes} }}'


class Sizes(msgspec.Struct, frozen=True):
    """What a group is to have: VMs at least and at most (None: no limit), and VMs free."""

    minimum: int
    maximum: int | None
    spare: int | None

    def needed(self, leased: int) -> int:
        """How many VMs it needs with so many leased."""
        if self.maximum is None:
            return self.minimum
        spare = -(-leased // 10) if self.spare is None else self.spare
        return min(max(self.minimum, leased + spare), self.maximum)

    def wanted(self, leased: int, beside: int) -> int:
        """How many VMs that nobody holds there are to be.

        Args:
            leased: VMs of the present revision that somebody holds.
            beside: VMs of earlier revisions that somebody holds.
        """
        needed = self.needed(leased)
        if self.maximum is not None:
            needed = min(needed, self.maximum - beside)
        return max(0, needed - leased)


class Pool(msgspec.Struct):
    """What a template's configuration says.

    Attributes:
        machine_type: of its VMs.
        zones: the minimum in each zone.
        flavor: a dimension that the Machine Provider refuses; "" for none.
        headroom: by how much a maximum is higher than its minimum; None for no maximum.
        together: whether its zones share the sizes.
        spare: machines kept free; None as the default.
        fields: other fields of its managers.
        schedules: other sizes at times.
        marks: other fields of the template.
        lines: more lines of the template.
    """

    machine_type: str
    zones: dict[str, int]
    flavor: str = ""
    headroom: int | None = None
    together: bool = False
    spare: int | None = None
    fields: dict[str, int] = {}
    schedules: tuple[Timetable, ...] = ()
    marks: dict[str, Any] = {}
    lines: str = ""

    def parts(self) -> Iterator[tuple[tuple[str, ...], int]]:
        """The zones of each of its managers, and its minimum."""
        if self.together and len(self.zones) > 1:
            yield tuple(self.zones), sum(self.zones.values())
            return
        for zone, minimum in self.zones.items():
            yield (zone,), minimum

    def sizes(self, minimum: int, now: float) -> Sizes:
        """The sizes in force of a manager with this minimum, at a time in Unix seconds."""
        maximum = None if self.headroom is None else minimum + self.headroom
        plain = Sizes(minimum, maximum, self.spare)
        for timetable in reversed(self.schedules):
            if timetable.is_in_force(now):
                low = minimum + timetable.more
                high = None if maximum is None else low + (timetable.headroom or 0)
                return Sizes(low, high, self.spare if timetable.spare is None else timetable.spare)
        return plain

    def most(self, minimum: int) -> int | None:
        """The largest maximum of a manager at any time; None for no limit."""
        if self.headroom is None:
            return None
        later = (one.more + (one.headroom or 0) for one in self.schedules)
        return minimum + max(self.headroom, *later, 0)

    def is_described_by(self, properties: dict[str, Any]) -> bool:
        """Whether a template of these properties may be of the present revision.

        By what chance draws; an image of the same family may be an earlier one.
        """
        known = ALTERNATIVES.get(self.machine_type, ())
        kinds = self.machine_type, *known[: self.marks.get("alternative_machine_types", 0)]
        model = properties.get("scheduling", {}).get("provisioningModel") or "STANDARD"
        label = self.marks.get("labels", "").partition(":")
        return (
            properties["machineType"] in kinds
            and model == self.marks.get("provisioning_model", "STANDARD")
            and properties.get("labels", {}).get("team", "") == label[2]
        )

    def texts(self, name: str) -> tuple[str, str]:
        """The template's text, and its managers'."""
        text = template(name, machine_type=self.machine_type).removesuffix("}\n")
        if self.marks.get("image_family"):
            text = text.replace('  image_name: "debian-12"\n', "")
        if self.flavor:
            text += f'  dimensions: "linux_flavor:{self.flavor}"\n'
        alternatives = ALTERNATIVES.get(self.machine_type, ())
        for field, value in self.marks.items():
            values = alternatives[:value] if field == "alternative_machine_types" else (value,)
            text += "".join(f"  {field}: {msgspec.json.encode(one).decode()}\n" for one in values)
        managers = ""
        for zones, minimum in self.parts():
            managers += self._manager(name, zones, minimum)
        return f"{text}{self.lines}}}\n", managers

    def _manager(self, name: str, zones: tuple[str, ...], minimum: int) -> str:
        maximum = None if self.headroom is None else minimum + self.headroom
        fields = dict(self.fields)
        if self.spare is not None and maximum is not None:
            fields["spare_size"] = self.spare
        text = manager(name, zones[0], minimum, maximum, **fields)
        if len(zones) > 1:
            named = " ".join(f'zones: "{zone}"' for zone in zones)
            text = text.replace(f'zone: "{zones[0]}"', named)
        schedules = " ".join(one.text(minimum, maximum) for one in self.schedules)
        return text.removesuffix("}\n") + f"{schedules} }}\n"


TOGETHER = ""
"""In place of a zone: all zones that share the sizes."""


class Maxima:
    """Which maximum each zone has, or all together, and had until lately."""

    def __init__(self) -> None:
        self._noted: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def note(self, name: str, pool: Pool, at: float) -> None:
        """A pool is configured so from this simulated second on."""
        limits = {TOGETHER: float("inf")}
        for zones, minimum in pool.parts():
            most = pool.most(minimum)
            limit = float("inf") if most is None else float(most)
            if len(zones) > 1:  # how many are in one of the zones is not said
                limits |= {TOGETHER: limit} | dict.fromkeys(zones, float("inf"))
            else:
                limits[zones[0]] = limit
        for zone, limit in limits.items():
            self._noted.setdefault((name, zone), []).append((at, limit))

    def restored(self, backup: float, at: float) -> None:
        """The store is put back to what it was at a simulated second: so is the configuration."""
        for (name, zone), noted in self._noted.items():
            if noted[-1][0] > backup:
                noted += [(at, self.limit(name, zone, backup)), (at, noted[-1][1])]

    def limit(self, name: str, zone: str, now: float) -> float:
        """The largest maximum that may be in force; infinity for none.

        Args:
            zone: a zone, or TOGETHER.
        """
        noted, before = self._noted.get((name, zone), []), now - OLD_SECONDS
        old = [limit for at, limit in noted if at <= before][-1:]
        return max([*old, *(limit for at, limit in noted if at > before)], default=float("inf"))


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def owner_of(name: str, pools: dict[str, Pool]) -> str:
    """The pool of a VM of this name, or of its alternatives; "" for none."""
    base = name.rsplit("-", 3)[0]
    return next((pool for pool in pools if base == pool or base.startswith(f"{pool}-")), "")


def draw(pool: Pool, rng: random.Random, now: float) -> str:
    """Draws fields of a pool anew, and says which; the others are not set."""
    pool.headroom = rng.choice((None, 0, 1, 3, 8))
    pool.together = rng.random() < 0.3
    pool.spare = None if pool.headroom is None else rng.choice((None, None, 0, 1, 2))
    pool.fields = _drawn(
        rng,
        {
            "max_age_seconds": (600, 1800, 7200),
            "boot_seconds": (-1, 120, 600),
            "surplus_seconds": (-1, 0, 60, 900),
            "max_surge": (0, 1, 3),
            "max_unavailable": (1, 2),
        },
    )
    if pool.fields.get("max_surge") == 0:
        pool.fields.setdefault("max_unavailable", 1)
    pool.schedules = tuple(_timetable(pool, rng, now) for _ in range(rng.choice((0, 0, 1, 1, 2))))
    pool.marks = _drawn(
        rng,
        {
            "provisioning_model": ("SPOT", "STANDARD"),
            "canary": (0, 1, 2),
            "alternative_machine_types": (1, 2),
            "labels": ("team:infra", "team:ci"),
            "image_family": (FAMILY,),
        },
    )
    return str(msgspec.to_builtins(pool))


DRAWN: Final = {
    "InstanceTemplate": {
        "provisioning_model",
        "canary",
        "alternative_machine_types",
        "labels",
        "image_family",
    },
    "InstanceGroupManager": {
        "minimum_size",
        "maximum_size",
        "zone",
        "spare_size",
        "surplus_seconds",
        "schedules",
        "zones",
        "max_surge",
        "max_unavailable",
        "max_age_seconds",
        "boot_seconds",
    },
    "Schedule": {
        "days",
        "start",
        "end",
        "time_zone",
        "minimum_size",
        "maximum_size",
        "spare_size",
    },
}
"""What `draw` draws, by message."""


def _drawn(rng: random.Random, choices: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    names = rng.sample(sorted(choices), rng.randint(0, 3))
    return {name: rng.choice(choices[name]) for name in names}


def _timetable(pool: Pool, rng: random.Random, now: float) -> Timetable:
    """One that begins or ends soon, or lasts for almost the whole day."""
    zone = rng.choice(("UTC", "Europe/Zurich", "America/New_York"))
    local = datetime.fromtimestamp(now, ZoneInfo(zone))
    present = local.hour * 60 + local.minute
    limited = pool.headroom is not None
    return Timetable(
        start=(present + rng.randint(-120, 60)) % DAY_MINUTES,
        minutes=rng.choice((10, 60, 180, 1439)),
        time_zone=zone,
        more=rng.randint(0, 3),
        headroom=rng.randint(0, 4) if limited else None,
        spare=rng.choice((None, 0, 2)) if limited else None,
        weekdays=rng.random() < 0.3,
    )
