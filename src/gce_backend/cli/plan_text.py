"""A plan as text, in the style of `terraform plan`."""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec

from gce_backend.base.plurals import plural
from gce_backend.cli.output import moment, one_line
from gce_backend.rules.plan import Action, Field, GroupStep, TemplatePlan, TemplateStep, Totals

REVISION = 12
"""Characters of a revision that are shown."""
SHORT = 8
"""Characters of a template's revision, as in the names at Compute."""
LONGEST = 60
"""Characters of a field's value that are shown."""
NAMED = 5
"""Leased machines that are named for each group."""
_MARKS = {
    Action.CREATE: ("+", "green"),
    Action.CHANGE: ("~", "yellow"),
    Action.RESIZE: ("~", "yellow"),
    Action.SHRINK: ("-", "red"),
    Action.KEEP: ("~", "yellow"),
    Action.DRAIN: ("-", "red"),
    Action.DELETE: ("-", "red"),
}


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A plan as it is shown.

    Attributes:
        source: where the configuration comes from.
        in_force: the revision in force; "" when there is none yet.
        held: why it would wait for an operator's approval; "" when it would not.
        cost: what it changes about the daily costs of the minimum sizes; "" when nothing.
        notes: what the plan does not cover.
        changes: whether anything would change.
        totals: the numbers of changes.
        templates: the changes of each template.
    """

    source: str
    revision: str
    in_force: str
    held: str
    cost: str = ""
    notes: tuple[str, ...]
    changes: bool
    totals: Totals
    templates: tuple[TemplatePlan, ...]


def told(document: Document) -> Iterator[str]:
    """A plan as lines, coloured."""
    force = document.in_force[:REVISION] or "none"
    yield f"{document.source} (revision {document.revision[:REVISION]}; in force: {force})"
    for template in document.templates:
        yield ""
        yield from _template(template)
    yield ""
    if document.changes:
        yield click.style(f"Plan: {_summary(document.totals)}.", bold=True)
    else:
        yield "No changes: the fleet is as this configuration wants it."
    if document.cost:
        yield document.cost
    for note in filter(None, (document.held, *document.notes)):
        yield click.style(f"! {one_line(note)}", fg="yellow")


def _template(template: TemplatePlan) -> Iterator[str]:
    was, becomes = (template.previous or "")[:SHORT], (template.revision or "")[:SHORT]
    what = {
        Action.CREATE: f": revision {becomes}",
        Action.CHANGE: f": revision {was} -> {becomes}",
        Action.DELETE: ": the configuration does not name it",
    }
    action = template.action or Action.CHANGE
    yield _marked(
        action, 0, f"template {template.base_name}{what[action] if template.action else ''}"
    )
    for field in template.fields:
        yield _field(field)
    for step in template.templates:
        later = "" if step.action is Action.CREATE else ", once its groups are gone"
        yield _marked(step.action, 1, f"instance template {step.name}{later}{_progress(step)}")
    for group in template.groups:
        yield _marked(
            group.action,
            1,
            f"group {group.name} in {group.zone}: {_group(group)}{_progress(group)}",
        )
        for one in group.held[:NAMED]:
            until = f"until {moment(one.until)}" if one.until is not None else "without a known end"
            yield f"        {one.name} is leased {until}"
        if len(group.held) > NAMED:
            yield f"        and {len(group.held) - NAMED} more"


def _marked(action: Action, depth: int, text: str) -> str:
    mark, colour = _MARKS[action]
    return "  " * depth + click.style(mark, fg=colour) + f" {text}"


def _progress(step: TemplateStep | GroupStep) -> str:
    if step.under_way:
        return " (under way)"
    return " (asked for already, and not begun)" if step.in_force else ""


def _field(field: Field) -> str:
    if field.before is None:
        return f"    {field.name}: {_short(field.after)}"
    if field.after is None:
        return f"    {field.name}: {_short(field.before)} -> removed"
    before, after = _short(field.before), _short(field.after)
    if before == after:  # they differ beyond the shown part
        after = "another text"
    return f"    {field.name}: {before} -> {after}"


def _short(text: str | None) -> str:
    text = text or '""'
    line = one_line(text)
    if len(line) <= LONGEST and "\n" not in text:
        return line
    return f"{line[:LONGEST]}... ({plural(len(text), 'character')})"


def _group(group: GroupStep) -> str:
    size = group.size or 0
    if group.action is Action.CREATE:
        return plural(group.goal, "machine") + _at_first(group)
    if group.action is Action.RESIZE:
        return f"{size} -> {plural(group.goal, 'machine')}{_at_first(group)}{_besides(group)}"
    if group.action is Action.KEEP:
        return f"stops draining; it keeps its {plural(size, 'machine')}"
    if group.action is Action.DELETE:
        return "is empty and is deleted"
    if group.action is Action.SHRINK:
        idle = plural(size - group.goal, "idle machine")
        return f"{size} -> {plural(group.goal, 'machine')}: {idle} removed{_besides(group)}"
    if group.action is Action.CHANGE:
        told = _limits(group)
        return f"{', '.join(told)}; it keeps its {plural(size, 'machine')}"
    waits = f", waits for {len(group.held)} leased" if group.held else ""
    return f"drains {plural(len(group.machines), 'machine')}{waits}"


def _limits(group: GroupStep) -> list[str]:
    """Which fields of a manager change, in words."""
    no_limit = {0: None}
    maximum = [no_limit.get(one, one) for one in group.maximum]
    changes = [
        ("minimum_size", *group.minimum),
        ("maximum_size", *maximum),
        ("spare_size", *group.spare),
        *((one.name, one.before, one.after) for one in group.rest),
    ]
    return [f"{name} {_set(old)} -> {_set(new)}" for name, old, new in changes if old != new]


def _set(value: object) -> str:
    return "unset" if value is None else str(value)


def _besides(group: GroupStep) -> str:
    """The fields that change beside the number of machines, which tells of the minimum."""
    if (group.minimum[0], group.maximum[0], group.spare[0]) == (0, 0, None):
        return ""  # the configuration in force does not name it, so that every field is new
    told = [one for one in _limits(group) if not one.startswith("minimum_size ")]
    return f", {', '.join(told)}" if told else ""


def _at_first(group: GroupStep) -> str:
    if group.at_first is None:
        return ""
    return (
        f" ({group.at_first} at first: maximum_size {group.maximum[1]} holds for old and new "
        "together)"
    )


def _summary(totals: Totals) -> str:
    drained = plural(totals.drain_machines, "machine")
    if totals.leased:
        end = f" until {moment(totals.leased_until)}" if totals.leased_until is not None else ""
        drained += f", {totals.leased} leased{end}"
    parts = [
        (totals.create, f"to create ({plural(totals.create_machines, 'machine')})"),
        (totals.resize, f"to grow (by {plural(totals.resize_machines, 'machine')})"),
        (totals.shrink, f"to shrink (by {plural(totals.shrink_machines, 'idle machine')})"),
        (totals.change, "to change"),
        (totals.drain, f"to drain ({drained})"),
    ]
    said = [f"{plural(count, 'group')} {words}" for count, words in parts if count]
    if totals.delete:
        said.append(f"{plural(totals.delete, 'empty group')} to delete")
    templates = [(totals.create_templates, "to create"), (totals.delete_templates, "to delete")]
    said += [f"{plural(count, 'instance template')} {words}" for count, words in templates if count]
    return ", ".join(said) or "templates change, without groups"
