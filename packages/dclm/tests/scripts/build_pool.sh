#!/bin/sh
# Rebuild src/dclm/data/pool from Debian bookworm's documentation packages:  tests/scripts/build_pool.sh OUT
# Byte for byte the same as long as the packages' versions are those in SOURCES.md.
set -eu
out=$(realpath "$1")
work=$(mktemp -d)
cd "$work"
for package in postgresql-doc-15 apache2-doc python3.11-doc sqlite3-doc python-django-doc debian-handbook; do
    apt-get download -qq "$package"
    dpkg-deb -x "$package"_*.deb "$package"
    cp "$package/usr/share/doc/$package/copyright" "$out/copyright-$package.txt"
done
python -c "
from pathlib import Path
from dclm import build_pool
build_pool(sorted(path for path in Path('.').iterdir() if path.is_dir()), Path('$out'), num_shards=4, max_bytes=3_700_000)
"
