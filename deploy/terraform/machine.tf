# The daemon's image and the VM that keeps it running.
resource "google_artifact_registry_repository" "images" {
  repository_id = "gce-backend"
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.needed]
}

resource "google_artifact_registry_repository_iam_member" "daemon" {
  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  member     = local.daemon
}

data "google_compute_image" "cos" {
  family  = "cos-stable"
  project = "cos-cloud"
}

locals {
  zones       = merge({ gce-backend = var.zone }, var.standby_zone == "" ? {} : { gce-backend-standby = var.standby_zone })
  election    = var.standby_zone == "" ? {} : { STORE__LEADER_ELECTION = "true" }
  environment = merge(local.election, var.settings, { PROJECT = var.project })
  cloud_init = templatefile("${path.module}/cloud-init.yaml", {
    image       = var.image
    registry    = "${var.region}-docker.pkg.dev"
    environment = { for name, value in local.environment : "GCE_BACKEND_${name}" => value }
    probe       = file("${path.module}/../systemd/gce-backend-probe.service")
    timer       = file("${path.module}/../systemd/gce-backend-probe.timer")
  })
}

# A running VM does not read new metadata by itself: another image or setting makes another VM.
resource "terraform_data" "cloud_init" {
  input = local.cloud_init
}

resource "google_compute_instance" "daemon" {
  for_each                  = var.image == "" ? {} : local.zones
  name                      = each.key
  machine_type              = var.machine_type
  zone                      = each.value
  allow_stopping_for_update = true
  deletion_protection       = false # it holds nothing: everything is in Datastore

  boot_disk {
    initialize_params {
      image = data.google_compute_image.cos.self_link
      size  = 10
    }
  }

  network_interface {
    network    = var.subnetwork == "" ? var.network : null
    subnetwork = var.subnetwork == "" ? null : var.subnetwork
  }

  service_account {
    email = google_service_account.daemon.email
    # For Google's APIs the roles decide; the Machine Provider and LUCI Config ask who we are.
    scopes = ["cloud-platform", "userinfo-email"]
  }

  metadata = {
    user-data              = local.cloud_init
    google-logging-enabled = "true"
    enable-oslogin         = "TRUE"
  }

  shielded_instance_config {
    enable_secure_boot = true
  }

  lifecycle {
    ignore_changes       = [boot_disk[0].initialize_params[0].image] # COS updates itself
    replace_triggered_by = [terraform_data.cloud_init]

    precondition {
      condition     = var.standby_zone != var.zone
      error_message = "standby_zone is zone: name another one, since the second VM is there for the case that a zone fails."
    }
  }

  depends_on = [
    google_project_iam_member.compute,
    google_project_iam_member.datastore,
    google_pubsub_subscription_iam_member.daemon,
  ]
}

moved {
  from = google_compute_instance.daemon[0]
  to   = google_compute_instance.daemon["gce-backend"]
}
