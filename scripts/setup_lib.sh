# What the set-up scripts share. Sourced, with NAME (of the script, for its messages) and LOG (a scratch file) set.

fail() {
    echo "$NAME: $1" >&2
    exit 1
}

# step <what> <command...>: a line with the seconds that it took; what it printed only if it failed
step() {
    local what=$1 began=$SECONDS
    shift
    printf '%s: %s ... ' "$NAME" "$what"
    if ! "$@" >"$LOG" 2>&1; then
        echo "failed after $((SECONDS - began)) s"
        tail -n 20 "$LOG" >&2
        fail "'$what' failed. Run scripts/$NAME.sh again to go on."
    fi
    echo "$((SECONDS - began)) s"
}

# One set-up at a time. The lock is on the folder itself, and goes with this process and what it started.
lock() {
    command -v flock >/dev/null || return 0
    exec 9<.
    flock -n 9 && return
    echo "$NAME: another set-up is at work in $PWD: waiting for it"
    flock 9
}
