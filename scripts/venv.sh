# Sourced by serve and test. Makes .venv and keeps it in step with the hash-locked requirements.
#
# A stamp in .venv remembers the locks, the version and the folder that it was made for; while
# they are the same, `prepare` costs a few milliseconds. Everything is said on stderr.

say() { printf 'moongate: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

fingerprint() { # LOCK...
    {
        printf '%s\n' "$root"
        sed -n 's/^__version__ = //p' "$root/src/moongate/__init__.py"
        cat -- "$@"
    } | cksum
}

# Sets `python` to one that is new enough.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.13 python3.12 python3.11 python3.14
    fi
    for python; do
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    found=$("$1" --version 2>/dev/null | head -n 1)
    die "Python 3.11 or newer is needed; found: ${found:-none}." \
        "Install it, or name one: PYTHON=/path/to/python3.11 $0"
}

# Sets `missing` to the Debian packages that this machine still lacks.
look_for_system_packages() {
    missing=""
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        missing=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(uname -s)" = Linux ]; then
        "$python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null ||
            missing="${missing:+$missing }libgomp1"
    fi
}

need_system_packages() {
    look_for_system_packages
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        die "this machine lacks what Debian calls: $missing." \
            "Install the same with its own package manager, then start again."
    fi
    if [ "$(id -u)" = 0 ]; then
        say "installing with apt: $missing"
        # shellcheck disable=SC2086 - a list of package names
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends $missing; } >&2 || true
        look_for_system_packages
        [ -n "$missing" ] || return 0
        say "apt could not install: $missing. Is there a network? Try yourself, then start again:"
    else
        say "this machine lacks: $missing. Install, then start again:"
    fi
    printf '\n    sudo apt-get update && sudo apt-get install -y %s\n\n' "$missing" >&2
    exit 1
}

# pip's own output goes to a log; a line for each package shows that it moves.
pip_install() { # PIP-ARGUMENT...
    {
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
            --retries 2 --timeout 60 "$@" 2>"$venv/pip.err" || : >"$venv/pip.failed"
    } | while read -r verb what _; do
        case "$verb" in
        Collecting) say "  $what" ;;
        Installing) say "  putting them in place" ;;
        esac
    done
    [ -e "$venv/pip.failed" ] || return 0
    if grep -qiE 'connection|resolution|unreachable|timed out|proxy|ssl' "$venv/pip.err"; then
        say "the packages could not be downloaded: no way to the package index. pip says:"
        hint="Start again once there is a network; what was fetched is kept."
    else
        say "the packages could not be installed. pip says:"
        hint="Tried with $("$venv/bin/python" --version) on $(uname -sm)."
    fi
    tail -n 2 "$venv/pip.err" >&2
    die "$hint"
}

make_venv() { # NAME LOCK...
    find_python
    need_system_packages
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" >&2 || die "could not make $venv."
    fi
    rm -f "$venv/pip.failed" "$venv/stamp.$1"
    say "installing packages, pinned by hash (the first time they are downloaded, once)"
    shift
    for lock in "$@"; do pip_install --require-hashes --only-binary=:all: --no-deps -r "$lock"; done
    pip_install --no-deps --no-index --no-build-isolation --editable "$root"
}

prepare() { # NAME LOCK...
    venv=$root/.venv
    name=$1
    shift
    now=$(fingerprint "$@")
    if [ -x "$venv/bin/moongate" ] && [ -x "$venv/bin/python" ] &&
        [ "$(cat "$venv/stamp.$name" 2>/dev/null)" = "$now" ]; then
        return
    fi
    # Two first starts at once: the second waits where the system has flock.
    exec 9>"$root/.venv.lock"
    if command -v flock >/dev/null 2>&1; then flock 9; fi
    if [ "$(cat "$venv/stamp.$name" 2>/dev/null)" != "$now" ]; then
        make_venv "$name" "$@"
        printf '%s\n' "$now" >"$venv/stamp.$name"
        say "ready"
    fi
    exec 9>&-
}
