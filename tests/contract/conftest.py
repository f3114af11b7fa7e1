"""One run of the contract: its servers, and at the end nothing of it is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contract.leftovers import remove
from contract.servers import Contract, contract
from support.fleet_harness import manager, template


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contract]:
    """The servers; what the run has made is taken away, whatever became of its tests."""
    config = tmp_path_factory.mktemp("config")
    (config / "templates.cfg").write_text(template("one"))
    (config / "managers.cfg").write_text(manager("one"))
    with contract(config) as made:
        yield made
        made.ask(lambda clients: remove(made, clients, made.run))
