#!/usr/bin/env bash
# Stand-ins for the images that compose.yaml and the tests name, made of Debian packages, for a
# machine that reaches Debian's archive and no image registry. Not for production: nothing is
# configured by the packages' own scripts, and the four images share one root of about 200 MB.
#
#   images.sh                                    make those that are missing
#   images.sh --file SUITE PACKAGE PATH TARGET   copy one file out of one package of another release
#
# Needs root, Docker, apt and dpkg-deb. It must not know what runs in the images.
set -euo pipefail

cache=${REPLAY_OFFLINE_DIR:-/var/cache/replay-offline}
root_image=offline/debian:12
own_suite=$(. /etc/os-release && echo "$VERSION_CODENAME")

# What a slim Python image has, the three servers, and busybox for wget in health checks. libgomp1 is
# left out on purpose: the real slim image lacks it too, so a worker that needs it must bring its own.
packages=(
  base-files base-passwd bash ca-certificates coreutils dash findutils grep libstdc++6 sed tzdata
  busybox python3 python3-pip python3-venv haproxy nginx-light redis-server
)

log() { printf 'images: %s\n' "$*" >&2; }

# An apt with its own lists and an empty record of what is installed, so that it names *every*
# package of a closure and never touches the machine's own. The sources are the machine's, with the
# release's name replaced: that is how no address is written here.
own_apt() {
  local suite=$1 dir=$cache/$1 sources=/etc/apt/sources.list
  [ ! -f /etc/apt/sources.list.d/debian.sources ] || sources=/etc/apt/sources.list.d/debian.sources
  mkdir -p "$dir/lists/partial" "$dir/archives/partial"
  : >"$dir/status"
  sed "s/\b$own_suite\b/$suite/g" "$sources" >"$dir/${sources##*/}"
  cat >"$dir/apt.conf" <<CONF
Dir::Etc::sourcelist "$dir/${sources##*/}";
Dir::Etc::sourceparts "-";
Dir::State::lists "$dir/lists";
Dir::State::status "$dir/status";
Dir::Cache::archives "$dir/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Retries "3";
CONF
  export APT_CONFIG=$dir/apt.conf
  apt-get -qq update >&2
  apt-get -qq autoclean >&2   # a package superseded since must not be unpacked beside its successor
}

# Not dpkg-deb -x: it would turn the link /bin -> usr/bin into a real folder.
unpack() { dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --keep-directory-symlink "${@:3}"; }

file_of_package() {
  local suite=$1 package=$2 path=$3 target=$4 dir
  own_apt "$suite"
  dir=$(mktemp -d)
  (cd "$dir" && apt-get -qq download "$package" >&2)
  unpack "$dir/$package"_*.deb "$dir"
  install -m 755 "$dir/$path" "$target"
  rm -rf "$dir"
}

make_root() {
  local root=$1 deb name
  own_apt "$own_suite"
  apt-get -qq -y --download-only install "${packages[@]}" >&2
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{data,dev,etc,proc,run,sys,tmp}
  for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
  for deb in "$cache/$own_suite"/archives/*.deb; do
    unpack "$deb" "$root" --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*'
  done
  # What the packages' own scripts would have done, as far as these four images need it.
  chmod 1777 "$root/tmp"
  cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  ln -sf busybox "$root/usr/bin/wget"
  ln -sf python3 "$root/usr/bin/python"
  ln -sf pip3 "$root/usr/bin/pip"
  rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
  chown 999:999 "$root/data"
  # The trust store is the machine's: behind a proxy of its own, Debian's would refuse pip.
  mkdir -p "$root/etc/ssl/certs"
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  # Debian's Redis refuses other hosts unless told otherwise; the official image's answers them.
  cat >"$root/usr/bin/redis-entrypoint" <<'SH'
#!/bin/sh
case "$1" in -*|*.conf) set -- redis-server "$@" ;; esac
[ "$1" != redis-server ] || set -- "$@" --protected-mode no
exec "$@"
SH
  chmod 755 "$root/usr/bin/redis-entrypoint"
}

present() { docker image inspect "$1" >/dev/null 2>&1; }

# Lines of a Dockerfile on stdin, on top of the common root. The classic builder needs no plugin.
layer() {
  local name=$1
  { echo "FROM $root_image"; cat; } | DOCKER_BUILDKIT=0 docker build -q -t "$name" - >/dev/null 2>&1
  log "made $name"
}

images() {
  local root
  if ! present "$root_image"; then
    root=$(mktemp -d)
    make_root "$root"
    tar -c -C "$root" --numeric-owner . | docker import - "$root_image" >/dev/null
    rm -rf "$root"
    log "made $root_image"
  fi
  present redis:7 || layer redis:7 <<'DOCKERFILE'
WORKDIR /data
VOLUME /data
EXPOSE 6379
ENTRYPOINT ["redis-entrypoint"]
CMD ["redis-server"]
DOCKERFILE
  present redis:latest || docker tag redis:7 redis:latest
  present offline/python:3 || layer offline/python:3 <<'DOCKERFILE'
ENV LANG=C.UTF-8 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt
CMD ["python3"]
DOCKERFILE
  present haproxy:lts-alpine || layer haproxy:lts-alpine <<'DOCKERFILE'
USER 99:99
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
DOCKERFILE
  present nginx:stable-alpine || layer nginx:stable-alpine <<'DOCKERFILE'
CMD ["nginx", "-g", "daemon off;"]
DOCKERFILE
}

if [ "${1:-}" = --file ]; then file_of_package "$2" "$3" "$4" "$5"; else images; fi
