"""The address of the service account of a template's machines.

A template may say `default`, which only the VM itself can resolve. The Machine Provider identifies
a machine's agent by the address of its account, so it needs the address.
"""

from __future__ import annotations

from gce_backend.engine.context import Context
from gce_backend.model.keys import MachineKey

DEFAULT = "default"


async def machine_account(context: Context, key: MachineKey) -> str:
    """The account with which a machine subscribes; "" when it has none.

    Raises:
        MissingEntityError: the machine's revision is not known.
        RemoteError: Compute cannot be asked for the project's default account.
    """
    template = context.fleet.revision_of(key.group).template
    named = template.service_accounts[0].name if template.service_accounts else ""
    if named != DEFAULT:
        return named
    known = context.memory.default_accounts
    if template.project not in known:
        found = await context.compute.get_instance(template.project, key.zone, key.name)
        if not found.service_accounts:
            return ""
        known[template.project] = found.service_accounts[0].email
    return known[template.project]
