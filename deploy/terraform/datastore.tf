# What the daemon knows. Losing it is the one thing that is hard to make good: it is protected from
# deletion, can be wound back by the minute for a week, and is copied every day.
resource "google_firestore_database" "default" {
  count                             = var.create_datastore ? 1 : 0
  name                              = "(default)"
  location_id                       = var.datastore_location
  type                              = "DATASTORE_MODE"
  concurrency_mode                  = "OPTIMISTIC"
  point_in_time_recovery_enablement = "POINT_IN_TIME_RECOVERY_ENABLED"
  delete_protection_state           = "DELETE_PROTECTION_ENABLED"
  deletion_policy                   = "ABANDON"
  depends_on                        = [google_project_service.needed]
}

resource "google_firestore_backup_schedule" "daily" {
  count     = var.create_datastore ? 1 : 0
  database  = google_firestore_database.default[0].name
  retention = "604800s" # a week
  daily_recurrence {}
}
