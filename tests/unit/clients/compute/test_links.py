"""Resource links: what is understood, what is refused, what is rebuilt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.clients.compute.links import CANONICAL_ROOT, ResourceLink, resource_path

PATH = "projects/p-1/zones/us-central1-a/instances/vm-1"
NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    "text",
    [
        PATH,
        CANONICAL_ROOT + PATH,
        f"https://www.googleapis.com/compute/v1/{PATH}",
        f"https://www.googleapis.com/compute/beta/{PATH}",
        f"//compute.googleapis.com/{PATH}",
        f"http://127.0.0.1:8080/compute/v1/{PATH}",
        f"https://evil.example/{PATH}",
    ],
)
def test_every_host_gives_the_same_link_on_the_canonical_root(text: str) -> None:
    """The host in a link never decides where a request goes."""
    link = ResourceLink.parse(text)
    assert link == ResourceLink("p-1", "zones/us-central1-a", "instances", "vm-1")
    assert link.path == PATH
    assert link.url == CANONICAL_ROOT + PATH
    assert link.zone == "us-central1-a"


@pytest.mark.parametrize(
    ("text", "scope", "zone"),
    [
        ("projects/example.com:p/global/instanceTemplates/t", "global", None),
        ("projects/12345/regions/r-1/operations/operation-1-2-3-4", "regions/r-1", None),
        ("projects/p/zones/z/instances/1234567890", "zones/z", "z"),
    ],
)
def test_all_scopes_and_kinds_of_project_are_understood(
    text: str, scope: str, zone: str | None
) -> None:
    """Domain-scoped projects, project numbers, numeric ids."""
    link = ResourceLink.parse(text)
    assert (link.scope, link.zone, link.path) == (scope, zone, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vm-1",
        "zones/z/instances/vm",
        "projects/p/zones/z/instances",
        "projects/p/zones/z/instances/",
        "projects/p/zones/z/instances/VM",
        "projects/p/zones/z/instances/vm-",
        "projects/p/zones/z/instances/" + "a" * 64,
        "projects/p/zones/z/instances/vm/more",
        "projects/p/zones/z/instances/vm?alt=media",
        "projects/p/zones/z/instances/vm#x",
        "projects/p/zones/z/instances/vm\n",
        "projects/p/zones/../instances/vm",
        "projects/p/zones/%2e%2e/instances/vm",
        "projects/p/aggregated/instances/vm",
        "projects//zones/z/instances/vm",
        "https://user:word@host/compute/v1/projects/p/zones/z/instances/vm",
        "https:projects/p/zones/z/instances/vm",
        "ftp://host/projects/p/zones/z/instances/vm",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    """What is not exactly a link to a resource is none."""
    with pytest.raises(ValueError, match="not a link"):
        ResourceLink.parse(text)


@given(text=st.text(max_size=80))
def test_any_text_is_a_link_or_a_value_error(text: str) -> None:
    """Nothing else escapes, and what is understood rebuilds to itself."""
    for candidate in (text, f"projects/p/zones/z/instances/{text}"):
        try:
            link = ResourceLink.parse(candidate)
        except ValueError:
            continue
        assert link.path == candidate


@given(project=NAMES, zone=NAMES, name=NAMES)
def test_links_survive_being_written_and_read(project: str, zone: str, name: str) -> None:
    """Path and URL parse to the same link."""
    link = ResourceLink(project, f"zones/{zone}", "operations", name)
    assert ResourceLink.parse(link.path) == ResourceLink.parse(link.url) == link


@pytest.mark.parametrize(
    "parts",
    [
        ("p/..", "zones/z", "instances", "vm"),
        ("p", "zones/z/../y", "instances", "vm"),
        ("p", "zones/", "instances", "vm"),
        ("p", "zones/z", "instances/x", "vm"),
        ("p", "zones/z", "instances", "../vm"),
        ("p", "zones/z", "instances", ""),
        ("p", "aggregated", "instances", "vm"),
    ],
)
def test_no_part_can_change_the_meaning_of_a_path(parts: tuple[str, str, str, str]) -> None:
    """Every part is checked, also when a link is built rather than parsed."""
    with pytest.raises(ValueError):  # noqa: PT011  (the words differ by part)
        ResourceLink(*parts)


def test_an_empty_name_does_not_turn_a_resource_into_its_collection() -> None:
    """Deleting '' must not become deleting on the collection."""
    with pytest.raises(ValueError, match="resource name"):
        resource_path("p", "global", "instanceTemplates", "")
    assert resource_path("p", "zones/z") == "projects/p/zones/z"
    assert resource_path("p", "aggregated", "instances") == "projects/p/aggregated/instances"
