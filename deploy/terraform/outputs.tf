output "service_account" {
  description = "Who the daemon is: the Machine Provider and the config service must know it."
  value       = google_service_account.daemon.email
}

output "repository" {
  description = "Where to push the image."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.name}"
}

output "topic" {
  description = "What the Machine Provider publishes to."
  value       = google_pubsub_topic.messages.id
}

output "look" {
  description = "Brings the status page to http://127.0.0.1:8080."
  value       = "gcloud compute ssh gce-backend --project ${var.project} --zone ${var.zone} --tunnel-through-iap -- -N -L 8080:127.0.0.1:8080"
}
