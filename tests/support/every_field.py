"""A configuration with every field, and what became of it: for tests of what is created."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.fleet_harness import World, manager

EVERY_FIELD = """
templates {
  base_name: "whole"
  project: "local-project"
  dimensions: "os_family:LINUX"
  dimensions: "linux_flavor:DEBIAN"
  dimensions: "os_version:12"
  image_name: "debian-12"
  image_project: "debian-cloud"
  disk_size_gb: 25
  disk_type: "pd-ssd"
  service_accounts {
    name: "first@local-project.iam.gserviceaccount.com"
    scopes: "https://www.googleapis.com/auth/cloud-platform"
  }
  service_accounts {
    name: "second@local-project.iam.gserviceaccount.com"
    scopes: "https://www.googleapis.com/auth/pubsub"
  }
  tags: "one"
  tags: "two"
  metadata: "colour:blue:green"
  metadata_from_file: "startup-script:scripts/start.sh"
  machine_type: "n2-custom-8-16384"
  min_cpu_platform: "Intel Ice Lake"
  labels: "team:infra"
  local_ssds: 1
  additional_disks { size_gb: 200 disk_type: "pd-balanced" labels: "contents:cache" }
  additional_disks { size_gb: 10 auto_delete: false }
  guest_accelerators: "nvidia-tesla-t4:1"
  secure_boot: true
  confidential_type: "SEV"
  reservation: "held"
  resource_policies: "near"
  network_url: "regions/us-central1/subnetworks/inner"
  auto_assign_external_ip: true
}
templates {
  base_name: "snapped"
  project: "local-project"
  dimensions: "os_family:LINUX"
  boot_snapshot_name: "system"
  snapshot_name: "checkout"
  snapshot_labels: "contents:checkout"
  snapshot_labels: "age:new"
  disk_type: "pd-balanced"
  service_accounts { name: "default" scopes: "https://www.googleapis.com/auth/pubsub" }
  machine_type: "e2-standard-4"
}
templates {
  base_name: "bare"
  project: "local-project"
  dimensions: "os_family:LINUX"
  image_name: "debian-12"
  service_accounts { name: "default" scopes: "https://www.googleapis.com/auth/pubsub" }
  machine_type: "e2-small"
}
"""
ONE_OF_EACH = "".join(manager(name, minimum=1) for name in ("whole", "snapped", "bare"))


def write_script(tmp_path: Path) -> None:
    """The file that the template's metadata come from."""
    scripts = tmp_path / "config" / "scripts"
    scripts.mkdir(parents=True)
    (scripts / "start.sh").write_text("#!/bin/sh\necho hello\n")


async def active_revision(w: World, base_name: str) -> dict[str, Any]:
    """A template's active revision as the daemon shows it."""
    fleet = await w.get("/api/fleet")
    found = next(t for t in fleet["templates"] if t["base_name"] == base_name)
    revision: dict[str, Any] = next(r for r in found["revisions"] if r["state"] == "active")
    return revision


async def instance_template(w: World, base_name: str) -> dict[str, Any]:
    """A template's instance template at Compute."""
    name = (await active_revision(w, base_name))["instance_template"]
    found: dict[str, Any] = await w.compute("GET", f"global/instanceTemplates/{name}")
    return found
