"""The rules that templates.cfg and managers.cfg keep, alone and together.

Each rule looks at parsed messages and reports what breaks it; none stops at the first finding.
Where a value is and which line that is, `config` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gce_backend.configuration import naming
from gce_backend.configuration.proto import config_pb2 as pb
from gce_backend.configuration.text import Path
from gce_backend.configuration.values import (
    DIMENSIONS,
    MAX_GROUP_SIZE,
    MAX_LABELS,
    MAX_METADATA_TOTAL,
    MAX_METADATA_VALUE,
    MAX_TAGS,
    MEASURED_DIMENSIONS,
    Check,
    check_account,
    check_base_name,
    check_cpu_platform,
    check_disk_size,
    check_disk_type,
    check_file_path,
    check_label,
    check_machine_type,
    check_metadata_key,
    check_name,
    check_network,
    check_project,
    check_scope,
    check_zone,
    disk_kind,
    network_region,
    quote,
    split_pair,
    zone_region,
)

Report = Callable[[Path, str], None]
"""Takes where a problem is and what is wrong there, with the remedy."""

_TEXT_FIELDS: tuple[tuple[str, Check], ...] = (
    ("base_name", check_base_name),
    ("project", check_project),
    ("machine_type", check_machine_type),
    ("image_name", check_name),
    ("image_project", check_project),
    ("snapshot_name", check_name),
    ("disk_type", check_disk_type),
    ("network_url", check_network),
    ("min_cpu_platform", check_cpu_platform),
)
_REQUIRED_FIELDS = ("base_name", "project", "machine_type")


def check_templates(
    config: pb.InstanceTemplateConfig, files: Mapping[str, str], report: Report
) -> None:
    """Applies all rules for templates.cfg.

    Args:
        config: the parsed file.
        files: the texts of the config set's files that metadata_from_file names, by path.
        report: is told every problem.
    """
    first: dict[str, int] = {}
    for index, template in enumerate(config.templates):
        path: Path = ("templates", index)
        _check_template(template, files, path, report)
        name = template.base_name
        if name and first.setdefault(name, index) != index:
            report(
                (*path, "base_name"),
                f"{quote(name)} is also the base_name of templates[{first[name]}]: it must be "
                "unique over all templates, also across projects; rename one",
            )


def _check_template(
    template: pb.InstanceTemplate, files: Mapping[str, str], path: Path, report: Report
) -> None:
    for field in _REQUIRED_FIELDS:
        if not getattr(template, field):
            report((*path, field), "is required: set it")
    for field, check in _TEXT_FIELDS:
        value = getattr(template, field)
        if value and (complaint := check(value)):
            report((*path, field), complaint)
    if complaint := check_disk_size(template.disk_size_gb):
        report((*path, "disk_size_gb"), complaint)
    _check_boot_source(template, path, report)
    _check_accounts(template, path, report)
    _check_items(template.tags, (*path, "tags"), check_name, MAX_TAGS, report)
    _check_items(
        template.snapshot_labels, (*path, "snapshot_labels"), check_label, MAX_LABELS, report
    )
    _check_once(_keys(template.snapshot_labels), (*path, "snapshot_labels"), "label", report)
    _check_dimensions(template, path, report)
    _check_metadata(template, files, path, report)


def _check_boot_source(template: pb.InstanceTemplate, path: Path, report: Report) -> None:
    if not template.image_name and not template.snapshot_name:
        report((*path, "image_name"), "is required: set it, or snapshot_name, to boot from")
    if template.image_name and template.snapshot_name:
        report(
            (*path, "snapshot_name"),
            "a boot disk has one source: remove either image_name or snapshot_name",
        )
    if template.snapshot_labels and not template.snapshot_name:
        report(
            (*path, "snapshot_labels"),
            "these are labels of a snapshot: set snapshot_name, or remove them",
        )


def _check_accounts(template: pb.InstanceTemplate, path: Path, report: Report) -> None:
    path = (*path, "service_accounts")
    if not template.service_accounts:
        report(
            path, "at least one is required: the first one receives the Machine Provider's messages"
        )
    for index, account in enumerate(template.service_accounts):
        if not account.name:
            report((*path, index, "name"), 'is required: set an email address, or "default"')
        elif complaint := check_account(account.name):
            report((*path, index, "name"), complaint)
        _check_items(account.scopes, (*path, index, "scopes"), check_scope, None, report)
    names = ((index, account.name) for index, account in enumerate(template.service_accounts))
    _check_once(names, path, "service account", report)


def _check_items(
    values: Iterable[str], path: Path, check: Check, limit: int | None, report: Report
) -> None:
    """Checks each value, that none comes twice, and that they are not more than the limit."""
    seen: set[str] = set()
    count = 0
    for index, value in enumerate(values):
        if complaint := check(value):
            report((*path, index), complaint)
        elif value in seen:
            report((*path, index), f"{quote(value)} is there twice: remove one")
        seen.add(value)
        count += 1
    if limit is not None and count > limit:
        report(path, f"{count} are too many: use at most {limit}")


def _check_once(keys: Iterable[tuple[int, str]], path: Path, what: str, report: Report) -> None:
    seen: set[str] = set()
    for index, key in keys:
        if key and key in seen:
            report((*path, index), f"{what} {quote(key)} is given twice: remove one")
        seen.add(key)


def _keys(values: Iterable[str]) -> list[tuple[int, str]]:
    """The key of each `key:value` text that is not a mere repetition, with its index."""
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        first.setdefault(value, index)
    return [(index, pair[0]) for value, index in first.items() if (pair := split_pair(value))]


def _check_dimensions(template: pb.InstanceTemplate, path: Path, report: Report) -> None:
    path = (*path, "dimensions")
    keys: list[tuple[int, str]] = []
    for index, text in enumerate(template.dimensions):
        pair = split_pair(text)
        if pair is None:
            complaint: str | None = f'{quote(text)} is not a dimension: write "key:value"'
        else:
            complaint = _check_dimension(template, *pair)
            if pair[0] != "snapshot_labels":  # the one dimension that has many values
                keys.append((index, pair[0]))
        if complaint:
            report((*path, index), complaint)
    _check_once(keys, path, "dimension", report)


def _check_dimension(template: pb.InstanceTemplate, key: str, value: str) -> str | None:
    """Checks one dimension; those that the daemon adds may be named only as they will be."""
    if key in MEASURED_DIMENSIONS:
        return f"{key} is set by the daemon ({MEASURED_DIMENSIONS[key]}): remove it"
    if key not in DIMENSIONS:
        return f"{quote(key)} is not one of {', '.join(DIMENSIONS)}"
    if complaint := DIMENSIONS[key](value):
        return f"{key}: {complaint}"
    dictated = {
        "project": (template.project, "project"),
        "disk_type": (disk_kind(template.disk_type), "disk_type"),
        "disk_gb": (str(template.disk_size_gb or ""), "disk_size_gb"),
        "snapshot": (template.snapshot_name, "snapshot_name"),
    }
    actual, field = dictated.get(key, ("", ""))
    if actual and actual != value:
        return f"{key} is {quote(actual)} because of {field}: remove this, or make them agree"
    labels = template.snapshot_labels
    if key == "snapshot_labels" and labels and value not in labels:
        return f"{quote(value)} is not in the field snapshot_labels: remove it, or make them agree"
    return None


def _check_metadata(
    template: pb.InstanceTemplate, files: Mapping[str, str], path: Path, report: Report
) -> None:
    """Checks metadata and metadata_from_file, which end up in one list."""
    total = 0
    seen: dict[str, str] = {}
    for field, values in (
        ("metadata", template.metadata),
        ("metadata_from_file", template.metadata_from_file),
    ):
        for index, text in enumerate(values):
            here = (*path, field, index)
            pair = split_pair(text)
            if pair is None:
                form = "key:value" if field == "metadata" else "key:path"
                report(here, f'{quote(text)} is not metadata: write "{form}"')
                continue
            key, value = pair
            if complaint := check_metadata_key(key):
                report(here, complaint)
            if key in seen:
                report(here, f"key {quote(key)} is already set in {seen[key]}: remove one")
            seen.setdefault(key, f"{field}[{index}]")
            if field == "metadata_from_file":
                value = _file_text(value, files, here, report)
            size = len(value.encode())
            total += len(key) + size
            if size > MAX_METADATA_VALUE:
                report(
                    here,
                    f"the value of {quote(key)} has {size} bytes: use at most {MAX_METADATA_VALUE}",
                )
    if total > MAX_METADATA_TOTAL:
        report(
            (*path, "metadata"),
            f"all keys and values have {total} bytes: use at most {MAX_METADATA_TOTAL}",
        )


def _file_text(name: str, files: Mapping[str, str], path: Path, report: Report) -> str:
    if complaint := check_file_path(name):
        report(path, complaint)
    elif name not in files:
        report(path, f"there is no file {quote(name)} in the config set: add it, or mend the path")
    return files.get(name, "")


def check_managers(
    config: pb.InstanceGroupManagerConfig,
    templates: pb.InstanceTemplateConfig | None,
    report: Report,
) -> None:
    """Applies all rules for managers.cfg.

    Args:
        config: the parsed file.
        templates: the parsed templates.cfg; None when it cannot be read, so that nothing is said
            about what it does not define.
        report: is told every problem.
    """
    networks = None
    if templates is not None:
        networks = {template.base_name: template.network_url for template in templates.templates}
    zones: dict[tuple[str, str], tuple[int, str]] = {}
    for index, manager in enumerate(config.managers):
        path: Path = ("managers", index)
        _check_sizes(manager, path, report)
        _check_template_reference(manager, networks, path, report)
        if not manager.zone:
            report((*path, "zone"), 'is required: set it, e.g. "us-central1-a"')
            continue
        if complaint := check_zone(manager.zone):
            report((*path, "zone"), complaint)
            continue
        key = (manager.template_base_name, naming.short_zone(manager.zone))
        other, zone = zones.setdefault(key, (index, manager.zone))
        if other != index and zone == manager.zone:
            report(
                (*path, "zone"),
                f"managers[{other}] already uses template {quote(manager.template_base_name)} in "
                f"{zone}: at most one manager in each zone; merge the two",
            )
        elif other != index:
            report(
                (*path, "zone"),
                f"{manager.zone} and {zone} (managers[{other}]) have one short form, {key[1]}: VMs "
                "would share names; use another zone or another template",
            )


def _check_sizes(manager: pb.InstanceGroupManager, path: Path, report: Report) -> None:
    minimum, maximum = manager.minimum_size, manager.maximum_size
    limit = f"{MAX_GROUP_SIZE}, the most VMs that Compute Engine keeps in a zonal group"
    if not manager.HasField("minimum_size"):
        report((*path, "minimum_size"), "is required: set it to 1 or more")
    elif minimum < 1:
        report((*path, "minimum_size"), f"{minimum} is too small: set it to 1 or more")
    elif minimum > MAX_GROUP_SIZE:
        report((*path, "minimum_size"), f"{minimum} is too large: use at most {limit}")
    if maximum < 0:
        report((*path, "maximum_size"), f"{maximum} is negative: leave it out for no limit")
    elif maximum > MAX_GROUP_SIZE:
        report((*path, "maximum_size"), f"{maximum} is too large: use at most {limit}")
    elif 0 < maximum < minimum:
        report(
            (*path, "maximum_size"),
            f"{maximum} is below minimum_size ({minimum}): raise it, or leave it out for no limit",
        )


def _check_template_reference(
    manager: pb.InstanceGroupManager,
    networks: Mapping[str, str] | None,
    path: Path,
    report: Report,
) -> None:
    name = manager.template_base_name
    if not name:
        report((*path, "template_base_name"), "is required: set the base_name of a template")
    elif networks is not None and name not in networks:
        report(
            (*path, "template_base_name"),
            f"{quote(name)} is not the base_name of any template: add it to templates.cfg, or "
            "remove this manager",
        )
    region = network_region((networks or {}).get(name, ""))
    if region and not check_zone(manager.zone) and zone_region(manager.zone) != region:
        report(
            (*path, "zone"),
            f"{quote(manager.zone)} is not in {region}, the region of the template's subnetwork: "
            "use a zone there, or another network_url",
        )
