"""`gce-backend machine-provider`: a Machine Provider on Google's Datastore and Pub/Sub."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from gce_backend.cli.common import (
    Signals,
    examples,
    rng,
    run_until_interrupted,
    serve,
    service_settings_option,
)
from gce_backend.settings.settings import Settings

if TYPE_CHECKING:
    from gce_backend.machine_provider.service import ProviderService


@click.command(
    epilog=examples(
        "gce-backend machine-provider --settings settings.toml",
        "GCE_BACKEND_PROVIDER__ACCESS=access.cfg gce-backend machine-provider",
    )
)
@service_settings_option
@click.option("--check", is_flag=True, help="Only checks access.cfg, with all of its problems.")
def machine_provider(settings: Settings, *, check: bool) -> None:
    """Runs a Machine Provider, until Ctrl-C or SIGTERM.

    Several processes may run on one Datastore namespace: one works, the others stand by and take
    over when it stops or dies.
    """
    from gce_backend.base import logs
    from gce_backend.base.clock import SystemClock
    from gce_backend.machine_provider.service import ProviderService
    from gce_backend.web.pages.provider_site import ProviderSite

    logs.configure(settings.log.format, settings.log.level, sys.stderr)
    clock = SystemClock()
    if check:
        run_until_interrupted(_check(settings))
        return
    service = ProviderService(
        settings,
        clock=clock,
        rng=rng(),
        pages=lambda service: ProviderSite(
            lambda: service.provider,
            service.unready,
            clock,
            access_problem=lambda: service.access_problem,
        ).routes(),
    )
    run_until_interrupted(_run(service))


async def _check(settings: Settings) -> None:
    from gce_backend.base.clock import SystemClock
    from gce_backend.daemon.clients import Clients
    from gce_backend.machine_provider.access_import import address_of, present_access

    clients = Clients(settings, SystemClock(), rng(), None)
    try:
        policy = await present_access(settings.provider, clients.session, clients.identity)
    finally:
        await clients.close()
    for warning in policy.warnings:
        click.echo(str(warning))
    click.echo(f"{address_of(settings.provider)} is valid")


async def _run(service: ProviderService) -> None:
    signals = Signals()
    await service.start()
    await serve(service, signals)
