"""What makes a new revision of a template, and what does not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.configuration.parsing import parse
from gce_backend.configuration.proto import config_pb2 as pb
from gce_backend.configuration.types import NO_REVISION, ServiceAccount, TemplateConfig, checksum
from support.config_texts import (
    FULL,
    template,
    templates_strategy,
)


def shuffled(value: TemplateConfig, seed: int) -> TemplateConfig:
    """The template with every order changed that means nothing."""
    mix = random.Random(seed)

    def shuffle(items: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(mix.sample(items, len(items)))

    first, *rest = (ServiceAccount(a.name, shuffle(a.scopes)) for a in value.service_accounts)
    return msgspec.structs.replace(
        value,
        dimensions=shuffle(value.dimensions),
        tags=shuffle(value.tags),
        metadata=shuffle(value.metadata),
        snapshot_labels=shuffle(value.snapshot_labels),
        service_accounts=(first, *shuffle(rest)),
    )


@given(value=templates_strategy, seed=st.integers(0, 2**32))
def test_checksum_ignores_order_that_means_nothing(value: TemplateConfig, seed: int) -> None:
    """Rewriting a file in another order makes no new revision; nor does renaming the template."""
    other = msgspec.structs.replace(shuffled(value, seed), base_name="another")
    assert checksum(other) == checksum(value)


def test_checksum_depends_on_which_service_account_is_first() -> None:
    """The first account is the one that the Machine Provider writes to."""
    first, second, third = FULL.service_accounts
    swapped = msgspec.structs.replace(FULL, service_accounts=(second, first, third))
    assert checksum(swapped) != checksum(FULL)


OTHERS: dict[str, Any] = {"project": "p2", "image_name": "i"}
"""Other values of fields that are required, or unset in FULL; of the rest, the default is one."""


def test_checksum_depends_on_every_other_field() -> None:
    """Each field that shapes a VM makes a new revision when it changes."""
    changes = [
        (field.name, OTHERS.get(field.name, field.default))
        for field in msgspec.structs.fields(TemplateConfig)
        if field.name not in NO_REVISION
    ]
    sums = {checksum(msgspec.structs.replace(FULL, **{name: value})) for name, value in changes}
    assert len(sums | {checksum(FULL)}) == len(changes) + 1


def test_the_order_of_additional_disks_makes_a_revision() -> None:
    """The VM sees them in that order; that of a disk's labels means nothing."""
    first, second = FULL.additional_disks
    swapped = msgspec.structs.replace(FULL, additional_disks=(second, first))
    assert checksum(swapped) != checksum(FULL)
    disks = [msgspec.structs.replace(first, labels=pairs) for pairs in (LABELS, LABELS[::-1])]
    sums = {checksum(msgspec.structs.replace(FULL, additional_disks=(disk,))) for disk in disks}
    assert len(sums) == 1


LABELS = (("a", "b"), ("c", "d"))


def test_checksum_treats_unset_and_default_alike() -> None:
    """Writing a default out makes no new revision."""
    plain = parse(template(), "", {}).templates[0]
    explicit = parse(
        template(disk_size_gb=0, disk_type="", auto_assign_external_ip=False, network_url=""),
        "",
        {},
    ).templates[0]
    assert checksum(explicit) == checksum(plain)


def test_checksum_follows_a_files_text_and_not_its_path() -> None:
    """A changed startup script is a new revision, a renamed one is not."""
    files = {"a.sh": "echo 1", "b.sh": "echo 1", "c.sh": "echo 2"}
    sums = [
        checksum(
            parse(template(metadata_from_file=[f"startup-script:{path}"]), "", files).templates[0]
        )
        for path in files
    ]
    assert sums[0] == sums[1] != sums[2]


ADDED = [field.name for field in pb.InstanceTemplate.DESCRIPTOR.fields if field.number >= 100]
"""The fields that the first release did not have."""
OLD = msgspec.structs.replace(
    FULL, **{f.name: f.default for f in msgspec.structs.fields(TemplateConfig) if f.name in ADDED}
)
"""As the first release stored it."""


def test_naming_the_boot_snapshot_anew_makes_no_revision() -> None:
    """Machines that boot from a snapshot stay when snapshot_name becomes boot_snapshot_name."""
    old = msgspec.structs.replace(OLD, snapshot_labels=())
    new = msgspec.structs.replace(old, snapshot_name="", boot_snapshot_name=old.snapshot_name)
    assert checksum(new) == checksum(old)
    assert (old.boot_snapshot, old.second_snapshot) == (new.boot_snapshot, "")
    second = msgspec.structs.replace(old, image_name="debian-12")
    assert (second.boot_snapshot, second.second_snapshot) == ("", "snap")


def test_checksum_never_changes_between_releases() -> None:
    """Another checksum for the same text would replace every machine of every fleet."""
    assert checksum(OLD) == "be4f5873dd4d502767aad3d1e025f1d63407de57"
    plain = parse(template(), "", {}).templates[0]
    assert checksum(plain) == "b09415a8e3de4cf25737731d9396669b53e8fb59"
