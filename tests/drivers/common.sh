# What the runners of this directory share. `keep`: leave the logs. Sourcing it makes the scratch directory, and sees to
# it that at the end everything in `pids` is stopped and the directory removed.

readonly root=$PWD/../..
readonly target=${CARGO_TARGET_DIR:-$(cd "$root" && pwd)/target}
readonly built=$target/drivers
readonly jdbc=/usr/share/java/postgresql.jar

has() { command -v "$1" >/dev/null; }
is_root() { [ "$(id -u)" -eq 0 ]; }
log() { echo "$*" >&2; }

# --- what the programs need: each function brings it, or sets `reason` and fails -------------------------------------

reason=

# Runs a command quietly; when it fails its last line of output is the reason.
bring() {
  local output
  log "Bringing $1..."
  shift
  output=$("$@" 2>&1) || {
    reason=$(tail -n 1 <<<"$output")
    return 1
  }
}

# Whether $1 was brought for exactly this content of the files $2...; a stamp is written when it has been.
is_current() { [ -e "$1/stamp" ] && cat "${@:2}" | cmp -s - "$1/stamp"; }
stamp() { cat "${@:2}" >"$1/stamp"; }

prepare_python() {
  is_current "$built/python" python/requirements.txt && return
  has python3 || { reason="no python3" && return 1; }
  bring "a Python environment" python3 -m venv --clear "$built/python" &&
    bring "the Python drivers" "$built/python/bin/pip" install --quiet --requirement python/requirements.txt &&
    stamp "$built/python" python/requirements.txt
}

prepare_node() {
  is_current "$built/node" node/package.json node/package-lock.json && return
  { has node && has npm; } || { reason="no node or no npm" && return 1; }
  mkdir -p "$built/node"
  cp node/package.json node/package-lock.json "$built/node/"
  bring "the node drivers" npm ci --prefix "$built/node" --no-audit --no-fund --ignore-scripts &&
    stamp "$built/node" node/package.json node/package-lock.json
}

prepare_java() {
  local packages=()
  [ -e $jdbc ] || packages+=(libpostgresql-jdbc-java)
  has javac || packages+=(default-jdk-headless)
  if [ ${#packages[@]} -gt 0 ]; then
    { is_root && has apt-get; } || { reason="needs Debian's ${packages[*]}; only root can install them" && return 1; }
    bring "Debian's list of packages" apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive bring "Debian's ${packages[*]}" \
        apt-get install -qq -y --no-install-recommends "${packages[@]}" || return 1
  fi
  is_current "$built/java" java/*.java && return
  mkdir -p "$built/java"
  bring "the classes" javac -Xlint:all -Werror -cp $jdbc -d "$built/java" java/*.java &&
    stamp "$built/java" java/*.java
}

prepare_rust() {
  has cargo || { reason="no cargo" && return 1; }
  bring "the Rust programs" cargo build --locked --manifest-path rust/Cargo.toml --target-dir "$built/rust"
}

# --- the servers -----------------------------------------------------------------------------------------------------

scratch=$(mktemp -d "${TMPDIR:-/tmp}/pgferry-drivers-XXXXXX")
chmod 755 "$scratch"
pids=()
program_pid=
readonly limit=(timeout --kill-after=5 90) # should a program's own limit fail it

stop_all() {
  trap '' INT TERM
  local index
  [ -z "$program_pid" ] || kill -TERM "$program_pid" 2>/dev/null || true
  for ((index = ${#pids[@]} - 1; index >= 0; index--)); do # the pooler first, so that PostgreSQL has no clients
    kill -INT "${pids[index]}" 2>/dev/null || continue
    for _ in $(seq 50); do
      kill -0 "${pids[index]}" 2>/dev/null || continue 2
      sleep 0.1
    done
    kill -KILL "${pids[index]}" 2>/dev/null || true
  done
  [ -n "$keep" ] && log "The logs are in $scratch." || rm -rf "$scratch"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Servers refuse to be root. Then they run as somebody without rights, in a directory that is theirs.
as_nobody=()
if is_root; then
  owner=postgres
  id -u $owner >/dev/null 2>&1 || owner=nobody
  as_nobody=(setpriv --reuid "$owner" --regid "$(id -g "$owner")" --clear-groups)
  chown "$owner" "$scratch"
fi

# Prints a port of the loopback interface on which nobody listens, below those that the kernel gives to clients.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo $port
}

# Waits until a query of user $3 succeeds at port $1 (of host $4), for as long as process $2 lives and at most 20 s.
wait_for() {
  for _ in $(seq 200); do
    kill -0 "$2" 2>/dev/null || return 1
    "$pg_bin/psql" -qAtX -h "${4:-127.0.0.1}" -p "$1" -U "$3" -d postgres -c '' 2>/dev/null && return
    sleep 0.1
  done
  return 1
}
