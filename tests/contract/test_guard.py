"""The guard: what a run has not made cannot be touched, and money is not spent unasked."""

from __future__ import annotations

import pytest

from contract.servers import PREFIX, VARIABLES, Contract, Untouchable, check_harmless, options_from
from gce_backend.base.errors import SettingsError
from gce_backend.daemon.clients import Clients

ROOT = "https://compute.googleapis.com/compute/v1/projects/p"


@pytest.mark.parametrize(
    ("verb", "url", "body"),
    [
        ("DELETE", f"{ROOT}/global/instanceTemplates/production", b""),
        ("POST", f"{ROOT}/zones/z/instanceGroupManagers", b'{"name": "production"}'),
        ("POST", f"{ROOT}/zones/z/instances/vm-1/setMetadata?requestId={PREFIX}", b"{}"),
        ("POST", "https://datastore.googleapis.com/v1/projects/p:commit", b'{"mutations": []}'),
        ("PUT", "https://pubsub.googleapis.com/v1/projects/p/topics/machine-provider", b"{}"),
    ],
)
def test_a_request_that_names_nothing_of_a_run_is_not_sent(
    verb: str, url: str, body: bytes
) -> None:
    """Whatever test made it, and by whatever mistake."""
    with pytest.raises(Untouchable):
        check_harmless(verb, url, body)


@pytest.mark.parametrize(
    ("verb", "url", "body"),
    [
        ("GET", f"{ROOT}/zones/z/instances/vm-1", b""),
        ("DELETE", f"{ROOT}/global/instanceTemplates/{PREFIX}1-x", b""),
        ("POST", "https://datastore.googleapis.com/v1/projects/p:lookup", b"{}"),
        ("POST", f"{ROOT}/zones/z/instanceGroupManagers", f'{{"name": "{PREFIX}1"}}'.encode()),
    ],
)
def test_reads_and_what_a_run_has_made_pass(verb: str, url: str, body: bytes) -> None:
    """The guard refuses nothing that the contract needs."""
    check_harmless(verb, url, body)


def test_every_client_of_the_contract_is_guarded(server: Contract) -> None:
    """Through the real client, on the real session."""

    async def work(clients: Clients) -> None:
        pubsub = clients.pubsub(server.options.project)
        with pytest.raises(Untouchable):
            await pubsub.delete_topic(pubsub.topic("machine-provider"))

    server.ask(work)


def test_a_real_server_needs_a_second_word() -> None:
    """A URL that is not of this machine is refused until the costs are accepted."""
    real = {f"{VARIABLES}DATASTORE": "https://datastore.googleapis.com/v1"}
    with pytest.raises(ValueError, match="ACCEPT_COSTS"):
        options_from(real)
    assert options_from({**real, f"{VARIABLES}ACCEPT_COSTS": "true"}).datastore
    assert options_from({f"{VARIABLES}DATASTORE": "http://127.0.0.1:8081/v1"}).datastore


def test_a_variable_that_means_nothing_is_an_error() -> None:
    """A slip of the pen must not let a run go to another server than was meant."""
    with pytest.raises(SettingsError, match="DATASTOR"):
        options_from({f"{VARIABLES}DATASTOR": "http://127.0.0.1:8081/v1"})
