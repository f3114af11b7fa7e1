variable "project" {
  description = "The Google Cloud project of the daemon, its Datastore and its messages."
  type        = string
}

variable "region" {
  description = "Region of the daemon's VM and of the image repository."
  type        = string
  default     = "us-central1"
}

variable "zone" {
  description = "Zone of the daemon's VM."
  type        = string
  default     = "us-central1-b"
}

variable "standby_zone" {
  description = "Zone of a second VM, whose daemon stands by and takes over (store.leader_election). Empty: there is none."
  type        = string
  default     = ""
}

variable "datastore_location" {
  description = "Location of the Firestore database in Datastore mode; it cannot be changed later."
  type        = string
  default     = "nam5"
}

variable "create_datastore" {
  description = "Whether to make the (default) database; false where the project has one in Datastore mode."
  type        = bool
  default     = true
}

variable "fleet_projects" {
  description = "The projects that templates.cfg names, if not only the daemon's own."
  type        = set(string)
  default     = []
}

variable "machine_service_accounts" {
  description = "E-mail addresses of the service accounts that templates.cfg gives to machines: the daemon may use these and no others."
  type        = set(string)
  default     = []
}

variable "machine_provider_service_account" {
  description = "The Machine Provider's service account, which publishes messages. Empty: nobody may yet."
  type        = string
  default     = ""
}

variable "run_machine_provider" {
  description = "Whether to make a service account and a role for this project's own Machine Provider (gce-backend machine-provider)."
  type        = bool
  default     = false
}

variable "image" {
  description = "The daemon's image by digest, e.g. us-central1-docker.pkg.dev/my-project/gce-backend/gce-backend@sha256:... Empty: everything but the VM is made, so that there is a repository to push to."
  type        = string
  default     = ""

  validation {
    condition     = var.image == "" || can(regex("@sha256:[0-9a-f]{64}$", var.image))
    error_message = "Name the image by its digest (…@sha256:…): a tag may change under a running fleet."
  }
}

variable "machine_type" {
  description = "The daemon's VM. 10,000 machines need about 100 MB of memory and a few percent of a CPU."
  type        = string
  default     = "e2-small"
}

variable "network" {
  description = "Network of the daemon's VM; it needs a way to Google's APIs (Private Google Access or NAT)."
  type        = string
  default     = "default"
}

variable "subnetwork" {
  description = "Subnetwork of the daemon's VM. Empty: the network's own in that region."
  type        = string
  default     = ""
}

variable "settings" {
  description = "Process settings beside the project, as GCE_BACKEND_* variables without that prefix, e.g. { MACHINE_PROVIDER__ALLOWED_HOSTS = \"mp.example.com\" }. No secrets: metadata is readable on the VM."
  type        = map(string)
  default     = {}
}
