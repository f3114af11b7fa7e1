# The daemon's image: two stages on one pinned base, dependencies by hash, no root, nothing to write.
# tests/documents/test_container.py carries out every step of this file without a Docker engine.
# A newer base: `docker buildx imagetools inspect python:3.11-slim-bookworm`, and both lines below.
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d AS build

# The base's pip installs into the environment, which has none of its own.
ENV PIP_PYTHON=/opt/gce-backend/bin/python3 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/gce-backend
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
# What only installing needs stays behind.
RUN pip install --no-deps --no-build-isolation . && pip uninstall --yes setuptools

FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

LABEL org.opencontainers.image.title="gce-backend" \
      org.opencontainers.image.description="Keeps fleets of Google Compute Engine VMs for a Machine Provider."
COPY --from=build /opt/gce-backend /opt/gce-backend
ENV PATH=/opt/gce-backend/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    GCE_BACKEND_LOG__FORMAT=json \
    GCE_BACKEND_HTTP__PORT=8080
USER 65532:65532
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['GCE_BACKEND_HTTP__PORT']}/healthz\", timeout=4)"]
ENTRYPOINT ["gce-backend"]
CMD ["run"]
