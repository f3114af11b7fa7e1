# The same topic, subscription and dead-letter pair that `gce-backend setup` makes.
data "google_project" "this" {
  project_id = var.project
}

locals {
  name                 = "machine-provider"
  pubsub_service_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_pubsub_topic" "messages" {
  name       = local.name
  depends_on = [google_project_service.needed]
}

resource "google_pubsub_topic" "dead_letter" {
  name       = "${local.name}-dead-letter"
  depends_on = [google_project_service.needed]
}

resource "google_pubsub_subscription" "messages" {
  name                       = local.name
  topic                      = google_pubsub_topic.messages.id
  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"
  expiration_policy {
    ttl = "" # never
  }
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letter.id
    max_delivery_attempts = 20
  }
}

resource "google_pubsub_subscription" "dead_letter" {
  name                       = "${local.name}-dead-letter"
  topic                      = google_pubsub_topic.dead_letter.id
  message_retention_duration = "604800s"
  expiration_policy {
    ttl = "" # never
  }
}

# Pub/Sub itself moves a message that nobody could deal with.
resource "google_pubsub_topic_iam_member" "dead_letter" {
  topic  = google_pubsub_topic.dead_letter.id
  role   = "roles/pubsub.publisher"
  member = local.pubsub_service_agent
}

resource "google_pubsub_subscription_iam_member" "dead_letter" {
  subscription = google_pubsub_subscription.messages.id
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_service_agent
}

resource "google_pubsub_topic_iam_member" "machine_provider" {
  count  = var.machine_provider_service_account == "" ? 0 : 1
  topic  = google_pubsub_topic.messages.id
  role   = "roles/pubsub.publisher"
  member = "serviceAccount:${var.machine_provider_service_account}"
}
