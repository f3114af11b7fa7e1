"""Airflow's hooks for Compute Engine and Datastore against the embedded cloud."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from airflow.providers.google.cloud.hooks.compute import ComputeEngineHook
from airflow.providers.google.cloud.hooks.datastore import DatastoreHook

PROJECT = os.environ["PROJECT"]
ZONE = "us-central1-a"
results: list[bool] = []


def attempt(name: str, work: Callable[[], Any]) -> Any:
    """Tries something, and says how it went."""
    try:
        found = work()
    except Exception as error:  # noqa: BLE001  # whatever a library raises is a failed attempt
        results.append(False)
        print(f"FAIL {name}: {type(error).__name__}: {str(error)[:400]}")
        return None
    results.append(True)
    print(f"ok   {name} {str(found)[:100]}")
    return found


def template(name: str) -> dict[str, Any]:
    """An instance template."""
    disk = {
        "boot": True,
        "auto_delete": True,
        "initialize_params": {
            "source_image": "projects/debian-cloud/global/images/family/debian-13"
        },
    }
    return {
        "name": name,
        "properties": {
            "machine_type": "e2-small",
            "disks": [disk],
            "network_interfaces": [{"network": "global/networks/default"}],
        },
    }


def compute() -> None:
    """ComputeEngineHook."""
    hook = ComputeEngineHook()
    vm = {"project_id": PROJECT, "zone": ZONE, "resource_id": "airflow-vm"}
    properties = template("")["properties"]
    body = {
        "name": "airflow-vm",
        **properties,
        "machine_type": f"zones/{ZONE}/machineTypes/e2-small",
    }
    attempt(
        "insert_instance", lambda: hook.insert_instance(body=body, zone=ZONE, project_id=PROJECT)
    )
    attempt("get_instance", lambda: hook.get_instance(**vm).name)
    attempt("stop_instance", lambda: hook.stop_instance(**vm))
    attempt(
        "set_machine_type",
        lambda: hook.set_machine_type(
            zone=ZONE,
            resource_id="airflow-vm",
            body={"machineType": f"zones/{ZONE}/machineTypes/n2-standard-2"},
            project_id=PROJECT,
        ),
    )
    attempt("start_instance", lambda: hook.start_instance(**vm))
    attempt(
        "insert_instance_template",
        lambda: hook.insert_instance_template(body=template("airflow-t"), project_id=PROJECT),
    )
    attempt(
        "get_instance_template",
        lambda: hook.get_instance_template(resource_id="airflow-t", project_id=PROJECT).name,
    )
    link = f"projects/{PROJECT}/global/instanceTemplates/airflow-t"
    group = {
        "name": "airflow-g",
        "base_instance_name": "airflow-g",
        "instance_template": link,
        "target_size": 2,
    }
    attempt(
        "insert_instance_group_manager",
        lambda: hook.insert_instance_group_manager(body=group, zone=ZONE, project_id=PROJECT),
    )
    where = {"resource_id": "airflow-g", "zone": ZONE, "project_id": PROJECT}
    attempt(
        "get_instance_group_manager",
        lambda: hook.get_instance_group_manager(**where).target_size,
    )
    attempt(
        "patch_instance_group_manager",
        lambda: hook.patch_instance_group_manager(body={"target_size": 3}, **where),
    )
    attempt("delete_instance_group_manager", lambda: hook.delete_instance_group_manager(**where))
    time.sleep(1)
    attempt(
        "delete_instance_template",
        lambda: hook.delete_instance_template(resource_id="airflow-t", project_id=PROJECT),
    )
    attempt("delete_instance", lambda: hook.delete_instance(**vm))


def datastore() -> None:
    """DatastoreHook."""
    hook = DatastoreHook()
    path = {"path": [{"kind": "Airflow", "name": "a"}]}
    entity = {"key": path, "properties": {"n": {"integerValue": 1}}}
    attempt(
        "allocate_ids",
        lambda: hook.allocate_ids(
            partial_keys=[{"path": [{"kind": "Airflow"}]}], project_id=PROJECT
        ),
    )
    transaction = attempt(
        "begin_transaction",
        lambda: hook.begin_transaction(project_id=PROJECT, transaction_options={"readWrite": {}}),
    )
    attempt(
        "commit",
        lambda: hook.commit(
            body={
                "mode": "TRANSACTIONAL",
                "transaction": transaction,
                "mutations": [{"upsert": entity}],
            },
            project_id=PROJECT,
        ),
    )
    attempt("lookup", lambda: hook.lookup(keys=[path], project_id=PROJECT)["found"])
    attempt(
        "run_query",
        lambda: hook.run_query(body={"query": {"kind": [{"name": "Airflow"}]}}, project_id=PROJECT),
    )
    attempt(
        "run_query of GQL",
        lambda: hook.run_query(
            body={
                "gqlQuery": {
                    "queryString": "SELECT * FROM Airflow WHERE n = 1",
                    "allowLiterals": True,
                }
            },
            project_id=PROJECT,
        ),
    )
    other = hook.begin_transaction(project_id=PROJECT, transaction_options={"readOnly": {}})
    attempt("rollback", lambda: hook.rollback(transaction=other, project_id=PROJECT))


compute()
datastore()
print(f"{sum(results)} of {len(results)}")
sys.exit(0)
