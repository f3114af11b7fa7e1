"""`gce-backend rollout`: how far a template's new revision is, and orders about it."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import click
import msgspec

from gce_backend.base.clock import SystemClock
from gce_backend.base.errors import UnknownNameError
from gce_backend.base.plurals import plural
from gce_backend.cli.common import (
    daemon_of,
    examples,
    json_option,
    say,
    settings_option,
    url_option,
)
from gce_backend.cli.completion import complete_templates
from gce_backend.cli.duration import Duration
from gce_backend.cli.orders import SOON, reason_option
from gce_backend.rules.orders import pause_rollout, resume_rollout, shown, undo_rollout
from gce_backend.settings.settings import Settings

if TYPE_CHECKING:
    from gce_backend.cli.ordering import Ordered

NOT_COMPLETE = 2
"""The exit code while a roll-out is under way."""
LOOK_SECONDS = 2.0
_GONE = frozenset({"draining", "deleting", "deleted"})
_SETTLED = frozenset({"active", "surplus"})


class RolloutProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a roll-out is.

    Attributes:
        template: the template's base_name.
        revision: its active revision; "" when it has none.
        complete: whether its groups have what they need, and no old machine is left that nobody
            holds.
        new: machines of the active revision that are leased or can be.
        old: machines of other revisions that nobody holds.
        old_leased: those that somebody holds; a roll-out does not wait for them.
        waits_for: reasons of groups that do not have what they need yet, each with its zone.
    """

    template: str
    revision: str
    complete: bool
    new: int
    old: int
    old_leased: int
    waits_for: tuple[str, ...]


def progress_of(fleet: Any, name: str) -> RolloutProgress:
    """How far the roll-out of a template is, from the document `/api/fleet`.

    Raises:
        UnknownNameError: there is no such template.
    """
    if "templates" not in fleet:
        starting = ("The daemon has not read its entities yet.",)
        return RolloutProgress(
            template=name,
            revision="",
            complete=False,
            new=0,
            old=0,
            old_leased=0,
            waits_for=starting,
        )
    found = [one for one in fleet["templates"] if one["base_name"] == name]
    if not found:
        known = ", ".join(sorted({one["base_name"] for one in fleet["templates"]})) or "none"
        raise UnknownNameError(f"there is no template {name!r}. Known: {known}.")
    new: Counter[str] = Counter()
    old: Counter[str] = Counter()
    revision, waits = "", []
    for one in found[0]["revisions"]:
        active = one["state"] not in _GONE
        for group in one["managers"]:
            states = Counter(machine["state"] for machine in group["instances"])
            (new if active else old).update(states)
            if active and group["state"] not in _SETTLED | _GONE:
                waits.append(f"{group['zone']}: {group['reason']}")
        if active:
            revision = one["revision"]
            if one["state"] != "active":
                waits.append(one["reason"])
    left = old.total() - old["leased"] - old["deleted"]
    return RolloutProgress(
        template=name,
        revision=revision,
        complete=not waits and not left,
        new=new["leased"] + new["cataloged"],
        old=left,
        old_leased=old["leased"],
        waits_for=tuple(waits),
    )


def told(progress: RolloutProgress) -> str:
    """The progress in a line or a few."""
    state = "complete" if progress.complete else "under way"
    revision = progress.revision[:8] or "none"
    usable = plural(progress.new, "machine")
    first = (
        f"{progress.template}: {state}. Revision {revision}: {usable} leased or to lease; earlier "
        f"revisions: {progress.old} to go, {progress.old_leased} leased."
    )
    return "\n".join([first, *(f"  {reason}" for reason in progress.waits_for)])


@click.group()
def rollout() -> None:
    """Shows, pauses, resumes and undoes roll-outs."""


name_argument = click.argument("name", shell_complete=complete_templates)


@rollout.command(
    epilog=examples(
        "gce-backend rollout status linux-small",
        "gce-backend rollout status linux-small --wait --timeout 30m",
    )
)
@name_argument
@settings_option
@url_option
@click.option("--wait", is_flag=True, help="Wait until it is complete.")
@click.option(
    "--timeout",
    type=Duration(least=1.0),
    default="1h",
    show_default=True,
    help="How long --wait waits.",
)
@json_option
def status(
    name: str,
    settings: Settings,
    url: str | None,
    *,
    wait: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Shows how far the roll-out of template NAME is.

    It is complete when the groups of the new revision have what they need, and no machine of an
    earlier one is left that nobody holds. Exits with 0 when it is complete, 2 when it is not.
    """
    progress = asyncio.run(_look(settings, url, name, patience=timeout if wait else 0.0))
    say(told(progress), progress, as_json=as_json)
    sys.exit(0 if progress.complete else NOT_COMPLETE)


async def fleet_of(get: Callable[[str, Mapping[str, str]], Awaitable[Any]], name: str) -> Any:
    """The document `/api/fleet` of one template, all pages of it together.

    Args:
        get: gets a document, by its path and parameters.
        name: the template.
    """
    fleet = page = await get("/api/fleet", {"template": name})
    while page.get("next"):
        page = await get("/api/fleet", {"template": name, "cursor": page["next"]})
        for one in page["templates"]:
            fleet["templates"][0]["revisions"] += one["revisions"]
    return fleet


async def _look(
    settings: Settings, url: str | None, name: str, *, patience: float
) -> RolloutProgress:
    """The progress, once it is complete or so many seconds are over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    async with daemon_of(settings, url) as daemon:
        while True:
            progress = progress_of(await fleet_of(daemon.get, name), name)
            if progress.complete or loop.time() >= end:
                return progress
            await asyncio.sleep(LOOK_SECONDS)


@rollout.command()
@name_argument
@settings_option
@reason_option
@json_option
def pause(name: str, settings: Settings, reason: str, *, as_json: bool) -> None:
    """Pauses the roll-out of template NAME.

    No old machine leaves for a new one, and no new one comes for an old one. Everything else goes
    on: leases, deletions of reclaimed machines, growth where machines are lacking.
    """
    from gce_backend.cli import ordering

    done = ordering.order_rollout(
        settings, name, lambda _, now, who: pause_rollout(name, reason, now, who)
    )
    _say(f"the roll-out of {name} is paused. {SOON}", done, as_json=as_json)


@rollout.command()
@name_argument
@settings_option
@json_option
def resume(name: str, settings: Settings, *, as_json: bool) -> None:
    """Continues the roll-out of template NAME, which was paused or undone."""
    from gce_backend.cli import ordering

    done = ordering.order_rollout(settings, name, lambda *_: resume_rollout(name))
    continues = f"the roll-out of {name} continues. {SOON}"
    nothing = f"the roll-out of {name} was neither paused nor undone."
    _say(continues if done.before != done.after else nothing, done, as_json=as_json)


@rollout.command()
@name_argument
@settings_option
@reason_option
@json_option
def undo(name: str, settings: Settings, reason: str, *, as_json: bool) -> None:
    """Makes the revision before the active one of template NAME active again.

    Its machines come back as in every roll-out. It stays active until `rollout resume`, or until
    templates.cfg describes another revision than the one that is undone.
    """
    from gce_backend.cli import ordering

    done = ordering.order_rollout(
        settings, name, lambda one, now, who: undo_rollout(name, one, reason, now, who)
    )
    _say(f"the last revision of {name} is undone. {SOON}", done, as_json=as_json)


def _say(told: str, done: Ordered, *, as_json: bool) -> None:
    say(told, shown(done.after, SystemClock().now()), as_json=as_json)
