"""The entities that the daemon keeps in Datastore, and their keys. Frozen values, no I/O.

Every field names the one job that writes it; no other line of code may change it. What can be
derived from the fields (why a machine waits, is kept or goes) is not stored: `rules.states`
computes it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec

from gce_backend.base.dates import StoredSeconds
from gce_backend.configuration.types import TemplateConfig
from gce_backend.configuration.values import (
    BOOT_SECONDS,
    KEEP_SLOW,
    KEEP_SURPLUS,
    MAX_AGE_SECONDS,
    MAX_BOOT_SECONDS,
    MAX_SURPLUS_SECONDS,
    SURPLUS_SECONDS,
)
from gce_backend.model.events import HistoryPage
from gce_backend.model.keys import Key
from gce_backend.model.orders import Control, Cordon, Drain

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
"""A number of machines or of times. The daemon never writes a larger one."""

SurplusSeconds: TypeAlias = Annotated[int, msgspec.Meta(ge=KEEP_SURPLUS, le=MAX_SURPLUS_SECONDS)]
"""How long a group must have too many machines until idle ones leave."""

Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""Compute's numeric id of a resource: an unsigned 64-bit integer."""


class InFlight(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A mutation at Compute, stored before it is sent, so that a crash resumes it.

    Attributes:
        action: the method: `insert`, `createInstances` or `delete`.
        request_id: the UUID with which it is sent, and sent again.
        started: when it was decided, Unix seconds.
        size: the target size of a group's `insert`; the machines of a `createInstances`.
        names: the names of the machines of a `createInstances`.
    """

    action: str
    request_id: str
    started: StoredSeconds
    size: Count | None = None
    names: tuple[str, ...] = ()


class SetAsideMessage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A message that could not be understood (process-pubsub-messages; cleanup-entities removes).

    Attributes:
        reason: why not, for people.
        received: when, Unix seconds.
        data: its data as text, cut to a bearable length.
        attributes: its attributes, cut in the same way.
        seen: when an operator has looked at it (operator).
        seen_by: who that was (operator).
    """

    KIND: ClassVar[str] = "SetAsideMessage"

    reason: str
    received: StoredSeconds
    data: str = ""
    attributes: dict[str, str] = {}
    seen: StoredSeconds | None = None
    seen_by: str = ""


class CandidateState(StrEnum):
    """Why a configuration that is served is not in force."""

    HELD = "held"
    """It removes or adds too much, and waits for an operator's approval."""
    INVALID = "invalid"
    """It breaks rules."""


class Candidate(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A configuration that the config service serves and that is not in force.

    Attributes:
        state: why it is not in force.
        reason: the same, for people, cut to a bearable length.
        since: since when, Unix seconds.
    """

    revision: str
    state: CandidateState
    reason: str
    since: StoredSeconds


class StoredConfiguration(msgspec.Struct, frozen=True, omit_defaults=True):
    """The configuration in force; always valid.

    Attributes:
        config_set: which config set to fetch (operator).
        template_config: templates.cfg's text (import-config).
        manager_config: managers.cfg's text (import-config).
        files: the texts of the files that metadata_from_file names, by path (import-config).
        revision: the revision that all of them come from (import-config).
        imported: when it came into force, Unix seconds (import-config).
        previous_revision: the revision that was in force before (import-config).
        diff: how the texts differ from that one's, cut to a bearable length (import-config).
        warnings: the first of what may be a slip in it, for people (import-config).
        candidate: what is served instead and not in force; None when what is served is in force
            (import-config).
        images: the newest images of the families that templates name, by `PROJECT/FAMILY`
            (process-config).
    """

    KIND: ClassVar[str] = "Configuration"

    config_set: str = ""
    template_config: str = ""
    manager_config: str = ""
    files: dict[str, str] = {}
    revision: str = ""
    imported: StoredSeconds | None = None
    previous_revision: str = ""
    diff: str = ""
    warnings: tuple[str, ...] = ()
    candidate: Candidate | None = None
    images: dict[str, str] = {}

    @property
    def held_revision(self) -> str:
        """The revision that waits for an operator's approval; "" when none does."""
        waits = self.candidate is not None and self.candidate.state is CandidateState.HELD
        return self.candidate.revision if self.candidate is not None and waits else ""


class ConfigServiceAddress(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where configuration is served.

    Attributes:
        service_hostname: the config service's host, or its URL (operator).
    """

    KIND: ClassVar[str] = "ConfigSettings"

    service_hostname: str = ""


class MachineProviderAddress(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the Machine Provider is.

    Attributes:
        instance_url: the Machine Provider's URL (operator).
    """

    KIND: ClassVar[str] = "MachineProviderConfiguration"

    instance_url: str = ""


class StoreIdentity(msgspec.Struct, frozen=True, omit_defaults=True):
    """The identity of this store: whatever the daemon creates at Compute carries its id.

    Attributes:
        id: 12 hexadecimal digits (setup, or the first daemon; once).
        projects: all projects that templates of the configuration have ever named: what carries the
            id may be in any of them (process-config).
    """

    KIND: ClassVar[str] = "StoreIdentity"

    id: str
    projects: tuple[str, ...] = ()


class StoreSchema(msgspec.Struct, frozen=True):
    """The version of what the store holds (setup, or the daemon at its start).

    Attributes:
        version: counts changes that another release would misunderstand; see `fleet.schema`.
        release: the version of the software that wrote it.
    """

    KIND: ClassVar[str] = "StoreSchema"

    version: int
    release: str


class Beat(msgspec.Struct, frozen=True):
    """A sign of life of a daemon.

    Attributes:
        where: its machine, process and address, for people.
        seen: when it was last given.
    """

    where: str
    seen: StoredSeconds


class Daemons(msgspec.Struct, frozen=True, omit_defaults=True):
    """The daemons that run on this store.

    Attributes:
        running: the last sign of life of each, by process id (each daemon writes its own).
    """

    KIND: ClassVar[str] = "Daemons"

    running: dict[str, Beat] = {}


class ToldNotices(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a webhook has been told, so that a restart neither loses nor repeats much (the daemon).

    Attributes:
        after: the name below which all pages of history have been told.
        pages: pages above it that have been told too.
        problems: the problems whose beginning it was told, and whose end it was not.
    """

    KIND: ClassVar[str] = "ToldNotices"

    after: str = ""
    pages: tuple[str, ...] = ()
    problems: tuple[dict[str, Any], ...] = ()


class EarlierRevision(msgspec.Struct, frozen=True, gc=False):
    """A revision that was active before.

    Attributes:
        checksum: its name.
        template: its fields.
    """

    checksum: str
    template: TemplateConfig


class InstanceTemplate(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A template of templates.cfg through all its revisions.

    Attributes:
        active: the revision that the configuration describes; None when it describes none
            (process-config).
        drained: earlier revisions that still exist (process-config; cleanup-entities removes).
        previous: the revision that was active before this one, also when it no longer exists; None
            when there was none (process-config).
    """

    KIND: ClassVar[str] = "InstanceTemplate"

    active: str | None = None
    drained: tuple[str, ...] = ()
    previous: EarlierRevision | None = None


class InstanceTemplateRevision(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One set of a template's fields.

    Attributes:
        template: the fields (process-config, once; but canary, alternative_machine_types and
            image_family whenever they change); of one that the store had lost, only base_name and
            project, until the configuration names it again (fetch-instances,
            create-instance-templates).
        active: zones of the managers that the configuration describes (process-config).
        drained: zones of the other managers that still exist (process-config; cleanup-entities
            removes).
        url: the instance template at Compute, once it exists (create-/delete-instance-templates).
        gce_id: its numeric id there, which no other template of its name has; None before it exists
            (create-/delete-instance-templates).
        in_flight: its insert or delete under way (create-/delete-instance-templates).
        snapshot: what the second disk is made from, when labels name it
            (create-instance-templates).
        generation: how many templates of it have been deleted at Compute; the next one has
            another name (delete-/create-instance-templates).
        trouble: why Compute does not make it, since the first failure; "" when it does
            (create-instance-templates).
    """

    KIND: ClassVar[str] = "InstanceTemplateRevision"

    template: TemplateConfig
    active: tuple[str, ...] = ()
    drained: tuple[str, ...] = ()
    url: str | None = None
    gce_id: int | None = None
    in_flight: InFlight | None = None
    snapshot: str | None = None
    generation: Count = 0
    trouble: str = ""

    @property
    def has_fields(self) -> bool:
        """Whether its fields are known: of one that was adopted, only its project is."""
        return bool(self.template.machine_type)

    @property
    def is_deleting(self) -> bool:
        """Whether the deletion of its instance template has begun."""
        return self.in_flight is not None and self.in_flight.action == "delete"


class NextSizes(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What a manager's sizes become next.

    Attributes:
        at: when, Unix seconds.
        minimum_size: then.
        maximum_size: then; 0 is no limit.
        spare_size: then; None for a tenth of the leased machines.
    """

    at: StoredSeconds
    minimum_size: Count
    maximum_size: Count = 0
    spare_size: Count | None = None


class Pool(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sizes that groups in several zones, or of several machine types, share.

    Attributes:
        minimum_size: of all together, and so on.
        kinds: the base_names of the template and its alternatives, in order of preference; () when
            it has none.
    """

    zones: tuple[str, ...]
    minimum_size: Count
    maximum_size: Count = 0
    spare_size: Count | None = None
    kinds: tuple[str, ...] = ()

    def rank(self, base_name: str) -> int:
        """How much a template is preferred: 0 is the most."""
        return self.kinds.index(base_name) if base_name in self.kinds else 0


class Excess(msgspec.Struct, frozen=True, gc=False):
    """That a group has had more machines than it needs.

    Attributes:
        since: since when, Unix seconds.
        size: it has had at least so many since then.
        needed: and has needed at most so many.
    """

    since: StoredSeconds
    size: Count
    needed: Count


class InstanceGroupManager(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A revision's group in one zone.

    Attributes:
        minimum_size: machines to keep at least (process-config).
        maximum_size: machines, over all revisions, to keep at most; 0 is no limit (process-config).
        url: the managed instance group, once it exists (create-/delete-instance-group-managers).
        gce_id: its numeric id, which no other group of its name has; None before it exists
            (create-/delete-instance-group-managers; fetch-instances for groups of releases that did
            not store it).
        in_flight: its insert or delete under way (create-/delete-instance-group-managers).
        resize: a growth under way (resize-instance-groups).
        generation: how many groups of it have been deleted; the next one has another name
            (delete-/create-instance-group-managers).
        spare_size: machines to keep free beside the leased ones; None for a tenth of these
            (process-config).
        surplus_seconds: how long a group must have too many machines until idle ones leave;
            KEEP_SURPLUS for ever (process-config).
        next_sizes: what its schedules make of its sizes next; None when they stay
            (process-config).
        trouble: why Compute does not make it or its VMs, since the first failure; "" when it does
            (create-instance-group-managers, fetch-instances).
        pool: the sizes that it shares with groups in other zones; its own minimum_size and
            spare_size are even parts of them, its maximum_size is all of it; None when it shares
            none (process-config).
        max_surge: machines beyond what is needed that old and new revision may have together; None
            is no limit (process-config).
        max_unavailable: machines by which the number to lease from may drop in a roll-out; None for
            the setting's (process-config).
        max_age_seconds: age at which a machine that nobody holds is replaced; 0 for never
            (process-config).
        boot_seconds: how long a machine may take to come up until it is replaced; KEEP_SLOW for
            ever (process-config).
        excess: that it has more machines than it needs, so that a restart does not begin to count
            surplus_seconds again; None when it has not (resize-instance-groups).
    """

    KIND: ClassVar[str] = "InstanceGroupManager"

    minimum_size: Count
    maximum_size: Count = 0
    url: str | None = None
    gce_id: int | None = None
    in_flight: InFlight | None = None
    resize: InFlight | None = None
    generation: Count = 0
    spare_size: Count | None = None
    surplus_seconds: SurplusSeconds = SURPLUS_SECONDS
    next_sizes: NextSizes | None = None
    trouble: str = ""
    pool: Pool | None = None
    max_surge: Count | None = None
    max_unavailable: Count | None = None
    max_age_seconds: Annotated[int, msgspec.Meta(ge=0, le=MAX_AGE_SECONDS)] = 0
    boot_seconds: Annotated[int, msgspec.Meta(ge=KEEP_SLOW, le=MAX_BOOT_SECONDS)] = BOOT_SECONDS
    excess: Excess | None = None

    @property
    def is_deleting(self) -> bool:
        """Whether the deletion of its group has begun."""
        return self.in_flight is not None and self.in_flight.action == "delete"


class CatalogState(StrEnum):
    """What the daemon knows about a machine's entry in the Machine Provider's catalog."""

    NEVER = "never"
    """No add_machine was sent for it and no message came about it, as far as the store knows."""
    ADDING = "adding"
    """An add_machine may have been sent; its outcome is not known yet."""
    CATALOGED = "cataloged"
    """The catalog holds it under our key."""
    REMOVED = "removed"
    """The Machine Provider confirmed delete_machine for it."""
    ABSENT = "absent"
    """The Machine Provider answered ENTRY_NOT_FOUND, and no lease known here was running."""
    REFUSED = "refused"
    """The catalog has its host name under another key: set aside."""


class Lease(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Somebody holds the machine.

    Attributes:
        since: when the daemon learned of it, Unix seconds.
        expiration: when it ends, Unix seconds; None when not known.
    """

    since: StoredSeconds
    expiration: StoredSeconds | None = None


class PendingDeletion(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The machine is to be deleted: the Machine Provider has reclaimed it.

    Attributes:
        reason: why, for people.
        since: since when, Unix seconds.
    """

    reason: str
    since: StoredSeconds


class MetadataUpdate(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A change to a VM's metadata.

    Attributes:
        items: values by key; None removes the key.
        request_id: the UUID with which it is sent, stored before it is sent.
        operation: the zone operation that applies it, once it is sent: its link.
        attempts: how often it has failed.
        not_before: when it may be sent again, Unix seconds.
    """

    items: dict[str, str | None]
    request_id: str | None = None
    operation: str | None = None
    attempts: Count = 0
    not_before: StoredSeconds = 0.0


class Permit(StrEnum):
    """What allows a VM's destruction (invariant S1)."""

    RECLAIMED = "reclaimed"
    """A RECLAIMED message named that very instance."""
    REMOVED = "removed"
    """The Machine Provider confirmed delete_machine for it."""
    ABSENT = "absent"
    """The Machine Provider knows no such machine, and no lease known here is running."""
    NEVER_CATALOGED = "never-cataloged"
    """It never entered the catalog."""


class Deletion(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A VM's deletion, from the decision to the proof.

    Attributes:
        permit: what allowed it.
        requested: when it was first decided, Unix seconds.
        asked: when deleteInstances was last sent, or about to be, Unix seconds.
        request_id: the UUID with which that was.
        unsent: whether no call has named the VM: it was gone already. Otherwise one may take effect
            late, and destroy whatever has the name by then.
        confirmed: when the VM was seen to be gone, Unix seconds: from then on the entity is a
            tombstone.
    """

    permit: Permit
    requested: StoredSeconds
    asked: StoredSeconds
    request_id: str
    confirmed: StoredSeconds | None = None
    unsent: bool = False


class Begun(msgspec.Struct, frozen=True):
    """Deletions that began at about the same time.

    Attributes:
        at: when the first of them began.
        permits: how many, by what allowed them.
    """

    at: StoredSeconds
    permits: dict[Permit, int]


class DeletionWindow(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the caps on deletions count, over all processes on this store and over restarts.

    Attributes:
        begun: the deletions that began within the caps' window, oldest first (the two delete jobs,
            in the commit that stores the deletions).
    """

    KIND: ClassVar[str] = "DeletionWindow"

    begun: tuple[Begun, ...] = ()


class Instance(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One VM of a group.

    Attributes:
        gce_id: Compute's numeric id, the VM's identity; None until Compute has given one
            (fetch-instances).
        url: the VM's resource link (fetch-instances).
        missing_since: since when complete listings have not shown the VM, or its group has counted
            it without a VM, Unix seconds (fetch-instances).
        abandoned_since: since when the VM has been seen to exist outside of its group, Unix seconds
            (fetch-instances).
        stopped_since: since when the VM has not been running although nobody here stopped it, Unix
            seconds (fetch-instances).
        preempted_since: since when it is known that Compute Engine took the VM back, Unix seconds
            (fetch-instances; clears, when the VM runs again).
        rising_since: when its group first listed the VM, until the catalog has it, Unix seconds
            (fetch-instances; catalog-instances clears).
        listed_since: when its group first listed the VM, Unix seconds; None for those of releases
            that did not store it (fetch-instances).
        catalog: its entry in the catalog (catalog-instances, remove-cataloged-instances;
            process-pubsub-messages, by a message about it or by the sweep).
        adding_since: when it was last sent to be added, Unix seconds (catalog-instances).
        resent: whether it was sent again before the outcome of an earlier addition was known, so
            that an answer about its entry may be about the earlier one (catalog-instances).
        lease: the lease on it, as far as known (process-pubsub-messages).
        lost_since: since when the catalog denies a machine that was added to it, Unix
            seconds (process-pubsub-messages' sweep). Never a permit by itself.
        pending_deletion: it is to be deleted (process-pubsub-messages).
        drain: it is to leave the catalog and to be deleted, though the configuration names its
            group (operator; resize-instance-groups, for surplus, age, or one that does not come up;
            fetch-instances, when it has the name of a VM whose deletion was sent, and clears, when
            another VM takes its name).
        cordon: it is to leave the catalog, and is not deleted (operator; fetch-instances clears,
            when another VM takes its name).
        subscribed: what the last SUBSCRIBED asked for, so that a duplicate changes nothing
            (process-pubsub-messages; remove-cataloged-instances and the two delete jobs clear).
        pending_metadata_updates: oldest first (process-pubsub-messages appends,
            compress-instance-metadata-updates takes, check-instance-metadata-operations puts back).
        active_metadata_update: the update being applied (compress-instance-metadata-updates,
            update-instance-metadata, check-instance-metadata-operations).
        deletion: its deletion under way or done (the two delete jobs; cleanup-entities removes the
            entity).
    """

    KIND: ClassVar[str] = "Instance"

    gce_id: Id | None = None
    url: str | None = None
    missing_since: StoredSeconds | None = None
    abandoned_since: StoredSeconds | None = None
    stopped_since: StoredSeconds | None = None
    preempted_since: StoredSeconds | None = None
    rising_since: StoredSeconds | None = None
    listed_since: StoredSeconds | None = None
    catalog: CatalogState = CatalogState.NEVER
    adding_since: StoredSeconds | None = None
    resent: bool = False
    lease: Lease | None = None
    lost_since: StoredSeconds | None = None
    subscribed: str | None = None
    pending_deletion: PendingDeletion | None = None
    drain: Drain | None = None
    cordon: Cordon | None = None
    pending_metadata_updates: tuple[MetadataUpdate, ...] = ()
    active_metadata_update: MetadataUpdate | None = None
    deletion: Deletion | None = None

    @property
    def is_tombstone(self) -> bool:
        """Whether the VM is proven gone and the entity only keeps a slow list from reviving it."""
        return self.deletion is not None and self.deletion.confirmed is not None


Entity: TypeAlias = (
    Control
    | SetAsideMessage
    | StoredConfiguration
    | ConfigServiceAddress
    | MachineProviderAddress
    | StoreIdentity
    | StoreSchema
    | Daemons
    | InstanceTemplate
    | InstanceTemplateRevision
    | InstanceGroupManager
    | Instance
    | DeletionWindow
    | HistoryPage
    | ToldNotices
)

CONTROL_KEY = Key(Control.KIND, "singleton")
CONFIGURATION_KEY = Key(StoredConfiguration.KIND, "singleton")
CONFIG_SETTINGS_KEY = Key(ConfigServiceAddress.KIND, "singleton")
MACHINE_PROVIDER_KEY = Key(MachineProviderAddress.KIND, "singleton")
DAEMONS_KEY = Key(Daemons.KIND, "singleton")
STORE_IDENTITY_KEY = Key(StoreIdentity.KIND, "singleton")
STORE_SCHEMA_KEY = Key(StoreSchema.KIND, "singleton")
DELETION_WINDOW_KEY = Key(DeletionWindow.KIND, "singleton")
