#!/bin/sh
# Copy this clone into FOLDER, and compile the hot modules there, in place (setup.py lists them).
# PYTHON needs requirements/compile.txt, and is the version that the modules are for.
#
#     sh packaging/compile.sh PYTHON FOLDER
set -e
rm -rf "$2"
mkdir -p "$2"
git ls-files -z --cached --others --exclude-standard | tar -c --null --ignore-failed-read -T - | tar -x -C "$2"
cd "$2"
PYTHONHASHSEED=0 exec "$1" setup.py --quiet build_ext --inplace
