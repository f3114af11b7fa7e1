#!/bin/sh
# Start-up script of a template: installs the agent that the metadata key gce-backend-agent holds,
# and lets sshd read the lessee's keys from the agent's file. It may run at every boot.
set -eu

login=lessee
root=${DESTDIR:-}
library=/usr/local/lib/gce-backend-agent
keys=/var/lib/gce-backend-agent/authorized_keys
sshd=/etc/ssh/sshd_config.d/gce-backend-agent.conf
unit=/etc/systemd/system/gce-backend-agent.service
export METADATA="${GCE_METADATA_HOST:-metadata.google.internal}"

id "$login" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --password '*' "$login"

for directory in "$library" "$keys" /etc/gce-backend-agent "${sshd%/*}" "${unit%/*}"; do
    mkdir -p "$root$directory"
done
python3 - "$root$library/agent.py.new" <<'END'
import os
import sys
import urllib.request

host = os.environ["METADATA"]
url = f"http://{host}/computeMetadata/v1/instance/attributes/gce-backend-agent"
request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
with urllib.request.urlopen(request, timeout=30) as answer, open(sys.argv[1], "wb") as file:
    file.write(answer.read())
END
mv "$root$library/agent.py.new" "$root$library/agent.py"

cat >"$root$sshd" <<END
Match User $login
    AuthorizedKeysFile $keys/%u
    PasswordAuthentication no
Match all
END
systemctl try-reload-or-restart ssh.service sshd.service 2>/dev/null || true

cat >"$root$unit" <<END
[Unit]
Description=Agent of a leased machine
After=network-online.target
Wants=network-online.target

[Service]
ExecStart=/usr/bin/env python3 $library/agent.py --login $login
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable gce-backend-agent.service
systemctl restart gce-backend-agent.service
