#!/usr/bin/env bash
# Installs what is missing through the system's package manager when it may, and otherwise says
# what to install. `run`: what building and running needs; `dev` (default): tests as well.
set -euo pipefail
level=${1:-dev}

# command or file → Debian package
run_needs=("git:git" "python3:python3" "cc:gcc" "make:make")
dev_needs=("skopeo:skopeo" "openssl:openssl" "setpriv:util-linux" "setsid:util-linux"
    "podman:podman" "buildah:buildah" "runc:runc" "iptables:iptables" "busybox:busybox-static" "catatonit:catatonit")

packages=()
need() {
    local program=${1%%:*} package=${1##*:}
    command -v "$program" >/dev/null 2>&1 || packages+=("$package")
}
for entry in "${run_needs[@]}"; do need "$entry"; done
[ -f /usr/include/stdio.h ] || packages+=("libc6-dev")
if [ "$level" = dev ]; then
    for entry in "${dev_needs[@]}"; do need "$entry"; done
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=("postgresql")
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=("python3-venv")
    # Podman's helpers for networks and names in them have no command of their own.
    for helper in netavark aardvark-dns; do
        [ -x "/usr/lib/podman/$helper" ] || [ -x "/usr/libexec/podman/$helper" ] || packages+=("$helper")
    done
fi

if [ ${#packages[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "please install with your package manager: ${packages[*]}" >&2
        exit 1
    fi
    sudo=()
    if [ "$(id -u)" != 0 ]; then
        if sudo -n true 2>/dev/null; then sudo=(sudo -n); else
            echo "please run: sudo apt-get install ${packages[*]}" >&2
            exit 1
        fi
    fi
    echo "installing ${packages[*]}"
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "Rust is missing: install it from https://rustup.rs (1.95 or newer), then run this again" >&2
    exit 1
fi
if [ "$level" = dev ] && ! cargo fmt --version >/dev/null 2>&1; then
    rustup component add rustfmt clippy
fi

# MLflow's own client, for the tests of its protocol, in an environment outside the tree.
if [ "$level" = dev ]; then
    mlflow=3.17.2
    client=${XDG_CACHE_HOME:-$HOME/.cache}/ondol/mlflow-skinny-$mlflow
    if [ ! -e "$client/complete" ]; then
        echo "installing mlflow-skinny $mlflow into $client"
        rm -rf "$client"
        if python3 -m venv "$client" && "$client/bin/pip" install --quiet --disable-pip-version-check "mlflow-skinny==$mlflow"; then
            touch "$client/complete"
        else
            echo "mlflow-skinny could not be installed from PyPI: the tests with MLflow's client need it" >&2
            exit 1
        fi
    fi
fi

# Clients of the registry that no package has; their tests say so where Go is missing.
if [ "$level" = dev ]; then
    tools=${XDG_CACHE_HOME:-$HOME/.cache}/ondol/tools
    conformance=github.com/opencontainers/distribution-spec/conformance
    if ! command -v go >/dev/null 2>&1; then
        echo "Go is missing: the tests with crane, oras and the conformance program will do nothing" >&2
    else
        mkdir -p "$tools"
        get() { # name, module: built once
            [ -x "$tools/$1" ] && return 0
            echo "building $1"
            GOFLAGS=-mod=mod GOBIN="$tools" go install "$2" || echo "$1 could not be built; its tests will do nothing" >&2
        }
        get crane github.com/google/go-containerregistry/cmd/crane@v0.22.1
        get oras oras.land/oras/cmd/oras@v1.3.6
        [ -x "$tools/oci-conformance" ] || get conformance "$conformance@v0.0.0-20260831232431-97274622c111"
        [ ! -x "$tools/conformance" ] || mv "$tools/conformance" "$tools/oci-conformance"
    fi
fi
