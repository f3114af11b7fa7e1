"""The Dockerfile: pinned, hash-checked, small, and what it makes runs, is probed and stops."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from gce_backend.cli import main
from gce_backend.settings.settings import load
from processes.running import Site, site, until
from support.container import Container, build, instructions
from support.patience import PATIENCE

ROOT = Path(__file__).parents[2]
MAX_MEGABYTES = 100


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Container:
    """What the Dockerfile makes."""
    return build(ROOT, tmp_path_factory.mktemp("image"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    """A place for a cloud, with an empty configuration."""
    with site(tmp_path) as made:
        (made.config / "templates.cfg").write_text("")
        (made.config / "managers.cfg").write_text("")
        yield made


def test_every_stage_has_the_same_base_pinned_by_digest() -> None:
    """A tag may come to mean another image; a digest cannot."""
    bases = [
        value.split()[0]
        for instruction, value in instructions(ROOT / "Dockerfile")
        if instruction == "FROM"
    ]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", bases[0])


def test_everything_is_installed_by_hash_and_nothing_else() -> None:
    """Each pip call either checks hashes or takes nothing from outside."""
    commands = [
        value
        for instruction, value in instructions(ROOT / "Dockerfile")
        if instruction == "RUN" and "pip install" in value
    ]
    assert len(commands) == 2
    for command in commands:
        assert "--require-hashes -r requirements.lock" in command or (
            "--no-deps" in command and "--no-build-isolation" in command
        )


def test_the_image_is_small_and_holds_no_installer(image: Container) -> None:
    """What the image adds to its base, in MB; neither pip nor setuptools are in it."""
    files = [path for path in image.root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < MAX_MEGABYTES * 1_000_000
    packages = {path.name for path in image.root.rglob("site-packages/*")}
    assert "gce_backend" in packages
    assert not {"pip", "setuptools"} & packages


@pytest.mark.real_time
def test_it_runs_without_rights_writes_nothing_is_probed_and_stops(
    image: Container, place: Site, tmp_path: Path
) -> None:
    """The entry point as a process: unwell before it listens, well after, and ends with 0."""
    assert image.user == "65532:65532"
    place.start_cloud("--no-latency")
    place.set_up()
    log = tmp_path / "container.log"
    port = str(_free_port())
    variables = {**place.environment, "GCE_BACKEND_HTTP__PORT": port}

    def probe() -> int:
        process = image.start(image.probe, tmp_path, tmp_path / "probe.log", **variables)
        return process.wait(timeout=PATIENCE)

    assert probe() != 0
    daemon = image.start(image.command, tmp_path, log, **variables)
    try:
        until(lambda: '"message":"store.loaded"' in log.read_text(), log.read_text)
        assert probe() == 0
        until(lambda: place.get("/readyz", f"http://127.0.0.1:{port}")["ok"], log.read_text)
    finally:
        daemon.send_signal(getattr(signal, image.stop_signal))
        assert daemon.wait(timeout=PATIENCE) == 0
    assert "WROTE" not in log.read_text()


def test_compose_runs_both_services_with_settings_that_exist() -> None:
    """One image, no rights, nothing to write; each health check looks where its service listens."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services.keys() == {"daemon", "machine-provider"}
    loaded = {name: load(None, one["environment"]) for name, one in services.items()}
    provider = loaded["machine-provider"]
    assert provider.provider.port == provider.http.port
    assert provider.http.port != loaded["daemon"].http.port
    mounted = Path("/etc/gce-backend/config")
    assert provider.provider.access == mounted / "access.cfg"
    assert loaded["daemon"].config.directory == mounted
    for service in services.values():
        assert service["command"][0] in main.list_commands(click.Context(main))
        assert (service["build"], service["read_only"], service["cap_drop"]) == (".", True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["volumes"] == [f"./config:{mounted}:ro"]


@pytest.mark.real_time
def test_the_watch_for_writes_sees_them(image: Container, tmp_path: Path) -> None:
    """What shows that the daemon writes nothing does show a write."""
    log = tmp_path / "writer.log"
    command = ["python3", "-c", f"open({str(tmp_path / 'new')!r}, 'w')"]
    assert image.start(command, tmp_path, log).wait(timeout=PATIENCE) == 0
    assert f"WROTE {tmp_path / 'new'}" in log.read_text()


def _free_port() -> int:

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
