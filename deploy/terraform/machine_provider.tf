# Who this project's own Machine Provider is, and what it may do. It runs as this account on a VM of
# yours (deploy/systemd/gce-backend-machine-provider.service) or in a container.
resource "google_service_account" "machine_provider" {
  count        = var.run_machine_provider ? 1 : 0
  account_id   = "machine-provider"
  display_name = "GCE Backend: leases machines"
  depends_on   = [google_project_service.needed]
}

locals {
  # Compared with src/gce_backend/setup/permissions.py by tests/documents/test_deploy.py.
  provider_permissions = [
    "pubsub.subscriptions.create",
    "pubsub.subscriptions.delete",
    "pubsub.subscriptions.setIamPolicy",
    "pubsub.topics.attachSubscription",
    "pubsub.topics.create",
    "pubsub.topics.delete",
    "pubsub.topics.publish",
  ]
}

resource "google_project_iam_custom_role" "machine_provider" {
  count       = var.run_machine_provider ? 1 : 0
  role_id     = "gceBackendMachineProvider"
  title       = "GCE Backend: Machine Provider"
  description = "Makes, uses and deletes a topic and a subscription for each machine."
  permissions = concat(local.datastore_permissions, local.provider_permissions)
}

resource "google_project_iam_member" "machine_provider" {
  count   = var.run_machine_provider ? 1 : 0
  project = var.project
  role    = google_project_iam_custom_role.machine_provider[0].id
  member  = "serviceAccount:${google_service_account.machine_provider[0].email}"
}
