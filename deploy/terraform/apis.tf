# The APIs that the daemon, its VM and `gce-backend setup` and `doctor` call.
resource "google_project_service" "needed" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "datastore.googleapis.com",
    "firestore.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "pubsub.googleapis.com",
  ])
  service            = each.value
  disable_on_destroy = false
}

# Machines are made in these projects.
resource "google_project_service" "compute" {
  for_each           = setsubtract(var.fleet_projects, [var.project])
  project            = each.value
  service            = "compute.googleapis.com"
  disable_on_destroy = false
}
