# Shared by the scripts of this folder, which source it: steps, packages, and what a build for another machine must do
# as this machine's does.
# shellcheck shell=bash

step() { printf '\n== %s\n' "$*"; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# packages NAME...: installs those of these Debian packages that are missing. Fails where that is not possible.
packages() {
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status}\n' "$@" 2>/dev/null | grep -c '^installed$' || true)
    [ "$installed" != $# ] || return 0
    command -v apt-get >/dev/null && as_root true || return 1
    step "packages: $*"
    as_root apt-get update -qq &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

# The paths of the test binaries that `cargo test --no-run` names on stderr, one `name=path` per line.
binaries() { sed -nE 's/^ *Executable (unittests )?(\S+) \((.*)\)$/\2=\3/p'; }

# binary LOG NAME: the path of the one whose source is NAME and whose file begins with LIBRARY, if that is given.
binary() { binaries <"$1" | grep -E "^$2=.*/${3:-}[^/]*$" | cut -d= -f2; }

ids="7 0 255 31 31 8 100 9 200 14 14 14 3 77 128 64 1"

# commands DIR COMMAND...: converts, multiplies and writes text with that binary; all results go to DIR. The text is the
# demo model's that is inside of it.
commands() {
    local out=$1 model type
    shift
    mkdir -p "$out"
    for model in rwkv7-bf16/model.pth mamba2-a; do
        for type in int4 int8; do
            local name="$out/${model%%/*}-$type"
            "$@" convert -q "tests/fixtures/$model" -o "$name.brk" --type $type
            echo "$ids" | "$@" logits -q "$name.brk" --ids - --out "$name.npy" --chunk 8
            echo "$ids" | "$@" logits -q "$name.brk" --ids - --out "$name-state-f16.npy" --chunk 8 --live-state f16
        done
    done
    "$@" run -q -p "The old house stood" -n 24 --temp 0 | tr -d '\r' >"$out/text"
}

# same DIR OTHER: compares with this machine's results in DIR: models, logits and text.
same() {
    diff -r "$1" "$2"
    printf 'the same models, logits and text: %s\n' "$(tail -n 1 "$2/text")"
}
