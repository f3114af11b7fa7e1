#!/bin/sh
# Runs on every VM of the template linux-small whenever it boots.
#
# The Machine Provider gives each VM a subscription of its own. The daemon writes its name into the
# VM's metadata soon after the VM is cataloged; this waits for it and tells the system's log.
set -eu

attributes="http://metadata.google.internal/computeMetadata/v1/instance/attributes"

subscription=""
while [ -z "$subscription" ]; do
  subscription=$(curl -sf -H "Metadata-Flavor: Google" "$attributes/pubsub_subscription") || sleep 5
done
logger -t machine-provider "messages for this machine arrive on $subscription"
