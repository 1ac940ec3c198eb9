# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build --target worker -t codehornets-ai/worker .              Claude Code, git and bubblewrap
#   docker build --target orchestrator -t codehornets-ai/orchestrator .  neither of them
# `make build` does both with the engine that is there. Behind a proxy that signs what passes through it, hand its
# certificates in: --secret id=ca_bundle,src=/path/to/bundle.pem; they are used to build and do not stay in the image.
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

# What both images run on. Debian's own Python: its security updates come with the base, and no second one is carried.
# checkov:skip=CKV_DOCKER_7: the tag is in the default of BASE_IMAGE, which it does not look up
FROM ${BASE_IMAGE} AS python
COPY deploy/image/install-packages /usr/local/sbin/
RUN --mount=type=secret,id=ca_bundle /usr/local/sbin/install-packages ca-certificates python3 tini tzdata

# What is to be installed, apart from the rest of pyproject.toml: a change there that is none of dependencies must not
# have all of them downloaded again.
FROM python AS dependencies
COPY deploy/image/install-project /usr/local/sbin/
COPY pyproject.toml /src/
RUN /usr/local/sbin/install-project list

# The virtual environment.
FROM python AS build
RUN --mount=type=secret,id=ca_bundle /usr/local/sbin/install-packages python3-venv
WORKDIR /src
COPY deploy/image/install-project /usr/local/sbin/
COPY constraints.txt ./
COPY --from=dependencies /src/dependencies.txt ./
RUN --mount=type=secret,id=ca_bundle --mount=type=cache,target=/root/.cache/pip /usr/local/sbin/install-project dependencies
COPY pyproject.toml README.md LICENSE ./
COPY agent_bus agent_bus
COPY service_kit service_kit
COPY worker_service worker_service
COPY orchestrator_service orchestrator_service
RUN /usr/local/sbin/install-project code

FROM build AS build-orchestrator
RUN rm -rf /opt/codehornets/lib/python3*/site-packages/claude_agent_sdk/_bundled

# User, places and health: the same in both images. No ARG above this line but the base: its value would be part of
# what the layers are cached by.
FROM python AS runtime
RUN groupadd --gid 1000 codehornets \
 && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash codehornets \
 && install -d -o codehornets -g codehornets /shared /shared/pipes /workspace \
 && install -d -o codehornets -g codehornets -m 700 /var/lib/codehornets
COPY --chmod=755 deploy/image/healthcheck deploy/image/codehornets /usr/local/bin/
COPY orchestrator_service/example_team /etc/codehornets
ENV PATH=/usr/local/bin:/opt/codehornets/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    HOME=/home/codehornets \
    SHARED_DIR=/shared \
    TEAM_FILE=/etc/codehornets/team.toml \
    HTTP_HOST=0.0.0.0
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["/usr/local/bin/healthcheck"]
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/codehornets/bin/python", "-P", "-m", "orchestrator_service.container"]

FROM runtime AS orchestrator
COPY --from=build-orchestrator /opt/codehornets /opt/codehornets
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="codehornets-ai orchestrator" \
      org.opencontainers.image.description="API, ledger, scheduler and MCP server of a team of Claude Code agents" \
      org.opencontainers.image.source="https://github.com/codehornets/codehornets-ai" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV HTTP_PORT=8700 \
    LEDGER_PATH=/var/lib/codehornets/ledger.sqlite3
WORKDIR /var/lib/codehornets
EXPOSE 8700
USER 1000:1000
CMD ["orchestrator"]

FROM runtime AS worker
RUN --mount=type=secret,id=ca_bundle /usr/local/sbin/install-packages bubblewrap git procps
# The root of a volume may belong to somebody else who lets user 1000 write, as on Kubernetes, where it is root's. Git
# would refuse a repository there.
RUN git config --system --add safe.directory /workspace
COPY --from=build /opt/codehornets /opt/codehornets
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="codehornets-ai worker" \
      org.opencontainers.image.description="One worker of a team of Claude Code agents, with Claude Code and git" \
      org.opencontainers.image.source="https://github.com/codehornets/codehornets-ai" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV HTTP_PORT=8080 \
    WORKSPACE=/workspace
WORKDIR /workspace
EXPOSE 8080
USER 1000:1000
CMD ["worker"]
