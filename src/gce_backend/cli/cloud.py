"""`gce-backend localcloud`: the embedded cloud alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gce_backend.cli.common import (
    Signals,
    config_option,
    run_until_interrupted,
    state_option,
    vm_command_option,
)

if TYPE_CHECKING:
    from gce_backend.localcloud.cloud import Cloud


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8090,
    show_default=True,
    help="TCP port; 0 for any free one.",
)
@click.option("--project", default="local-project", show_default=True, help="Its project.")
@click.option("--no-latency", is_flag=True, help="Let all operations finish immediately.")
@click.option(
    "--no-auth",
    is_flag=True,
    help="Also serve requests without a token, as clients send them to emulators.",
)
@vm_command_option
@config_option
@state_option
def localcloud(
    host: str,
    port: int,
    project: str,
    vm_command: tuple[str, ...],
    config_dir: Path,
    state: Path,
    *,
    no_latency: bool,
    no_auth: bool,
) -> None:
    """Runs the embedded cloud alone.

    Its URL is the first line that it prints.
    """
    from gce_backend.base import logs
    from gce_backend.base.clock import SystemClock
    from gce_backend.localcloud.assembly import embedded_cloud
    from gce_backend.localcloud.cloud import CloudOptions
    from gce_backend.web.pages.provider_site import embedded_pages

    options = CloudOptions(
        project=project,
        config_dir=config_dir,
        authenticate=not no_auth,
        vm_command=vm_command,
        vm_directory=state.parent / "vms",
    )
    logs.configure("auto", "info", sys.stderr)
    clock = SystemClock()
    cloud = embedded_cloud(
        state,
        clock,
        options.instant() if no_latency else options,
        pages=embedded_pages(clock),
    )
    run_until_interrupted(_run(cloud, host, port))


async def _run(cloud: Cloud, host: str, port: int) -> None:
    import structlog

    from gce_backend.base.http_server import cannot_listen
    from gce_backend.base.tasks import first_of
    from gce_backend.settings.settings import is_loopback

    signals = Signals()
    try:
        url = await cloud.start(host, port)
    except OSError as error:
        await cloud.close()
        raise cannot_listen(host, port, error, "--port") from error
    click.echo(url)
    if not is_loopback(host):
        click.echo(
            f"everybody who reaches {host} gets tokens and may do everything here: the embedded "
            "cloud does not check its callers",
            err=True,
        )
    structlog.get_logger().info("localcloud.started", url=url, project=cloud.options.project)
    try:
        await first_of(signals.first.wait(), cloud.wait())
    finally:
        await cloud.close()
