"""The Datastore client: plain JSON through gcloud-aio-datastore, typed values, guarded commits."""
