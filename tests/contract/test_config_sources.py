"""What the config sources expect of a config service, and of a directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.servers import Contract
from gce_backend.base.errors import NotFoundError, UnusableFileError
from gce_backend.clients.config_source import DirectorySource, LuciConfigV1, LuciConfigV2
from gce_backend.configuration.parsing import parse, referenced_files
from gce_backend.daemon.clients import Clients
from support.fleet_harness import manager, template

KINDS = (LuciConfigV1, LuciConfigV2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_is_of_one_revision_and_what_is_known_is_not_sent(
    server: Contract, kind: type[LuciConfigV1 | LuciConfigV2]
) -> None:
    """Both files and a revision; None when that revision is known; and it is valid."""

    async def work(clients: Clients) -> None:
        source = server.source(clients, kind, server.options.config_set)
        bundle = await source.fetch(None)
        assert bundle.revision
        parse(bundle.templates_text, bundle.managers_text, bundle.files)
        assert await source.fetch(bundle.revision) is None
        assert await source.fetch("0" * 40) == bundle

    server.ask(work)


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_set_that_is_not_there_is_an_error_and_not_an_empty_configuration(
    server: Contract, kind: type[LuciConfigV1 | LuciConfigV2]
) -> None:
    """Nothing may ever be concluded from it."""

    async def work(clients: Clients) -> None:
        source = server.source(clients, kind, "services/gcebct-absent")
        with pytest.raises(NotFoundError):
            await source.fetch(None)

    server.ask(work)


def test_a_directory_keeps_the_same_contract(server: Contract, tmp_path: Path) -> None:
    """The file system is a server like the others."""
    (tmp_path / "templates.cfg").write_text(template("one"))
    (tmp_path / "managers.cfg").write_text(manager("one"))

    async def work(_: Clients) -> None:
        source = DirectorySource(tmp_path, referenced_files)
        bundle = await source.fetch(None)
        assert bundle is not None
        assert await source.fetch(bundle.revision) is None
        with pytest.raises(UnusableFileError):
            await DirectorySource(tmp_path / "absent", referenced_files).fetch(None)

    server.ask(work)
