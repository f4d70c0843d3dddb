# shellcheck shell=bash
# What the tests of programs share; they source it. Makes a folder that is gone at the end, and goes there; nothing of the
# user's is found from it. Told by the environment: TRANSFERLIB_BIN, the folder of the programs.
set -u
bin=${TRANSFERLIB_BIN:?} python=${TRANSFERLIB_PYTHON:-python3}
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here" || exit 1
# So that no weights are found but those that are meant.
export TRANSFERLIB_CACHE=$here/cache HOME=$here/home
weights=${TRANSFERLIB_WEIGHTS:-}
unset TRANSFERLIB_WEIGHTS TORCH_HOME XDG_CACHE_HOME
checks=0 failures=0

fail() {
  failures=$((failures + 1))
  printf 'FAILED: %s\n' "$*"
}

check() { # what, then a command that must succeed
  local what=$1
  shift
  checks=$((checks + 1))
  "$@" || fail "$what"
}

# expect CODE SENTENCE COMMAND…: the exit code, nothing on stderr where the sentence is empty, else one line with it.
expect() {
  local code=$1 sentence=$2
  shift 2
  checks=$((checks + 1))
  "$@" > out 2> err < /dev/null
  local got=$?
  if [ "$got" != "$code" ]; then
    fail "exit code $got instead of $code: $*"
    cat out err
    return
  fi
  if [ -z "$sentence" ]; then
    [ ! -s err ] || { fail "stderr should be empty: $*"; cat err; }
  else
    [ "$(wc -l < err)" = 1 ] || { fail "stderr should have one line: $*"; cat err; }
    grep -qF -- "$sentence" err || { fail "stderr lacks '$sentence': $*"; cat err; }
  fi
}

# has PATTERN: what the last command printed has such a line.
has() {
  checks=$((checks + 1))
  grep -qE -- "$1" out || { fail "the output has no line like '$1'"; cat out; }
}
