#!/usr/bin/env bash
# Says whether this checkout can be released as VERSION: tools/release.sh VERSION
#
# Changes nothing. Names everything that stands against the release, and what comes next when nothing does. CONTRIBUTING.md
# has the whole procedure.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:-}
number='(0|[1-9][0-9]*)'
[[ $# -eq 1 && $version =~ ^$number\.$number\.$number$ ]] || {
    echo "usage: tools/release.sh MAJOR.MINOR.PATCH" >&2
    exit 2
}
major=${version%%.*}
minor=${version%.*}

refusals=0
refuse() {
    echo "refused: $*" >&2
    refusals=$((refusals + 1))
}

# A tag names a commit: what is not committed would not be in the release.
check_tree() {
    [ -z "$(git status --porcelain)" ] || refuse "the tree is not clean: commit or remove what git status shows"
}

# Everything that carries the version, with the version that it carries. cargo and build.rs write all but Cargo.toml and the
# changelog of the Debian packages.
versions() {
    echo "Cargo.toml $(sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | sed -n 1p)"
    for lock in Cargo.lock fuzz/Cargo.lock; do
        echo "$lock $(awk '/^name = "udsipc"$/ { getline; gsub(/"/, ""); print $3 }' "$lock")"
    done
    echo "packaging/debian/changelog $(sed -n '1s/^udsipc (\(.*\)-.*/\1/p' packaging/debian/changelog)"
    echo "include/udsipc.h $(sed -n 's/^#define UDSIPC_VERSION_STRING "\(.*\)"/\1/p' include/udsipc.h)"
}

check_version() {
    local file found
    while read -r file found; do
        [ "$found" = "$version" ] || refuse "$file has version ${found:-none}, not $version"
    done < <(versions)
}

# The text below the heading of a section of the changelog.
section() {
    awk -v heading="## [$1]" '/^## / { inside = index($0, heading) == 1; next } /^\[.*\]: / { next } inside && NF' CHANGELOG.md
}

check_changelog() {
    grep -Eq "^## \[${version//./\\.}\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
        refuse "CHANGELOG.md has no heading '## [$version] - YYYY-MM-DD'"
    [ -n "$(section "$version")" ] || refuse "CHANGELOG.md says nothing about $version"
    grep -qx '## \[Unreleased\]' CHANGELOG.md || refuse "CHANGELOG.md has no heading '## [Unreleased]' for what comes next"
    [ -z "$(section Unreleased)" ] || refuse "CHANGELOG.md has unreleased changes: move them below $version"
}

# The newest release that this checkout descends from, as its tag.
last_release() {
    git for-each-ref --merged HEAD --count=1 --sort=-version:refname --format='%(refname:short)' 'refs/tags/v[0-9]*'
}

check_tag() {
    local last
    last=$(last_release)
    [ "$(git rev-parse --is-shallow-repository)" = false ] || refuse "this clone is shallow: git fetch --unshallow --tags"
    if git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null; then
        refuse "the tag v$version exists"
    elif [ -n "$last" ] && [ "$(printf '%s\n' "$last" "v$version" | sort -V | tail -n 1)" = "$last" ]; then
        refuse "$version is older than the last release, $last"
    fi
}

# The functions of a list of symbols, in the format of Debian: " NAME@VERSION_OF_THE_ABI VERSION".
functions() {
    sed -n 's/^ \(udsipc_.*\)@.*/\1/p' | sort
}

# What is exported may grow in a minor version and shrink only in a major one, which changes the soname. That the list is
# that of the library is a test (ffi-tests/symbols.rs).
check_symbols() {
    local last list=packaging/abi/libudsipc.symbols old new removed added name
    last=$(last_release)
    [ -n "$last" ] || return 0
    old=$(git show "$last:$list" | functions)
    new=$(functions <"$list")
    removed=$(comm -23 <(echo "$old") <(echo "$new") | paste -sd ' ')
    added=$(comm -13 <(echo "$old") <(echo "$new") | paste -sd ' ')
    last=${last#v}
    if [ -n "$removed" ] && [ "$major" = "${last%%.*}" ]; then
        refuse "functions are gone since $last, which takes a new major version: $removed"
    fi
    if [ -n "$added" ] && [ "$minor" = "${last%.*}" ]; then
        refuse "functions are new since $last, which takes a new minor version: $added"
    fi
    for name in $added; do
        grep -q "^ $name@UDSIPC_$major $version\$" "$list" ||
            refuse "$name is new in $version: $list must end its line with that"
    done
}

# The same for types. That the description is that of the library is `make abi-check`.
check_types() {
    local last description=packaging/abi/libudsipc.abi old
    last=$(last_release)
    old=$(mktemp)
    if [ -n "$last" ] && [ "v$major" = "${last%%.*}" ] && git show "$last:$description" >"$old" 2>/dev/null; then
        python3 -B tools/abi.py compare "$old" "$description" ||
            refuse "types have changed since ${last#v}, which takes a new major version"
    fi
    rm -f "$old"
}

# The same for the Rust API. It takes minutes, so it comes last.
check_rust_api() {
    make --no-print-directory semver || refuse "the Rust API breaks without a version that says so, see above"
}

check_tree
check_version
check_changelog
check_tag
check_symbols
check_types
[ "$refusals" != 0 ] || check_rust_api
[ "$refusals" = 0 ] || exit 1
cat <<END
$version can be released. When the checks of this commit have passed (.ci/run):
    git tag -s v$version -m "libudsipc $version" && git push origin v$version
    cargo publish --locked
END
