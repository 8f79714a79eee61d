# The commands of this project. `make` builds, `make test` proves, `make demo` shows, `make install` installs.
#
# Variables of install and uninstall: DESTDIR PREFIX LIBDIR INCLUDEDIR PKGCONFIGDIR. Debian's own directory for
# libraries is LIBDIR=/usr/lib/$(gcc -print-multiarch).
# Variables of demo: FILE (what to ship), LOOPS (how often; by default often enough for 500 000 messages).
# Variables of soak: MINUTES, SEED.
# Variables of fuzz: SECONDS (for each target), TARGET (decoder, connection, systemd or c_api; all, if none is named).

PREFIX       ?= /usr/local
LIBDIR       ?= $(PREFIX)/lib
INCLUDEDIR   ?= $(PREFIX)/include
PKGCONFIGDIR ?= $(LIBDIR)/pkgconfig

CARGO    ?= cargo
CC       ?= cc
PYTHON   ?= python3
INSTALL  ?= install
STRIP    ?= strip
LDCONFIG ?= ldconfig
CFLAGS   ?= -O2
C_STRICT := -std=c11 -Wall -Wextra -Wpedantic -Werror

FILE  ?= include/udsipc.h
LOOPS ?= 0

# The only place that knows the version is Cargo.toml.
VERSION := $(shell sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
MAJOR   := $(firstword $(subst ., ,$(VERSION)))
SONAME  := libudsipc.so.$(MAJOR)
SO_FILE := libudsipc.so.$(VERSION)

# Where cargo leaves what it builds; a directory of one's own is given as OUT.
OUT = $(or $(CARGO_TARGET_DIR),target)/$(if $(CARGO_BUILD_TARGET),$(CARGO_BUILD_TARGET)/)release
override OUT := $(abspath $(OUT))

EXAMPLES := $(patsubst examples-c/%.c,$(OUT)/examples-c/%,$(wildcard examples-c/*.c))
LIBRARIES := $(OUT)/libudsipc.so $(OUT)/libudsipc.a

.PHONY: all examples demo test bench bench-peers model sanitize sanitize-address sanitize-thread memcheck soak fuzz install uninstall clean
.DELETE_ON_ERROR:

# $(call need,COMMAND:PACKAGE ...) makes sure that the commands exist: installs what is missing if it can, or says how.
define need
@missing=; \
for pair in $(1); do command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair#*:}"; done; \
if [ -z "$$missing" ]; then exit 0; fi; \
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
else \
	echo "missing:$$missing. On Debian and Ubuntu: sudo apt-get install$$missing" >&2; exit 1; \
fi
endef

# Distributions often carry an older Rust than `rust-version` in Cargo.toml, so apt-get is no help here.
define need_cargo
@command -v $(firstword $(CARGO)) >/dev/null || { \
	echo "missing: cargo (Rust $(RUST_VERSION) or newer). Install it: curl -sSf https://sh.rustup.rs | sh" >&2; exit 1; }
endef
RUST_VERSION := $(shell sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)

all:
	$(need_cargo)
	$(call need,$(firstword $(CC)):gcc)
	$(CARGO) build --release --locked $(CARGOFLAGS)
	@# A program that was linked by soname then runs with LD_LIBRARY_PATH=target/release.
	@ln -sf libudsipc.so $(OUT)/$(SONAME)

examples: all $(EXAMPLES)

$(OUT)/examples-c/%: examples-c/%.c include/udsipc.h | all
	@mkdir -p $(@D)
	$(CC) $(C_STRICT) $(CPPFLAGS) $(CFLAGS) -Iinclude -o $@ $< $(LDFLAGS) -L$(OUT) -Wl,-rpath,$(OUT) -ludsipc

demo: examples
	$(call need,$(PYTHON):python3)
	@$(PYTHON) -B examples-c/demo/demo.py --bin $(OUT)/examples-c --library $(OUT)/libudsipc.so --loops $(LOOPS) $(FILE)

# $(call counted,COMMAND) runs tests and says at the end how many passed and failed.
define counted
mkdir -p $(OUT); status=0; \
$(1) 2>&1 | tee $(OUT)/$@.log || status=$$?; \
awk '{ gsub(/\033\[[0-9;]*m/, "") } \
	/^test result:/ { passed += $$4; failed += $$6; ignored += $$8 } \
	END { printf "%d passed, %d failed", passed, failed; \
	      if (ignored) printf ", %d ignored", ignored; \
	      print ""; exit passed == 0 }' $(OUT)/$@.log || status=1; \
exit $$status
endef
test model sanitize-address sanitize-thread memcheck: SHELL := /bin/bash
test model sanitize-address sanitize-thread memcheck: .SHELLFLAGS := -eu -o pipefail -c

# Formatting and lints are checked where the toolchain has the tools. The committed header must be the one that the
# sources give: build.rs writes it anew if it is not, so its checksum must survive the build.
test:
	$(need_cargo)
	$(call need,$(firstword $(CC)):gcc c++:g++ $(PYTHON):python3 pkg-config:pkg-config valgrind:valgrind nm:binutils)
	@mkdir -p $(OUT) && cksum include/udsipc.h >$(OUT)/header.cksum
	@if $(CARGO) fmt --version >/dev/null 2>&1; then set -x; $(CARGO) fmt --check; \
	else echo "skipped: this toolchain has no rustfmt"; fi
	@if $(CARGO) clippy --version >/dev/null 2>&1; then \
		set -x; $(CARGO) clippy --locked --all-targets $(CARGOFLAGS) -- -D warnings; \
	else echo "skipped: this toolchain has no clippy"; fi
	@$(MAKE) --no-print-directory all
	@cksum include/udsipc.h | cmp -s - $(OUT)/header.cksum || { \
		echo "include/udsipc.h was not what the sources give; it has been written anew: commit it" >&2; exit 1; }
	@$(call counted,$(CARGO) test --release --locked $(CARGOFLAGS))
	@if fuzz/run.sh --can; then $(MAKE) --no-print-directory fuzz SECONDS=5; \
	else echo "skipped: this toolchain has no sanitizers to fuzz with"; fi

# How fast the parts are: criterion, under two minutes.
bench:
	$(need_cargo)
	$(CARGO) bench --locked --bench pipe $(CARGOFLAGS)

# The same work done by what people would use instead. BENCHFLAGS=--quick for a look, see benches/peers/run.py --help.
bench-peers: all
	$(call need,$(PYTHON):python3 $(firstword $(CC)):gcc)
	@CARGO="$(CARGO)" $(PYTHON) -B benches/peers/run.py --library $(OUT)/libudsipc.so \
		--out $(OUT)/bench-peers --json $(OUT)/bench-peers/figures.json $(BENCHFLAGS)

# Every interleaving of the hand-over between producers and the sender (src/writer/model.rs). A build of its own, without
# the link-time optimisation that takes longer than the models do.
model:
	$(need_cargo)
	@$(call counted,RUSTFLAGS="--cfg loom" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		CARGO_TARGET_DIR=$(OUT)/model $(CARGO) test --release --locked --lib $(CARGOFLAGS) -- model)

# Everything that watches the tests from outside. Each begins by finding the flaws that were made for it
# (ffi-tests/sanitizers), and leaves out what its list of tests to skip names, with reasons.
sanitize: sanitize-address sanitize-thread memcheck

CHECKS     := ffi-tests/sanitizers
PROOF      := --test c_abi -- --ignored proof::
# The programs mostly wait: four at a time are no more load than one test per processor elsewhere.
C_PROGRAMS  = -- --test-threads=4 --skip proof:: $(shell sed -n 's/^\([^\# ][^ ]*\).*/--skip \1/p' $(CHECKS)/$(1).skip)

# Library, tests and C programs with a sanitizer of rustc, in a build of their own; RUSTC_BOOTSTRAP=1 lets a stable
# toolchain do it. cargo is told the target, since build scripts and macros must stay as they are. What has to be fast are
# the builds: link-time optimisation is off, dependencies are not optimised. Debug assertions are on.
SANITIZED = RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$(1) -Cforce-frame-pointers=yes $(2)" UDSIPC_CHECKER=$(1) \
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
	CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true \
	CARGO_TARGET_DIR=$(OUT)/sanitize-$(1) $(CARGO) test --release --locked $(CARGOFLAGS) \
	--target $$(rustc -vV | sed -n 's/^host: //p') --config 'profile.release.package."*".opt-level=0'
SANITIZER_TOOLS := $(firstword $(CC)):gcc c++:g++ nm:binutils llvm-symbolizer:llvm

sanitize-address: export ASAN_OPTIONS = exitcode=66:detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1
sanitize-address: export UBSAN_OPTIONS = print_stacktrace=1
sanitize-address:
	$(need_cargo)
	$(call need,$(SANITIZER_TOOLS))
	$(call SANITIZED,address) $(PROOF)
	@$(call counted,$(call SANITIZED,address) --lib --test c_abi --test faults $(call C_PROGRAMS,address))

# The standard library has no sanitizer in it, which only ThreadSanitizer minds: see thread.supp and src/sys/lock.rs. A child of
# a process with threads may go on, but is not looked at.
TSAN_FLAGS := -Cunsafe-allow-abi-mismatch=sanitizer --cfg thread_sanitizer
sanitize-thread: export TSAN_OPTIONS = exitcode=66:halt_on_error=1:die_after_fork=0:suppressions=$(abspath $(CHECKS))/thread.supp
sanitize-thread:
	$(need_cargo)
	$(call need,$(SANITIZER_TOOLS))
	$(call SANITIZED,thread,$(TSAN_FLAGS)) $(PROOF)
	@$(call counted,$(call SANITIZED,thread,$(TSAN_FLAGS)) \
		--lib --test c_abi --test faults $(call C_PROGRAMS,thread))

# The library as it is installed, and the C programs, under valgrind.
memcheck: export UDSIPC_CHECKER = memcheck
memcheck:
	$(need_cargo)
	$(call need,$(firstword $(CC)):gcc c++:g++ valgrind:valgrind)
	$(CARGO) test --release --locked $(CARGOFLAGS) $(PROOF)
	@$(call counted,$(CARGO) test --release --locked $(CARGOFLAGS) --test c_abi $(call C_PROGRAMS,memcheck))

# Random load and random faults for MINUTES, the account checked throughout, memory and descriptors flat.
MINUTES ?= 10
soak: all
	@mkdir -p $(OUT)/soak && dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	$(CC) $(C_STRICT) -g -O1 -pthread -Iinclude -o $(OUT)/soak/soak ffi-tests/soak/soak.c \
		-L$(OUT) -Wl,-rpath,$(OUT) -ludsipc && \
	cd "$$dir" && $(OUT)/soak/soak $(MINUTES) $(SEED)

# Coverage-guided fuzzing on the committed corpus. What it finds stays below the target folder.
SECONDS ?= 60
fuzz:
	$(need_cargo)
	$(call need,c++:g++)
	@CARGO="$(CARGO)" CARGO_TARGET_DIR="$(OUT)/fuzz" fuzz/run.sh $(SECONDS) $(TARGET)

# What `make all` has built is installed as it is, so that `sudo make install` needs no cargo.
$(LIBRARIES):
	@$(MAKE) --no-print-directory all

install: $(LIBRARIES)
	$(call need,$(INSTALL):coreutils $(firstword $(STRIP)):binutils)
	umask 022 && $(INSTALL) -d "$(DESTDIR)$(LIBDIR)" "$(DESTDIR)$(INCLUDEDIR)" "$(DESTDIR)$(PKGCONFIGDIR)"
	@# By way of rename(2): a program that starts meanwhile finds the old library or the new one, never half of one.
	$(INSTALL) -m 0755 $(OUT)/libudsipc.so "$(DESTDIR)$(LIBDIR)/$(SO_FILE).new"
	$(STRIP) --strip-unneeded "$(DESTDIR)$(LIBDIR)/$(SO_FILE).new"
	mv -f "$(DESTDIR)$(LIBDIR)/$(SO_FILE).new" "$(DESTDIR)$(LIBDIR)/$(SO_FILE)"
	ln -sf $(SO_FILE) "$(DESTDIR)$(LIBDIR)/$(SONAME)"
	ln -sf $(SONAME) "$(DESTDIR)$(LIBDIR)/libudsipc.so"
	$(INSTALL) -m 0644 $(OUT)/libudsipc.a "$(DESTDIR)$(LIBDIR)/libudsipc.a"
	$(STRIP) --strip-debug "$(DESTDIR)$(LIBDIR)/libudsipc.a"
	$(INSTALL) -m 0644 include/udsipc.h include/udsipc.hpp "$(DESTDIR)$(INCLUDEDIR)"
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' \
		-e 's|@LIBDIR@|$(LIBDIR:$(PREFIX)/%=$${prefix}/%)|' \
		-e 's|@INCLUDEDIR@|$(INCLUDEDIR:$(PREFIX)/%=$${prefix}/%)|' \
		udsipc.pc.in >"$(DESTDIR)$(PKGCONFIGDIR)/udsipc.pc"
	chmod 0644 "$(DESTDIR)$(PKGCONFIGDIR)/udsipc.pc"
	$(refresh_linker_cache)

uninstall:
	rm -f "$(DESTDIR)$(LIBDIR)/$(SO_FILE)" "$(DESTDIR)$(LIBDIR)/$(SONAME)" "$(DESTDIR)$(LIBDIR)/libudsipc.so" \
		"$(DESTDIR)$(LIBDIR)/libudsipc.a" "$(DESTDIR)$(PKGCONFIGDIR)/udsipc.pc" \
		"$(DESTDIR)$(INCLUDEDIR)/udsipc.h" "$(DESTDIR)$(INCLUDEDIR)/udsipc.hpp"
	$(refresh_linker_cache)

# Only for the running system: a package's own scripts do it when DESTDIR is set, and only root may.
define refresh_linker_cache
@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then PATH="$$PATH:/usr/sbin:/sbin" $(LDCONFIG); fi
endef

clean:
	$(CARGO) clean
