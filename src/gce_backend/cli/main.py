"""The group that all commands belong to."""

from __future__ import annotations

import os
from typing import Any

import click

from gce_backend.cli.lazy import Commands, Entry, LazyGroup

COMMANDS = {
    "run": Entry("daemon", "run", "Runs the daemon, until Ctrl-C or SIGTERM."),
    "machine-provider": Entry(
        "provider", "machine_provider", "Runs a Machine Provider, until Ctrl-C or SIGTERM."
    ),
    "agent": Entry("agent", "agent", "Writes the agent of leased machines to DIRECTORY."),
    "localcloud": Entry("cloud", "localcloud", "Runs the embedded cloud alone."),
    "demo": Entry("demo", "demo", "Shows the life of a fleet in a minute, and verifies each step."),
    "validate": Entry("prepare", "validate", "Checks templates.cfg and managers.cfg."),
    "configure": Entry(
        "prepare", "configure", "Stores where configuration and Machine Provider are."
    ),
    "setup": Entry(
        "prepare", "setup", "Creates what the daemon or a Machine Provider needs in its project."
    ),
    "adopt": Entry("adopt", "adopt", "Adopts templates and groups that do not name their store."),
    "leaks": Entry(
        "leaks", "leaks", "Lists what carries this store's mark and belongs to nothing."
    ),
    "doctor": Entry(
        "doctor", "doctor", "Checks everything that a daemon with these settings needs."
    ),
    "plan": Entry("plan", "plan", "Shows what a configuration would change."),
    "status": Entry("status", "status", "Shows the fleet at a glance, problems first."),
    "explain": Entry("explain", "explain", "Shows everything about a machine, group or template."),
    "machines": Entry("listing", "machines", "Lists the machines of the fleet."),
    "groups": Entry("listing", "groups", "Lists the groups of the fleet."),
    "templates": Entry("listing", "templates", "Lists the templates of the fleet."),
    "rollout": Entry("rollout", "rollout", "Shows, pauses, resumes and undoes roll-outs."),
    "events": Entry("events", "events", "Lists events, the newest last."),
    "lease": Entry("leases", "lease", "Leases a machine from the Machine Provider."),
    "release": Entry("leases", "release", "Releases a leased machine, or cancels a request."),
    "leases": Entry("lending", "leases", "Lists leases that wait or run."),
    "catalog": Entry(
        "lending",
        "catalog",
        "Lists the machines in the Machine Provider's catalog, or cordons some.",
    ),
    "extend": Entry("lending", "extend", "Extends a lease to DURATION from now."),
    "hold": Entry("lending", "hold", "Keeps a lease's machines to investigate a failure."),
    "transfer": Entry("lending", "transfer", "Makes a lease another user's."),
    "with-machine": Entry(
        "lending", "with_machine", "Leases machines, runs COMMAND here, and releases them."
    ),
    "shell": Entry("lending", "shell", "Leases a machine, opens a shell there, and releases it."),
    "exec": Entry("lending", "execute", "Leases a machine, runs COMMAND there, and releases it."),
    "pause": Entry("orders", "pause", "Stops all changes to the fleet; observing continues."),
    "resume": Entry("orders", "resume", "Ends a pause."),
    "drain": Entry("orders", "drain", "Removes machines from the fleet after their leases end."),
    "undrain": Entry("orders", "undrain", "Keeps drained machines."),
    "cordon": Entry("orders", "cordon", "Keeps machines' VMs, and does not offer them."),
    "uncordon": Entry("orders", "uncordon", "Ends the cordon of machines."),
    "approve": Entry("orders", "approve", "Approves a held configuration."),
    "lift-cap": Entry("orders", "lift_cap", "Lifts the caps on deletions for a while."),
    "messages": Entry("orders", "messages", "Lists or acknowledges messages that were set aside."),
    "completion": Entry("completion", "completion", "Prints the completion script of SHELL."),
    "version": Entry("version", "version", "Prints the version."),
}
"""Every command. A module is imported when its command is called, so that all start light."""


def _no_colours(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked or os.environ.get("NO_COLOR"):
        context.color = False


no_color_option = click.option(
    "--no-color",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_no_colours,
    help="Print without colours; the variable NO_COLOR does the same.",
)


class Main(LazyGroup):
    """The group of all commands."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; the project's own errors become a message and exit code 1.

        When other settings could help, the message names the places of settings files.
        """
        try:
            return super().invoke(ctx)
        except Exception as error:  # what an error is imports more than a list of commands needs
            from gce_backend.base.errors import (
                BackendError,
                NoDaemonError,
                RemoteError,
                SettingsError,
            )
            from gce_backend.cli.settings_file import search_of

            if not isinstance(error, BackendError):
                raise
            looked = search_of(ctx)
            other = isinstance(error, NoDaemonError | RemoteError | SettingsError)
            text = f"{error}\n{looked}" if looked is not None and other else str(error)
            raise click.ClickException(text) from None


@click.group(
    cls=Main,
    commands=Commands(COMMANDS, no_color_option),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@no_color_option
@click.version_option(package_name="gce-backend", prog_name="gce-backend")
def main() -> None:
    """Keeps fleets of Compute Engine VMs for a Machine Provider."""
