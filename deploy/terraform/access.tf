# Who the daemon is, and what it may do: no more than what it does.
resource "google_service_account" "daemon" {
  account_id   = "gce-backend"
  display_name = "GCE Backend: keeps the fleet"
  depends_on   = [google_project_service.needed]
}

locals {
  daemon         = "serviceAccount:${google_service_account.daemon.email}"
  fleet_projects = setunion(var.fleet_projects, [var.project])

  # Compared with src/gce_backend/setup/permissions.py by tests/documents/test_deploy.py.
  compute_permissions = [
    "compute.disks.create",
    "compute.disks.setLabels",
    "compute.globalOperations.get",
    "compute.images.get",
    "compute.images.getFromFamily",
    "compute.images.useReadOnly",
    "compute.instanceGroupManagers.create",
    "compute.instanceGroupManagers.delete",
    "compute.instanceGroupManagers.get",
    "compute.instanceGroupManagers.list",
    "compute.instanceGroupManagers.update",
    "compute.instanceTemplates.create",
    "compute.instanceTemplates.delete",
    "compute.instanceTemplates.get",
    "compute.instanceTemplates.list",
    "compute.instanceTemplates.useReadOnly",
    "compute.instances.create",
    "compute.instances.get",
    "compute.instances.list",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.instances.setServiceAccount",
    "compute.instances.setTags",
    "compute.machineTypes.get",
    "compute.networks.use",
    "compute.networks.useExternalIp",
    "compute.snapshots.get",
    "compute.snapshots.list",
    "compute.snapshots.useReadOnly",
    "compute.subnetworks.use",
    "compute.subnetworks.useExternalIp",
    "compute.zoneOperations.get",
    "compute.zoneOperations.list",
  ]
  # What `gce-backend doctor` looks at; the daemon itself does without.
  look_permissions = [
    "pubsub.subscriptions.get",
    "pubsub.subscriptions.getIamPolicy",
    "pubsub.topics.get",
    "pubsub.topics.getIamPolicy",
  ]
  datastore_permissions = [
    "datastore.databases.get",
    "datastore.entities.create",
    "datastore.entities.delete",
    "datastore.entities.get",
    "datastore.entities.list",
    "datastore.entities.update",
  ]
}

resource "google_project_iam_custom_role" "compute" {
  for_each    = local.fleet_projects
  project     = each.value
  role_id     = "gceBackendFleet"
  title       = "GCE Backend: fleet"
  description = "Makes, reads, resizes and deletes instance templates and managed instance groups."
  permissions = local.compute_permissions
}

resource "google_project_iam_member" "compute" {
  for_each = local.fleet_projects
  project  = each.value
  role     = google_project_iam_custom_role.compute[each.value].id
  member   = local.daemon
}

resource "google_project_iam_custom_role" "datastore" {
  role_id     = "gceBackendStore"
  title       = "GCE Backend: store"
  description = "Reads and writes its entities."
  permissions = local.datastore_permissions
}

resource "google_project_iam_member" "datastore" {
  project = var.project
  role    = google_project_iam_custom_role.datastore.id
  member  = local.daemon
}

resource "google_pubsub_subscription_iam_member" "daemon" {
  subscription = google_pubsub_subscription.messages.id
  role         = "roles/pubsub.subscriber"
  member       = local.daemon
}

# For `gce-backend doctor` on the daemon's VM: it looks at these four, and changes nothing.
resource "google_project_iam_custom_role" "looks" {
  role_id     = "gceBackendLooks"
  title       = "GCE Backend: looks"
  description = "Reads topics, subscriptions and who may use them."
  permissions = local.look_permissions
}

resource "google_pubsub_topic_iam_member" "daemon_looks" {
  for_each = {
    messages    = google_pubsub_topic.messages.id
    dead_letter = google_pubsub_topic.dead_letter.id
  }
  topic  = each.value
  role   = google_project_iam_custom_role.looks.id
  member = local.daemon
}

resource "google_pubsub_subscription_iam_member" "daemon_looks" {
  for_each = {
    messages    = google_pubsub_subscription.messages.id
    dead_letter = google_pubsub_subscription.dead_letter.id
  }
  subscription = each.value
  role         = google_project_iam_custom_role.looks.id
  member       = local.daemon
}

resource "google_project_iam_member" "logging" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = local.daemon
}

# The machines' own service accounts, and no others.
resource "google_service_account_iam_member" "machines" {
  for_each           = var.machine_service_accounts
  service_account_id = "projects/-/serviceAccounts/${each.value}"
  role               = "roles/iam.serviceAccountUser"
  member             = local.daemon
}
