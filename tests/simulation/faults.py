"""What happens to calls on their way, and what the embedded cloud's own faults count for."""

from __future__ import annotations

import functools
import random
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable

from gce_backend.localcloud.cloud import Cloud
from gce_backend.localcloud.faults import Fault
from simulation.network import Fate, Request, Verdict

KEPT_ANSWERS = 6
"""Answers to the same request that are remembered, so that an old one can be given again."""
_SUBJECT = re.compile(r"/(?:instances|instanceGroupManagers)/([^/?]+)")
_INSERT = re.compile(r"/zones/([^/]+)/instanceGroupManagers(?:\?|$)")
_INSERT_TEMPLATE = re.compile(r"/global/instanceTemplates(?:\?|$)")
_GROUP = re.compile(r"/zones/([^/]+)/instanceGroupManagers/([^/?]+)")
_NAME = re.compile(rb'"name": ?"([^"]+)"')
PROCESSES = ("d", "m")
"""How the names of daemons, and of the Machine Provider's processes, begin."""
STRANGER = "d9"
"""The daemon with a store of its own."""
_NAMES = re.compile(rb'"hostname": ?"([^"]+)"')


class Rule:
    """One disturbance of the network.

    Attributes:
        fate: what happens.
        where: matches `VERB path`.
        rows: the rows of safety.md that it is.
        left: how often it still strikes.
        seconds: how late, from and to.
        client: whose calls; "" is every daemon's.
        struck: called when it strikes, with the request.
    """

    def __init__(
        self,
        fate: Fate,
        where: str,
        rows: tuple[int, ...],
        *,
        times: int,
        chance: random.Random,
        seconds: tuple[float, float] = (0.0, 0.0),
        struck: Callable[[Request], None] | None = None,
    ) -> None:
        self.fate: Fate = fate
        self.where = re.compile(where)
        self.rows = rows
        self.left = times
        self.chance = chance
        self.seconds = seconds
        self.struck = struck


class Disturbances:
    """All that is wrong with the network and the cloud now.

    Args:
        cloud: the embedded cloud.
        note: told of each strike.
        time: simulated seconds.

    Attributes:
        fired: how often each row of safety.md was met.
        asked: told of each call of a daemon that is about one VM or group.
        sent: told of each request of a daemon.
        made_elsewhere: zone and name of the groups that a daemon with another store has made.
        trespassed: told of a change by that daemon to a group that it has not made.
        late_additions: when a late add_machines reaches the Machine Provider, by host name.
        late_deletions: when the late deletion of a group was sent, by the group's zone and name.
        late_growths: when a late call that makes VMs was sent, by their names, or by the zone and
            name of the group that it makes.
        late_calls: when the late calls to Compute Engine reach it.
        templates_elsewhere: the templates that a daemon with another store has made.
    """

    def __init__(
        self, cloud: Cloud, note: Callable[[str], None], time: Callable[[], float]
    ) -> None:
        self.fired: Counter[int] = Counter()
        self.made_elsewhere: set[tuple[str, str]] = set()
        self.late_additions: dict[str, float] = {}
        self.late_deletions: dict[str, float] = {}
        self.late_growths: dict[str, float] = {}
        self.late_calls: list[float] = []
        self.templates_elsewhere: set[str] = set()
        self.asked: Callable[[str], None] = lambda _: None
        self.sent: Callable[[Request], None] = lambda _: None
        self.trespassed: Callable[[str], None] = lambda _: None
        self._cloud = cloud
        self._note = note
        self._time = time
        self._rules: list[Rule] = []
        self._injected: list[tuple[Fault, tuple[int, ...]]] = []
        self._answers: defaultdict[str, deque[bytes]] = defaultdict(
            lambda: deque(maxlen=KEPT_ANSWERS)
        )

    def add(self, rule: Rule) -> None:
        """Puts a rule in force."""
        self._rules.append(rule)

    def inject(self, fault: Fault, rows: tuple[int, ...]) -> None:
        """Puts a fault of the embedded cloud in force."""
        self._injected.append((fault, rows))
        self._cloud.faults.add(fault)

    def end(self, fault: Fault) -> None:
        """Ends a fault of the embedded cloud."""
        if fault in self._cloud.faults.injected:
            self._cloud.faults.injected.remove(fault)

    def met(self, *rows: int, times: int = 1) -> None:
        """These rows have fired."""
        for row in rows:
            self.fired[row] += times

    def clear(self) -> None:
        """Ends everything."""
        self._rules.clear()
        self._cloud.faults.clear()

    @property
    def is_quiet_now(self) -> bool:
        """Whether nothing is wrong with calls at this moment."""
        rules = any(rule.left > 0 for rule in self._rules)
        return not rules and not self._cloud.faults.injected

    def strikes(self) -> int:
        """How often anything has struck until now, but for the embedded cloud's faults."""
        return self.fired.total()

    def is_alone(self, fault: Fault | None) -> bool:
        """Whether no fault of the embedded cloud, or no other one, is in force."""
        return all(one is fault for one in self._cloud.faults.injected)

    def settle(self) -> Counter[int]:
        """All counts, with those of the embedded cloud's faults."""
        for fault, rows in self._injected:
            self.met(*rows, times=fault.fired)
        self._injected.clear()
        return self.fired

    # What the network asks

    def is_quiet(self, request: Request) -> bool:
        """Whether no rule strikes a request."""
        if self._rules and request.client.startswith(PROCESSES) and self._rule(request):
            return False
        self._count(request)
        return True

    def verdict(self, request: Request) -> Verdict | None:
        """What happens to a request."""
        self._count(request)
        rule = self._rule(request) if request.client.startswith(PROCESSES) else None
        if rule is None:
            return None
        rule.left -= 1
        seconds = rule.chance.uniform(*rule.seconds)
        return Verdict(rule.fate, seconds, functools.partial(self._strike, rule, request, seconds))

    def _count(self, request: Request) -> None:
        if not request.client.startswith("d"):
            return
        self.sent(request)
        subject = _SUBJECT.search(request.path)
        if subject is not None:
            self.asked(subject[1])

    def _rule(self, request: Request) -> Rule | None:
        """The first rule that strikes a request."""
        self._rules[:] = [rule for rule in self._rules if rule.left > 0]
        text = f"{request.verb} {request.path}"
        for rule in self._rules:
            if rule.where.search(text) and (
                rule.fate != "stale" or self._answers.get(self._key(request))
            ):
                return rule
        return None

    def _strike(self, rule: Rule, request: Request, seconds: float) -> None:
        self.met(*rule.rows)
        late = f" by {seconds:.1f} s" if seconds else ""
        self._note(f"net {rule.fate}{late}: {request.client} {_short(request)}")
        if rule.fate in {"late", "repeat"}:
            self._note_late(request, self._time() + seconds)
        if rule.struck is not None:
            rule.struck(request)

    def _note_late(self, request: Request, arrival: float) -> None:
        if "/compute/" in request.path:
            self.late_calls.append(arrival)
        if "add_machines" in request.path:
            for name in _NAMES.findall(request.raw):
                self.late_additions[name.decode()] = arrival
        group, insert = _GROUP.search(request.path), _INSERT.search(request.path)
        if request.verb == "DELETE" and group is not None:
            self.late_deletions.setdefault(f"{group[1]}/{group[2]}", self._time())
        if request.verb == "POST" and insert is not None:
            for name in _NAME.findall(request.raw)[:1]:
                self.late_growths.setdefault(f"{insert[1]}/{name.decode()}", self._time())
        if "/createInstances" in request.path:
            for name in _NAME.findall(request.raw):
                self.late_growths.setdefault(name.decode(), self._time())

    @staticmethod
    def _key(request: Request) -> str:
        body = request.raw.partition(b"\r\n\r\n")[2]
        return f"{request.verb} {request.path} {body!r}"

    def answered(self, request: Request, answer: Callable[[], bytes]) -> None:
        """Remembers answers that may be given again."""
        if "delete_machine" in request.path and b'"LEASED"' in answer():
            self.met(32)
        if request.verb == "POST" and (insert := _INSERT.search(request.path)):
            self._made(request, insert[1], answer())
        if request.client == STRANGER and _INSERT_TEMPLATE.search(request.path):
            self.templates_elsewhere.update(n.decode() for n in _NAME.findall(request.raw)[:1])
        if request.client == STRANGER and request.verb != "GET":
            group = _GROUP.search(request.path)
            theirs = group is None or (group[1], group[2]) in self.made_elsewhere
            reads = "/listManagedInstances" in request.path
            if group is not None and not theirs and not reads and _is_success(answer()):
                self.trespassed(group[2])
        if "/instanceGroupManagers" in request.path or "catalog/v1/get" in request.path:
            raw = answer()
            if _is_success(raw):
                self._answers[self._key(request)].append(raw)

    def _made(self, request: Request, zone: str, answer: bytes) -> None:
        name = _NAME.search(request.raw)
        if name is not None and _is_success(answer):
            change = self.made_elsewhere.add if request.client == STRANGER else None
            (change or self.made_elsewhere.discard)((zone, name[1].decode()))

    def earlier(self, request: Request) -> bytes | None:
        """The oldest answer to the same request that is remembered."""
        found = self._answers.get(self._key(request))
        return found[0] if found else None


def _is_success(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200")


def _short(request: Request) -> str:
    path = request.path.partition("?")[0]
    return f"{request.verb} {path.removeprefix('/compute/v1/projects/local-project')}"
