# syntax=docker/dockerfile:1
# rdpbalancer as a container image; docs/how-to/container.md says how to run it.
#   docker build -t rdpbalancer .

# ---- build: a virtual environment with exactly the locked packages, and rdpbalancer as a wheel ----------
FROM python:3.11.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

COPY requirements/ requirements/
RUN python -m venv /opt/rdpbalancer \
 && /opt/rdpbalancer/bin/pip install --no-deps --only-binary :all: --require-hashes -r requirements/runtime.lock

# What builds the wheel is locked too.
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-deps --only-binary :all: --require-hashes -r requirements/build.lock

COPY pyproject.toml README.md LICENSE ./
COPY rdpbalancer/ rdpbalancer/
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && /opt/rdpbalancer/bin/pip install --no-deps --no-index dist/*.whl \
 && /opt/rdpbalancer/bin/pip uninstall --yes --quiet pip setuptools

# ---- run: Python, that environment, and a user who may do nothing else -----------------------------------
FROM python:3.11.13-slim-bookworm
LABEL org.opencontainers.image.title="rdpbalancer" \
      org.opencontainers.image.description="Load balancer for Microsoft RDP" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.documentation="https://github.com/rdpbalancer/rdpbalancer/tree/main/docs"

RUN groupadd --gid 10001 rdpbalancer \
 && useradd --uid 10001 --gid rdpbalancer --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin rdpbalancer \
 && install -d -o rdpbalancer -g rdpbalancer -m 0750 /run/rdpbalancer /var/lib/rdpbalancer \
 && install -d /etc/rdpbalancer
COPY --from=build /opt/rdpbalancer /opt/rdpbalancer
ENV PATH=/opt/rdpbalancer/bin:$PATH

# Bindings of users and decisions of operators; without a volume they go with the container.
VOLUME /var/lib/rdpbalancer
# RDP, and metrics where the configuration lets others than 127.0.0.1 read them (config/container.yaml).
EXPOSE 3389 9389
# Numbers, so that an orchestrator can see that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
# `status` ends with 69 if the service does not answer; Docker knows 0 and 1 only.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
  CMD ["sh", "-c", "rdpbalancer --quiet status || exit 1"]

ENTRYPOINT ["rdpbalancer"]
CMD ["run", "-c", "/etc/rdpbalancer/rdpbalancer.yaml"]
