#!/bin/sh
# Installs the packages of the current folder, uses each as its users do, and removes them. ffi-tests/deb.rs runs it in a copy of
# the machine, with writer.c in the same folder.
set -eux

apt-get install -qy --no-install-recommends ./*.deb
dpkg --audit
dpkg --verify libudsipc0 udsipccat python3-udsipc
PATH="$PATH:/usr/sbin:/sbin" ldconfig -p | grep -F libudsipc.so.0

cc -o shared writer.c $(pkg-config --cflags --libs udsipc)
cc -o static writer.c $(pkg-config --cflags --libs --static udsipc | sed s/-ludsipc/-l:libudsipc.a/)
ldd shared | grep -E "libudsipc.so.0 => (/usr)?/lib/"
if readelf -d static | grep -F libudsipc; then exit 1; fi

version=$(pkg-config --modversion udsipc)
test "$(udsipccat --version)" = "udsipccat $version, libudsipc $version"
udsipccat -r -n 4 "$PWD/socket" >received &
reader=$!
echo 'from a program' | ./shared "$PWD/socket"
echo 'from a static program' | ./static "$PWD/socket"
echo 'from the tool' | udsipccat -w --wait "$PWD/socket"
cd / && /usr/bin/python3 -c 'import sys, udsipc, importlib.metadata
assert udsipc.__file__ == "/usr/lib/python3/dist-packages/udsipc/__init__.py", udsipc.__file__
assert importlib.metadata.version("udsipc") == udsipc.library_version
with udsipc.Writer(sys.argv[1]) as writer:
    writer.write(b"from Python")' "$OLDPWD/socket"
cd "$OLDPWD"
wait $reader
printf 'from a program\nfrom a static program\nfrom the tool\nfrom Python\n' | cmp - received

# The debug information belongs to the library that is installed.
build_id=$(readelf -n "$(pkg-config --variable=libdir udsipc)/libudsipc.so.0" | sed -n 's/.*Build ID: //p')
test -f "/usr/lib/debug/.build-id/$(echo "$build_id" | cut -c1-2)/$(echo "$build_id" | cut -c3-).debug"

packages=$(for file in ./*.deb; do dpkg-deb --field "$file" Package; done)
apt-get purge -qy $packages
if dpkg-query --show $packages; then exit 1; fi
