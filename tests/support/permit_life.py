"""One machine, the decisions about it and the world around it: the model behind S1's tests.

One host name, through all the lives of its VMs. The model beside the entity knows what the daemon
does not: which VM there is, what the Machine Provider's catalog truly holds, and who holds what.

Use it for a property test of what may be destroyed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

from gce_backend.model.entities import CatalogState, Instance, Lease, Permit
from gce_backend.model.keys import manager_key
from gce_backend.model.observed import Member
from gce_backend.rules.cataloging import (
    added,
    adding,
    found_again,
    is_catalogable,
    may_be_cataloged,
    settles_in,
    uncataloged,
)
from gce_backend.rules.messages import Message, MessageKind, apply, is_about
from gce_backend.rules.orders import cordon, drain, uncordon, undrain
from gce_backend.rules.permits import (
    deleted,
    deleting,
    held,
    is_leaving,
    is_unknown,
    lease_runs,
    permit,
    revived,
)
from gce_backend.rules.sightings import is_lost, seen_instance, unseen_instance
from support.machines import at

KEY = manager_key("linux", "0" * 40, "zone").child("linux-1")
URL = "https://compute.googleapis.com/compute/v1/projects/p/zones/zone/instances/linux-1"
PATIENCE = 300.0
ANSWERS = ("now", "later", "lost")

Move: TypeAlias = tuple[int, Callable[[], None]]
"""How likely it is, and what it does."""


class Entry(NamedTuple):
    """What the catalog truly holds under the host name.

    Attributes:
        gce_id: the VM that was added.
        lease_end: the running lease's end in Unix seconds; None while it is available.
    """

    gce_id: int
    lease_end: float | None = None


class Life:
    """The decisions of all jobs about one name, in any order, and the world around them."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.vm: int | None = None
        self.born = 0
        self.entry: Entry | None = None
        self.entity: Instance | None = None
        self.active = True
        self.wrong_broker = False
        self.published: list[Message] = []
        self.delivered: set[int] = set()
        self.ever_cataloged: set[int] = set()
        self.reclaimed: set[int] = set()
        self.let_go: set[int] = set()
        self.adding: CatalogState | None = None
        self.add_in_flight = False
        self.late: tuple[int, float] | None = None
        self.removing: tuple[CatalogState, CatalogState] | None = None
        self.calls = 0
        self.destroyed: Counter[Permit] = Counter()

    def moves(self) -> list[Move]:
        """What may happen next."""
        return [*self._moves_of_the_world(), *self._news(), *self._moves_of_the_daemon()]

    def _moves_of_the_world(self) -> list[Move]:
        moves: list[Move] = [
            *((2, partial(self.time_passes, seconds)) for seconds in (1.0, 20.0, 400.0)),
            (1, partial(self.time_passes, 4000.0)),
            (2, self.the_broker_changes),
            (4, self.the_configuration_changes),
            (1, self.the_daemon_crashes),
        ]
        if self.entity is not None and not self.entity.is_tombstone:
            moves.append((2, self.an_operator_drains_it))
            if self.entity.deletion is None:
                moves.append((1, self.an_operator_keeps_it))
                moves.append((1, self.an_operator_cordons_it))
            if self.entity.cordon is not None:
                moves.append((4, self.an_operator_uncordons_it))
        if self._is_free() and not self.wrong_broker:
            moves.append((6, self.a_machine_is_made_and_cataloged))
        if self.vm is None:
            moves += [(2, partial(self.vm_appears, listed=listed)) for listed in (True, False)]
        else:
            moves.append((1, self.vm_vanishes))
        if self.entry is not None and self.entry.lease_end is None:
            moves.append((6, self.somebody_leases))
        elif self.entry is not None:
            moves.append((4, self.the_lease_ends))
        if self.late is not None and self.now <= self.late[1]:
            moves.append((6, self.the_addition_arrives_late))
        return moves

    def _news(self) -> list[Move]:
        last = len(self.published) - 1
        moves: list[Move] = [
            *((1, partial(self.the_group_is_listed, kind)) for kind in ("empty", "partial", "old")),
            (6, partial(self.the_group_is_listed, "true")),
        ]
        if self.published:
            moves.append((6, partial(self.a_message_comes, last)))
            moves += [(1, partial(self.a_message_comes, number)) for number in range(last)][-6:]
        return moves

    def _moves_of_the_daemon(self) -> list[Move]:
        entity, moves = self.entity, list[Move]()
        if self._is_catalogable():
            moves += [
                (2, partial(self.it_is_added, lands=lands, answer=answer))
                for lands in (True, False)
                for answer in ANSWERS
            ]
        if self.add_in_flight:
            moves.append((6, self.the_addition_is_answered))
        if self._is_removable():
            moves += [(4, partial(self.it_is_taken_out, answer)) for answer in ANSWERS]
        if self.removing is not None:
            moves.append((6, self.the_removal_is_answered))
        if entity is None:
            return moves
        if not entity.is_tombstone:
            moves += [
                (4, partial(self.it_is_deleted, happens=happens)) for happens in (True, False)
            ]
        else:
            moves.append((4, self.its_tombstone_s_time_is_over))
        under_way = entity.deletion is not None and entity.missing_since is not None
        if under_way and self.vm != entity.gce_id:
            moves.append((6, self.its_end_is_confirmed))
        return moves

    def check(self) -> None:
        """What holds at every moment."""
        self.what_is_being_deleted_is_never_offered()
        self.what_is_drained_is_never_offered()
        self.a_lease_that_is_known_keeps_the_machine()

    def a_machine_is_made_and_cataloged(self) -> None:
        """All goes well for once."""
        self.active = True
        self.vm_appears(listed=True)
        if self._is_catalogable():
            self.it_is_added(lands=True, answer="now")

    def _is_free(self) -> bool:
        nobody = self.entity is None or self.entity.is_tombstone
        return self.vm is None and nobody and not self.add_in_flight and self.removing is None

    # What the world does

    def time_passes(self, seconds: float) -> None:
        """Also past the end of a lease, of which the Machine Provider then makes an end."""
        self.now += seconds
        if self.entry and self.entry.lease_end is not None and self.entry.lease_end <= self.now:
            self._reclaim(self.entry)

    def vm_appears(self, *, listed: bool) -> None:
        """The group makes a VM; the name may have been another's before."""
        self.born += 1
        self.vm = self.born
        if listed:
            self.the_group_is_listed("true")

    def vm_vanishes(self) -> None:
        """Somebody else deletes it."""
        self.vm = None

    def somebody_leases(self) -> None:
        """The Machine Provider says so in a message, which comes when it comes."""
        assert self.entry is not None
        self.entry = self.entry._replace(lease_end=self.now + 3600)
        self._publish(MessageKind.LEASED, self.entry)

    def the_lease_ends(self) -> None:
        """It is released."""
        assert self.entry is not None
        self._reclaim(self.entry)

    def the_broker_changes(self) -> None:
        """To a wrong one, that knows no machine, or back."""
        self.wrong_broker = not self.wrong_broker

    def _reclaim(self, entry: Entry) -> None:
        self._publish(MessageKind.RECLAIMED, entry)
        self.reclaimed.add(entry.gce_id)
        self.entry = None

    def _publish(self, kind: MessageKind, entry: Entry) -> None:
        attributes = (
            {"lease_expiration_ts": str(entry.lease_end)} if kind is MessageKind.LEASED else {}
        )
        self.published.append(Message(kind, KEY, entry.gce_id, attributes))

    # What the daemon is told

    def a_message_comes(self, number: int) -> None:
        """Any of those ever sent: late, again, before an earlier one."""
        message = self.published[number]
        self.delivered.add(number)
        if self.entity is not None and is_about(message, self.entity):
            self.entity = apply(message, self.entity, "default", self.now)

    def the_group_is_listed(self, list_: str) -> None:
        """Truly; as empty; in part; or as it was before."""
        shown = {"true": self.vm, "old": self.born or None}.get(list_)
        if shown is not None:
            self.entity = seen_instance(self.entity, shown, URL, self.now)
        elif list_ != "partial" and self.entity is not None:
            self.entity = unseen_instance(self.entity, self.now)

    def the_configuration_changes(self) -> None:
        """It drains the manager, or names it again."""
        self.active = not self.active

    def an_operator_drains_it(self) -> None:
        """By hand, whatever the configuration says."""
        self.entity = drain(KEY, "", self.now)(self.entity)

    def an_operator_keeps_it(self) -> None:
        """On second thoughts."""
        self.entity = undrain(KEY)(self.entity)

    def an_operator_cordons_it(self) -> None:
        """By hand: its VM is kept."""
        self.entity = cordon(KEY, "", self.now)(self.entity)

    def an_operator_uncordons_it(self) -> None:
        """Having looked at it."""
        self.entity = uncordon(KEY)(self.entity)

    def the_daemon_crashes(self) -> None:
        """Answers that have not been stored are lost."""
        self.adding, self.add_in_flight, self.removing = None, False, None

    # What the daemon does

    def _is_catalogable(self) -> bool:
        if self.entity is None or self.add_in_flight or self.removing or not self.active:
            return False
        member = Member("linux-1", self.vm, "RUNNING", "NONE")
        return self.vm is not None and is_catalogable(self.entity, member)

    def it_is_added(self, *, lands: bool, answer: str) -> None:
        """The call may be lost, and so may its answer."""
        assert self.entity is not None
        gce_id = self.entity.gce_id
        assert gce_id is not None
        self.now += 1.0  # an addition that is sent again is sent later
        self.entity = adding(self.entity, self.now)
        self.late = None
        if not lands or self.wrong_broker:
            self.late = (gce_id, self.now + 240)
            return
        self._enter(gce_id)
        assert self.entry is not None
        if answer != "lost":
            self.add_in_flight = True
            ours = self.entry.gce_id == gce_id
            self.adding = CatalogState.CATALOGED if ours else None
        if answer == "now":
            self.the_addition_is_answered()

    def _enter(self, gce_id: int) -> None:
        if self.entry is None:
            self.entry = Entry(gce_id)
            self.ever_cataloged.add(gce_id)

    def the_addition_arrives_late(self) -> None:
        """It was under way longer than the daemon waited for its answer."""
        assert self.late is not None
        gce_id, _ = self.late
        self.late = None
        self._enter(gce_id)

    def the_addition_is_answered(self) -> None:
        """At any later time."""
        self.add_in_flight = False
        if self.adding is not None and self.entity is not None:
            self.entity = added(self.entity, self.adding)

    def _is_removable(self) -> bool:
        if self.entity is None or self.add_in_flight or self.removing:
            return False
        ordered = self.entity.drain or self.entity.cordon
        unwanted = not self.active or ordered is not None
        leaves = unwanted or is_lost(self.entity, at(self.now), PATIENCE)
        free = may_be_cataloged(self.entity) and not lease_runs(self.entity, self.now)
        return leaves and free

    def _delete_machine(self) -> CatalogState | None:
        """What the Machine Provider makes of delete_machine; None: LEASED."""
        if self.wrong_broker or self.entry is None:
            return CatalogState.ABSENT
        if self.entry.lease_end is not None:
            return None
        self.let_go.add(self.entry.gce_id)
        self.entry = None
        return CatalogState.REMOVED

    def it_is_taken_out(self, answer: str) -> None:
        """The answer comes now, later, or never."""
        assert self.entity is not None
        state = self._delete_machine()
        if state is None or answer == "lost":
            return
        self.removing = (self.entity.catalog, state)
        if answer == "now":
            self.the_removal_is_answered()

    def the_removal_is_answered(self) -> None:
        """At any later time."""
        assert self.removing is not None
        asked, answer = self.removing
        self.removing = None
        if self.entity is not None:
            self.entity = uncataloged(self.entity, asked, answer, self.now, at(self.now))

    def it_is_deleted(self, *, happens: bool) -> None:
        """By one of the delete jobs: first, or again; Compute may fail to do it."""
        entity = self.entity
        assert entity is not None
        wanted = entity.pending_deletion is not None or is_leaving(
            entity, at(self.now), 60.0, active=self.active
        )
        if not wanted or not self._has_fresh_permit():
            return
        assert self.entity is not None
        self.calls += 1
        self.entity = deleting(self.entity, str(self.calls), self.now, self.now)
        deletion = self.entity.deletion
        if deletion is not None and deletion.request_id == str(self.calls) and happens:
            self._destroy()

    def _has_fresh_permit(self) -> bool:
        """The Machine Provider is asked before every deletion."""
        entity = self.entity
        assert entity is not None
        if permit(entity, self.now) is None or settles_in(entity, at(self.now)) > 0:
            return False
        known = None if self.wrong_broker else self.entry
        if known is not None and is_unknown(entity):
            if known.gce_id != entity.gce_id:
                return False
            if entity.deletion is None:
                self.entity = self._put_back(entity, known)
                return False
        answer = self._delete_machine()
        if answer is None:
            assert self.entry is not None
            if self.entry.gce_id == entity.gce_id:
                self.entity = self._put_back(entity, self.entry)
            return False
        if answer is CatalogState.REMOVED:
            self.entity = found_again(entity, answer)
            return True
        return not lease_runs(entity, self.now)

    def _put_back(self, entity: Instance, known: Entry) -> Instance:
        if known.lease_end is None:
            return found_again(entity, CatalogState.CATALOGED)
        return held(entity, Lease(self.now, known.lease_end))

    def _destroy(self) -> None:
        """Compute deletes the VM of that name, which must never be one that is held."""
        vm, self.vm = self.vm, None
        if vm is None:
            return
        assert self.entity is not None
        assert self.entity.cordon is None
        if (granted := permit(self.entity, self.now)) is not None:
            self.destroyed[granted] += 1
        held = self.entry is not None and self.entry.lease_end is not None
        if held and self.entry is not None and self.entry.gce_id == vm:
            # Only two faults at once may end here: a wrong broker denies, at this very moment, a
            # machine of whose lease nothing was heard, or that was added twice and let go once.
            assert self.wrong_broker
            out = self.entity.catalog is CatalogState.REMOVED
            assert out or self.entity.pending_deletion is not None or not self._knows_lease(vm)
            return
        allowed = self.reclaimed | self.let_go
        never = vm not in self.ever_cataloged
        assert vm in allowed or never or permit(self.entity, self.now) is Permit.ABSENT

    def _knows_lease(self, vm: int) -> bool:
        end = self.entry.lease_end if self.entry is not None else None
        return any(
            message.gce_id == vm and message.attributes.get("lease_expiration_ts") == str(end)
            for number, message in enumerate(self.published)
            if number in self.delivered and message.kind is MessageKind.LEASED
        )

    def its_end_is_confirmed(self) -> None:
        """Its group does not list it, and a second look says the same."""
        assert self.entity is not None
        self.entity = deleted(self.entity, self.now)

    def its_tombstone_s_time_is_over(self) -> None:
        """It goes, or its deletion is under way again when its group lists it all the same."""
        assert self.entity is not None
        still_there = self.vm is not None and self.vm == self.entity.gce_id
        self.entity = revived(self.entity) if still_there else None

    def what_is_being_deleted_is_never_offered(self) -> None:
        """No machine is added to the catalog once its deletion, or its reclaim, is known."""
        if self.entity is not None and (self.entity.deletion or self.entity.pending_deletion):
            assert adding(self.entity, self.now) is self.entity
            assert not self._is_catalogable()

    def what_is_drained_is_never_offered(self) -> None:
        """No machine is added to the catalog that an operator wants to go."""
        if self.entity is not None and self.entity.drain is not None:
            assert adding(self.entity, self.now) is self.entity
            assert not self._is_catalogable()

    def a_lease_that_is_known_keeps_the_machine(self) -> None:
        """A not-found is no permit while a lease known here has not run out."""
        entity = self.entity
        if entity is not None and lease_runs(entity, self.now):
            assert permit(entity, self.now) not in {Permit.ABSENT, Permit.NEVER_CATALOGED}
