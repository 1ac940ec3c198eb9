#!/usr/bin/env bash
# Make the images that others publish (Debian, Redis, Prometheus, Alertmanager) from Debian's packages, under the same names, and
# settings with which podman runs here. Only for a machine that reaches no image registry: elsewhere the engine pulls
# them by itself and this script is not needed. Needs root, podman, debootstrap and a Debian mirror.
#
#   deploy/local-images.sh          makes what is missing
#   deploy/local-images.sh --again  makes all of them anew
#
# DEBIAN_MIRROR names the mirror; without it the one that this machine's apt uses.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suite=bookworm
debian=docker.io/library/debian:bookworm-slim
redis=docker.io/library/redis:7-bookworm
prometheus=docker.io/prom/prometheus:v2.53.4
alertmanager=docker.io/prom/alertmanager:v0.28.1

for program in podman debootstrap; do
  command -v "${program}" > /dev/null || { echo "${program} is missing; install it (apt install ${program})." >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "debootstrap needs root; run this as root." >&2; exit 2; }
mirror=${DEBIAN_MIRROR:-$(sed -n 's/^URIs: *//p; s/^deb \([^[ ][^ ]*\) .*/\1/p' /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2> /dev/null | head -n 1 || true)}
[ -n "${mirror}" ] || { echo "No Debian mirror is known; name one in DEBIAN_MIRROR." >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "${work}"' EXIT

# crun refuses a machine that mounts cgroups of both versions, and no container may have higher limits than the host.
least() { if [ "$1" != unlimited ] && [ "$1" -lt "$2" ]; then echo "$1"; else echo "$2"; fi; }
write_engine_settings() {
  local files processes
  files=$(least "$(ulimit -Hn)" 65536)
  processes=$(least "$(ulimit -Hu)" 16384)
  mkdir -p "${root}/.containers"
  cat > "${root}/.containers/containers.conf" << CONF
[containers]
default_ulimits = ["nofile=${files}:${files}", "nproc=${processes}:${processes}"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
  echo "Wrote .containers/containers.conf: podman runs with runc and this machine's limits."
}

exists() { [ "${again}" = no ] && podman image exists "$1"; }

make_debian() {
  echo "Making ${debian} (a minute) …"
  debootstrap --variant=minbase --include=ca-certificates "${suite}" "${work}/root" "${mirror}" > "${work}/debootstrap.log" 2>&1 ||
    { tail -n 5 "${work}/debootstrap.log" >&2; echo "debootstrap from the mirror failed; the lines above say why." >&2; exit 1; }
  # What the published slim image leaves out, now and at each later installation.
  cat > "${work}/root/etc/dpkg/dpkg.cfg.d/slim" << 'CONF'
path-exclude /usr/share/doc/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
CONF
  rm -rf "${work}"/root/usr/share/{doc,info,locale,man}/* "${work}"/root/var/{cache/apt,lib/apt/lists}/* "${work}"/root/var/log/*
  tar -C "${work}/root" -c . | podman import --quiet --change 'CMD ["bash"]' - "${debian}" > /dev/null
}

make_from_package() { # NAME PACKAGE, the rest of a Dockerfile on standard input
  echo "Making $1 …"
  { printf 'FROM %s\nRUN apt-get -q update && apt-get -qy install --no-install-recommends %s && rm -rf /var/lib/apt/lists/* /var/cache/apt/*\n' "${debian}" "$2"; cat; } > "${work}/Dockerfile"
  podman build --quiet --file "${work}/Dockerfile" --tag "$1" "${work}" > /dev/null
}

again=no
[ "${1:-}" = --again ] && again=yes
write_engine_settings
export CONTAINERS_CONF="${root}/.containers/containers.conf"
exists "${debian}" || make_debian
exists "${redis}" || make_from_package "${redis}" redis-server << 'REST'
RUN usermod -u 999 redis && groupmod -g 999 redis && mkdir -p /data && chown 999:999 /data
VOLUME /data
CMD ["redis-server"]
REST
exists "${prometheus}" || make_from_package "${prometheus}" prometheus << 'REST'
RUN ln -s /usr/bin/prometheus /usr/bin/promtool /bin/ 2> /dev/null || true
RUN mkdir -p /prometheus && chown 65534:65534 /prometheus
USER 65534
ENTRYPOINT ["/bin/prometheus"]
REST
exists "${alertmanager}" || make_from_package "${alertmanager}" prometheus-alertmanager << 'REST'
RUN ln -s /usr/bin/prometheus-alertmanager /bin/alertmanager && { ln -s /usr/bin/amtool /bin/ 2> /dev/null || true; }
RUN mkdir -p /alertmanager && chown 65534:65534 /alertmanager
USER 65534
ENTRYPOINT ["/bin/alertmanager"]
REST
podman images --format '{{.Repository}}:{{.Tag}}  {{.Size}}' | grep -e "${debian}" -e "${redis}" -e "${prometheus}" -e "${alertmanager}"
