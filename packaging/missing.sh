#!/bin/sh
# If a package that `make binary` needs is missing, print the command that installs it, and exit 1.
missing=
need() { [ -e "$1" ] || missing="$missing $2"; }
need /usr/bin/python3.11 python3.11
need /usr/lib/python3.11/ensurepip python3.11-venv
need /usr/bin/gcc gcc
need /usr/bin/strip binutils
need /usr/include/stdlib.h libc6-dev
need /usr/include/python3.11/Python.h python3.11-dev
need /usr/include/zstd.h libzstd-dev
need /usr/bin/zstd zstd
need /usr/bin/patchelf patchelf
[ -z "$missing" ] || { echo "make binary needs Debian 12 and: apt-get install$missing" >&2; exit 1; }
