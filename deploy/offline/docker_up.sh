#!/usr/bin/env bash
# A Docker engine with Compose and the images that the tests name, on a Debian that may have none of
# them. Each step looks first, so running it again costs a fraction of a second, and where Docker and
# a registry answer it changes nothing.
#
#   variables=$(deploy/offline/docker_up.sh)   # up; prints what tests and compose.yaml must be told
#   eval "$variables"
#   deploy/offline/docker_up.sh status         # what is there
#   deploy/offline/docker_up.sh clean          # remove what tests left: containers, networks, volumes
#   deploy/offline/docker_up.sh down           # clean, and end the engine if it was started here
#
# Needs root to install or start an engine. It must not know what the tests do.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
state=${REPLAY_OFFLINE_DIR:-/var/cache/replay-offline}
pid_file=$state/dockerd.pid
start_limit_s=30

log() { printf 'docker_up: %s\n' "$*" >&2; }
fail() { log "$*"; exit 1; }
engine_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
runs_as() { [ -f "$1" ] && [ "$(cat "/proc/$(cat "$1")/comm" 2>/dev/null)" = "$2" ]; }

install_engine() {
  export DEBIAN_FRONTEND=noninteractive
  log "installing docker.io"
  { apt-get -qq update && apt-get -qq -y --no-install-recommends install docker.io iptables cgroupfs-mount; } \
    >>"$state/apt.log" 2>&1 || { tail -5 "$state/apt.log" >&2; fail "docker.io cannot be installed"; }
}

# A pid file that outlived a crash may name another program by now: dockerd would take it for itself.
forget_unless() { runs_as "$1" "$2" || rm -f "$1"; }

start_engine() {
  local waited=0
  forget_unless "$pid_file" dockerd
  forget_unless /var/run/docker/containerd/containerd.pid containerd
  mountpoint -q /sys/fs/cgroup || cgroupfs-mount || true
  # Without the userland proxy a port that nobody listens on refuses, so waiting for a port means
  # what it says; with --ip a published port is never open to the network.
  setsid -f dockerd --pidfile "$pid_file" --ip 127.0.0.1 --userland-proxy=false \
    </dev/null >>"$state/dockerd.log" 2>&1
  until engine_answers; do
    waited=$((waited + 1))
    [ "$waited" -lt "$start_limit_s" ] || { tail -15 "$state/dockerd.log" >&2; fail "dockerd did not start"; }
    sleep 1
  done
  log "dockerd started, its log is $state/dockerd.log"
}

engine() {
  engine_answers && return
  [ "$(id -u)" = 0 ] || fail "no Docker engine answers, and only root can start one"
  mkdir -p "$state"
  command -v dockerd >/dev/null || install_engine
  engine_answers || start_engine   # where systemd runs, installing has started it
}

compose() {
  local plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
  docker compose version >/dev/null 2>&1 && return
  mkdir -p "$plugins"
  # Debian 12 has Compose 1, which knows neither `up --wait` nor `name:`; Debian 13's runs on both.
  "$here/images.sh" --file trixie docker-compose usr/libexec/docker/cli-plugins/docker-compose \
    "$plugins/docker-compose"
  log "$(docker compose version)"
}

# One question to the registry decides for all images.
images() {
  timeout 60 docker pull -q redis:7 >/dev/null 2>&1 || "$here/images.sh"
}

exports() {
  docker image inspect offline/python:3 >/dev/null 2>&1 || return 0
  echo "export BASE_IMAGE=offline/python:3"
}

remove_labelled() {
  docker ps -aq --filter "label=$1" | xargs -r docker rm -fv >/dev/null
  docker network ls -q --filter "label=$1" | xargs -r docker network rm >/dev/null
  docker volume ls -q --filter "label=$1" | xargs -r docker volume rm >/dev/null
}

# The Compose projects of the tests; one that was cut off may have left a network or a volume alone.
test_projects() {
  local kind label=com.docker.compose.project
  for kind in "ps -a" "network ls" "volume ls"; do
    # shellcheck disable=SC2086  # two words on purpose
    docker $kind --filter "label=$label" --format "{{.Label \"$label\"}}"
  done | sort -u | sed -n '/^replay-test-/p'
}

clean() {
  local project
  engine_answers || return 0
  remove_labelled org.testcontainers=true
  for project in $(test_projects); do
    remove_labelled "com.docker.compose.project=$project"
  done
}

down() {
  clean
  runs_as "$pid_file" dockerd || return 0
  local pid
  pid=$(cat "$pid_file")
  kill "$pid"
  timeout 20 tail --pid="$pid" -f /dev/null || log "dockerd ($pid) is still ending"
}

status() {
  if engine_answers; then
    docker version --format 'engine {{.Server.Version}}'
    docker compose version || true
    docker system df
  else
    echo "no engine"
  fi
}

case "${1:-up}" in
  up) engine; compose; images; exports ;;
  status | clean | down) "$1" ;;
  *) fail "up, status, clean or down" ;;
esac
