#!/bin/sh
# Exits 1, and says in one line what to install, where `make binary` would not work.
missing=
need() { [ -e "$1" ] || missing="$missing $2"; }
need /usr/bin/python3.11 python3.11
need /usr/lib/python3.11/ensurepip python3.11-venv
need /usr/bin/gcc gcc
need /usr/bin/strip binutils
need /usr/include/stdlib.h libc6-dev
need /usr/include/zstd.h libzstd-dev
need /usr/bin/zstd zstd
need /usr/bin/patchelf patchelf
[ -z "$missing" ] || { echo "make binary needs Debian 12 and: apt-get install$missing" >&2; exit 1; }
