"""Which machines or groups somebody means: `template=linux,state=stopped,age>2h`. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from gce_backend.base.dates import length_of_time
from gce_backend.rules.states import GroupState, State

MAX_SELECTOR = 1000
"""Longest selector, in characters."""
LEASES = {"yes": True, "no": False}
MACHINE_KEYS = ("template", "zone", "state", "age", "lease")
GROUP_KEYS = ("template", "zone", "state")
TEMPLATE_KEYS = ("template", "state")
SYNTAX = (
    "write terms such as template=linux-small, zone!=us-central1-a, state=stopped, age>2h, "
    "lease=no, separated by commas; several values of one key mean any of them"
)
_TERM = re.compile(r"(?P<key>[a-z]+)(?P<sign>!=|=|<|>)(?P<value>[^,=<>!]+)")
_STATES = frozenset({*(state.value for state in State), *(state.value for state in GroupState)})


class Candidate(NamedTuple):
    """What a selector looks at.

    Attributes:
        template: the base_name.
        zone: "" for what is in none.
        state: in the words of `rules.states`.
        age: seconds since it was made; None when that is not known.
        leased: whether somebody holds it.
    """

    template: str
    zone: str = ""
    state: str = ""
    age: float | None = None
    leased: bool = False


class Selector(NamedTuple):
    """What all of them must fulfil; an empty one means all.

    Attributes:
        wanted: for each key, values of which one must hold.
        unwanted: for each key, values of which none may hold.
        older: seconds that the age must exceed.
        younger: seconds below which the age must be.
    """

    wanted: tuple[tuple[str, frozenset[str]], ...] = ()
    unwanted: tuple[tuple[str, frozenset[str]], ...] = ()
    older: float | None = None
    younger: float | None = None

    def matches(self, one: Candidate) -> bool:
        """Whether all terms hold; of an unknown age none holds."""
        told = {
            "template": one.template,
            "zone": one.zone,
            "state": one.state,
            "lease": "yes" if one.leased else "no",
        }
        return (
            all(told[key] in values for key, values in self.wanted)
            and not any(told[key] in values for key, values in self.unwanted)
            and (self.older is None or (one.age is not None and one.age > self.older))
            and (self.younger is None or (one.age is not None and one.age < self.younger))
        )


def parse_selector(text: str, keys: Collection[str] = MACHINE_KEYS) -> Selector:
    """A selector from its text.

    Args:
        keys: those that it may use.

    Raises:
        ValueError: it cannot be understood; says what would be.
    """
    if len(text) > MAX_SELECTOR:
        raise ValueError(f"is longer than {MAX_SELECTOR} characters")
    wanted: dict[str, set[str]] = {}
    unwanted: dict[str, set[str]] = {}
    ages: dict[str, float] = {}
    for term in filter(None, (part.strip() for part in text.split(","))):
        found = _TERM.fullmatch(term)
        if found is None:
            raise ValueError(f"{term!r} is no term of a selector: {SYNTAX}")
        key, sign, value = found["key"], found["sign"], found["value"].strip()
        _check(term, key, sign, value, keys)
        if key == "age":
            ages[sign] = length_of_time(value) or 0.0
        else:
            (wanted if sign == "=" else unwanted).setdefault(key, set()).add(value)
    return Selector(_frozen(wanted), _frozen(unwanted), ages.get(">"), ages.get("<"))


def _check(term: str, key: str, sign: str, value: str, keys: Collection[str]) -> None:
    """Checks one term.

    Raises:
        ValueError: it cannot be understood.
    """
    if key not in keys:
        raise ValueError(f"{term!r}: the keys are {', '.join(keys)}")
    if (key == "age") != (sign in {"<", ">"}):
        right = "age>2h or age<30m" if key == "age" else f"{key}={value}"
        raise ValueError(f"{term!r}: write {right}")
    if key == "age" and length_of_time(value) is None:
        raise ValueError(f"{term!r}: {value!r} is no duration; write e.g. 90s, 15m, 2h, 1d")
    known: Iterable[str] = {"state": sorted(_STATES), "lease": LEASES}.get(key, (value,))
    if value not in known:
        raise ValueError(f"{term!r}: {key} is one of {', '.join(known)}")


def _frozen(values: dict[str, set[str]]) -> tuple[tuple[str, frozenset[str]], ...]:
    return tuple((key, frozenset(found)) for key, found in sorted(values.items()))
