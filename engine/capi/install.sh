#!/bin/sh
# Builds libbrooklet and installs it, its header and brooklet.pc below PREFIX:
#
#   engine/capi/install.sh [PREFIX] [CARGO ARGUMENTS...]
#   engine/capi/install.sh /usr/local
#   engine/capi/install.sh "$PWD/out" --no-default-features --features threads
#
# PREFIX is /usr/local if none is given. DESTDIR, if set, stands before it; PROFILE is cargo's profile, release-lib if it is
# not set. LIBRARY, if set, is a folder with a library that is built already. cargo-c does the same with a versioned soname:
# `cargo cinstall -p brooklet-capi --profile release-lib`.
set -eu
prefix=${1:-/usr/local}
[ $# -eq 0 ] || shift
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
profile=${PROFILE:-release-lib}
cd "$(dirname "$0")"
if [ -n "${LIBRARY:-}" ]; then
    built=$LIBRARY
else
    cargo build --profile "$profile" --package brooklet-capi --lib "$@"
    built=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    case $profile in dev) built=$built/debug ;; *) built=$built/$profile ;; esac
fi
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' ../../Cargo.toml)
case $(uname) in
Darwin) shared=libbrooklet.dylib private="-liconv -lm" ;;
*) shared=libbrooklet.so private="-lgcc_s -lpthread -ldl -lm" ;;
esac
root=${DESTDIR:-}$prefix
mkdir -p "$root/lib/pkgconfig" "$root/include"
install -m 755 "$built/$shared" "$root/lib/"
install -m 644 "$built/libbrooklet.a" "$root/lib/"
install -m 644 include/brooklet.h "$root/include/"
sed -e "s|@PREFIX@|$prefix|" -e "s|@VERSION@|$version|" -e "s|@PRIVATE@|$private|" brooklet.pc.in \
    >"$root/lib/pkgconfig/brooklet.pc"
echo "installed below $root"
