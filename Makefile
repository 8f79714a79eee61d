# The commands of this project. `make` builds, `make check` is for while you write, `make test` proves, `make demo` shows,
# `make install` installs.
#
# What builds, installs or checks (all, install, uninstall, lint, check) names the tools that are missing. What tests,
# measures or shows installs them, where it runs as root on a Debian.
#
# Variables of install and uninstall: DESTDIR PREFIX EXEC_PREFIX LIBDIR INCLUDEDIR PKGCONFIGDIR CMAKEDIR BINDIR DATADIR MANDIR.
# Debian's own directory for libraries is LIBDIR=/usr/lib/$(gcc -print-multiarch).
# Variables of demo: FILE (what to ship), LOOPS (how often; by default often enough for 500 000 messages).
# Variables of soak: MINUTES, SEED.
# Variables of fuzz: SECONDS (for each target), TARGET (decoder, connection, ring, systemd or c_api; all, if none is named).

PREFIX       ?= /usr/local
EXEC_PREFIX  ?= $(PREFIX)
LIBDIR       ?= $(EXEC_PREFIX)/lib
INCLUDEDIR   ?= $(PREFIX)/include
PKGCONFIGDIR ?= $(LIBDIR)/pkgconfig
CMAKEDIR     ?= $(LIBDIR)/cmake/udsipc
BINDIR       ?= $(EXEC_PREFIX)/bin
DATADIR      ?= $(PREFIX)/share

CARGO    ?= cargo
CC       ?= cc
PYTHON   ?= python3
INSTALL  ?= install
STRIP    ?= strip
OBJCOPY  ?= objcopy
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
# It stands in rules and in commands: a blank would end it, and `rm -rf` would remove what is called as its first part.
$(if $(word 2,$(abspath $(OUT))),$(error cannot build in "$(OUT)", seen from "$(CURDIR)": its path has a blank in it))
override OUT := $(abspath $(OUT))

# What single examples need beside a compiler.
SQLITE := sqlite3.h:libsqlite3-dev
LIBUV  := uv.h:libuv1-dev
GLIB   := pkg-config:pkg-config glib-2.0.pc:libglib2.0-dev
# What the bridge to NATS and its tests need.
NATS        := pkg-config:pkg-config libnats.pc:libnats-dev
NATS_SERVER := nats-server:nats-server
EXAMPLES := $(patsubst examples-c/%.c,$(OUT)/examples-c/%,$(wildcard examples-c/*.c))

# What is installed and tested. The libraries one folder up are those of the last cargo command.
LIBRARY_DIR := $(OUT)/lib

.PHONY: all link examples demo wheel lint check test python-test abi-check abi-update capi-check manifest features minimal-versions msrv package \
	deny semver bench bench-peers model sanitize sanitize-address sanitize-thread memcheck soak fuzz install uninstall clean
.DELETE_ON_ERROR:

# $(call have,COMMAND:PACKAGE ...) makes sure that the commands exist, or says how to install them. A package build must not
# change the machine that it runs on. A COMMAND that ends in .h is a header of C, one in .pc a package of pkg-config; one that
# begins with import- is a module of Python.
define have
@missing=; $(find_missing); \
[ -z "$$missing" ] || { echo "missing:$$missing. On Debian and Ubuntu: sudo apt-get install$$missing" >&2; exit 1; }
endef

# $(call need,COMMAND:PACKAGE ...) does the same, and installs what is missing if it can.
define need
@missing=; $(find_missing); \
if [ -z "$$missing" ]; then exit 0; fi; \
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
else \
	echo "missing:$$missing. On Debian and Ubuntu: sudo apt-get install$$missing" >&2; exit 1; \
fi
endef
find_missing = for pair in $(1); do \
	case "$${pair%%:*}" in \
	*.h) $(CC) $(CPPFLAGS) -E -x c -include "$${pair%%:*}" /dev/null ;; \
	*.pc) pkg-config --exists "$${pair%%.pc:*}" ;; \
	import-*) module=$${pair%%:*}; $(PYTHON) -c "import $${module\#import-}" ;; \
	*) command -v "$${pair%%:*}" ;; \
	esac >/dev/null 2>&1 || missing="$$missing $${pair\#*:}"; \
done

# Distributions often carry an older Rust than `rust-version` in Cargo.toml, so apt-get is no help here.
define need_cargo
@command -v $(firstword $(CARGO)) >/dev/null || { \
	echo "missing: cargo (Rust $(RUST_VERSION) or newer). Install it: curl -sSf https://sh.rustup.rs | sh" >&2; exit 1; }
endef
RUST_VERSION := $(shell sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)

# Only the static library is asked of cargo: it optimises at link time only where it makes no Rust library.
all:
	$(need_cargo)
	$(call have,$(LINK_TOOLS))
	$(CARGO) rustc --release --locked --lib --crate-type staticlib $(CARGOFLAGS)
	@$(MAKE) --no-print-directory link
	@# A program that was linked by soname then runs with LD_LIBRARY_PATH=target/release.
	@ln -sf lib/libudsipc.so $(OUT)/libudsipc.so && ln -sf libudsipc.so $(OUT)/$(SONAME)
	@# Its library has just been made. `make -n` has made none, and would go round for ever.
	@$(MAKE) --no-print-directory --old-file=$(LIBRARY_DIR)/libudsipc.so tools

# Both libraries are made from one object: cargo's archive, linked without what no function of the API refers to. No other
# symbol of it is global, so that a program may contain several archives with Rust's standard library in them. The group
# sections are dissolved, since a linker would take those of two such objects for one. Bitcode, which is in every object of the
# standard library, is removed: tools with a plugin of another LLVM fail at it.
#
# The shared object is linked here and not by cargo, because rustc passes the linker a version script of its own, which
# cannot be combined with one that has versions. -shared stands behind LDFLAGS, which may have -pie in them for programs: the last
# of the two wins.
LINK_TOOLS := $(firstword $(CC)):gcc $(firstword $(OBJCOPY)):binutils $(firstword $(AR)):binutils
link: CORE = $(LIBRARY_DIR)/udsipc.o
link:
	$(call have,$(LINK_TOOLS))
	@mkdir -p $(LIBRARY_DIR)
	@sed -n 's/^ \(udsipc_[a-z0-9_]*\)@.*/--require-defined=\1/p' packaging/abi/libudsipc.symbols >$(LIBRARY_DIR)/exports
	$(CC) -r -nostdlib -o $(CORE) -Wl,--gc-sections,--force-group-allocation,@$(LIBRARY_DIR)/exports $(OUT)/libudsipc.a
	$(OBJCOPY) --wildcard --keep-global-symbol='udsipc_*' --remove-section=.llvmbc --remove-section=.llvmcmd $(CORE)
	@rm -f $(CORE).a
	$(AR) rcs $(CORE).a $(CORE)
	$(CC) -o $(CORE).so $(CORE) $(LDFLAGS) -shared -Wl,--version-script=packaging/udsipc.map,-soname,$(SONAME) \
		-Wl,-z,nodelete,-z,defs,-z,relro,-z,now,-z,noexecstack,--gc-sections,--as-needed -lgcc_s $(PRIVATE_LIBS)
	@mv -f $(CORE).a $(LIBRARY_DIR)/libudsipc.a && mv -f $(CORE).so $(LIBRARY_DIR)/libudsipc.so && \
		ln -sf libudsipc.so $(LIBRARY_DIR)/$(SONAME) && rm $(CORE) $(LIBRARY_DIR)/exports

# What a program with the static library in it links besides, as rustc says (--print native-static-libs). The compiler adds
# libgcc_s and the C library itself, in the form that suits the program.
PRIVATE_LIBS := -lutil -lrt -lpthread -lm -ldl

# The command line tool. It finds the library as any program does: in the linker's cache, or by LD_LIBRARY_PATH.
.PHONY: tools install-tools uninstall-tools
CAT := tools/udsipccat
tools: $(OUT)/udsipccat
$(OUT)/udsipccat: $(wildcard $(CAT)/*.c $(CAT)/*.h) include/udsipc.h | $(LIBRARY_DIR)/libudsipc.so
	$(call have,$(firstword $(CC)):gcc)
	$(CC) $(C_STRICT) -D_GNU_SOURCE $(CPPFLAGS) $(CFLAGS) -Iinclude -o $@ $(filter %.c,$^) $(LDFLAGS) -L$(LIBRARY_DIR) -ludsipc

examples: all $(EXAMPLES)

$(OUT)/examples-c/sqlite_reader: NEEDS := $(SQLITE)
$(OUT)/examples-c/sqlite_reader: LDLIBS += -lsqlite3
$(OUT)/examples-c/libuv_reader: NEEDS := $(LIBUV)
$(OUT)/examples-c/libuv_reader: LDLIBS += -luv
$(OUT)/examples-c/glib_reader: NEEDS := $(GLIB)
$(OUT)/examples-c/glib_reader: LDLIBS += $$(pkg-config --cflags --libs glib-2.0)
$(OUT)/examples-c/%: examples-c/%.c include/udsipc.h | all
	$(call have,$(NEEDS))
	@mkdir -p $(@D)
	$(CC) $(C_STRICT) $(CPPFLAGS) $(CFLAGS) -Iinclude -o $@ $< $(LDFLAGS) -L$(LIBRARY_DIR) -Wl,-rpath,$(LIBRARY_DIR) -ludsipc $(LDLIBS)

# The bridge to NATS JetStream (README, "Beyond one machine"): the only program that needs libnats, so it is no part of `all`.
# libudsipc is linked in, so the program runs wherever libnats is.
.PHONY: udsipc-nats install-nats uninstall-nats bench-nats
udsipc-nats: all
	@$(MAKE) --no-print-directory $(OUT)/udsipc-nats

$(OUT)/udsipc-nats: $(wildcard tools/udsipc-nats/*.[ch]) include/udsipc.h $(LIBRARY_DIR)/libudsipc.a
	$(call have,$(firstword $(CC)):gcc $(NATS))
	$(CC) $(C_STRICT) $(CPPFLAGS) $(CFLAGS) -Iinclude -o $@ $(filter %.c %.a,$^) $(LDFLAGS) \
		$$(pkg-config --cflags --libs libnats) $(PRIVATE_LIBS)

install-nats: $(OUT)/udsipc-nats
	umask 022 && $(INSTALL) -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/lib/systemd/system"
	$(INSTALL) -m 0755 $(OUT)/udsipc-nats "$(DESTDIR)$(PREFIX)/bin/udsipc-nats"
	sed 's|/usr/local|$(PREFIX)|' tools/udsipc-nats/udsipc-nats.service \
		>"$(DESTDIR)$(PREFIX)/lib/systemd/system/udsipc-nats.service"
	chmod 0644 "$(DESTDIR)$(PREFIX)/lib/systemd/system/udsipc-nats.service"

uninstall-nats:
	rm -f "$(DESTDIR)$(PREFIX)/bin/udsipc-nats" "$(DESTDIR)$(PREFIX)/lib/systemd/system/udsipc-nats.service"

# How fast the bridge is, beside a program that publishes the same messages itself. BENCHFLAGS: benches/nats/run.py --help.
bench-nats:
	$(call need,$(PYTHON):python3 $(firstword $(CC)):gcc $(NATS) $(NATS_SERVER))
	@$(MAKE) --no-print-directory udsipc-nats
	@$(PYTHON) -B benches/nats/run.py --bridge $(OUT)/udsipc-nats --library $(LIBRARY_DIR)/libudsipc.a --out $(OUT)/bench-nats $(BENCHFLAGS)

demo:
	$(call need,$(firstword $(CC)):gcc $(PYTHON):python3)
	@$(MAKE) --no-print-directory $(OUT)/examples-c/writer $(OUT)/examples-c/epoll_reader
	@$(PYTHON) -B examples-c/demo/demo.py --bin $(OUT)/examples-c --library $(LIBRARY_DIR)/libudsipc.so --loops $(LOOPS) $(FILE)

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
check test python-test model sanitize-address sanitize-thread memcheck: SHELL := /bin/bash
check test python-test model sanitize-address sanitize-thread memcheck: .SHELLFLAGS := -eu -o pipefail -c

# Formatting and lints are checked where the toolchain has the tools, every link of the documentation, and that every public
# item has an example. The committed header must be the one that the sources give: build.rs writes it anew if it is not, so
# its checksum must survive.
lint:
	$(need_cargo)
	$(call have,$(firstword $(CC)):gcc $(PYTHON):python3)
	@mkdir -p $(OUT) && cksum include/udsipc.h >$(OUT)/header.cksum
	@if $(CARGO) fmt --version >/dev/null 2>&1; then set -x; $(CARGO) fmt --check; \
	else echo "skipped: this toolchain has no rustfmt"; fi
	@if $(CARGO) clippy --version >/dev/null 2>&1; then \
		set -x; $(CARGO) clippy --locked --all-targets $(CARGOFLAGS) -- -D warnings; \
	else echo "skipped: this toolchain has no clippy"; fi
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --no-deps --document-private-items --locked $(CARGOFLAGS)
	@if RUSTC_BOOTSTRAP=1 rustdoc -W help 2>/dev/null | grep -q missing-doc-code-examples; then set -x; $(LINT_DOC_EXAMPLES); \
	else echo "skipped: this toolchain's rustdoc has no lint for missing examples"; fi
	@cksum include/udsipc.h | cmp -s - $(OUT)/header.cksum || { \
		echo "include/udsipc.h was not what the sources give; it has been written anew: commit it" >&2; exit 1; }
	$(PYTHON) -B tools/man.py --check

# An unstable lint, which RUSTC_BOOTSTRAP=1 makes a stable toolchain accept. In a folder of its own: some dependencies are built
# anew when that variable changes.
LINT_DOC_EXAMPLES = RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(OUT)/doc-examples RUSTDOCFLAGS="-Zunstable-options \
	-Zcrate-attr=feature(rustdoc_missing_doc_code_examples) -Drustdoc::missing_doc_code_examples" \
	$(CARGO) doc --no-deps --locked --no-default-features $(filter-out --no-default-features,$(CARGOFLAGS))

# The inner loop: lints, the header, unit tests.
check: lint
	@$(call counted,$(CARGO) test --locked --lib $(CARGOFLAGS))

# The tests, run against what `make all` has built.
HARNESS = UDSIPC_LIBRARY_DIR=$(LIBRARY_DIR) $(CARGO) test --profile harness --locked $(CARGOFLAGS)

test:
	$(need_cargo)
	$(call need,$(firstword $(CC)):gcc c++:g++ clang++:clang $(PYTHON):python3 pkg-config:pkg-config valgrind:valgrind \
		nm:binutils git:git cmake:cmake meson:meson abidw:abigail-tools $(SQLITE) $(LIBUV) $(GLIB) $(MAN) $(NATS) \
		$(NATS_SERVER) strace:strace systemd-analyze:systemd)
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory all
	@$(call counted,$(HARNESS))
	@if fuzz/run.sh --can; then $(MAKE) --no-print-directory fuzz SECONDS=5; \
	else echo "skipped: this toolchain has no sanitizers to fuzz with"; fi

# The ABI is what packaging/abi says: the exported functions with all their types (*.abi), and in which version each came
# (*.symbols, as Debian keeps it). abi-update writes both anew, and refuses what would break a program. It is described from a
# build with full debug information: with less of it abidw sees no parameters. What has to be fast is that build.
ABI       := packaging/abi/libudsipc.abi
ABI_BUILD := $(OUT)/abi/$(if $(CARGO_BUILD_TARGET),$(CARGO_BUILD_TARGET)/)release
define describe_abi
	$(need_cargo)
	$(call need,abidw:abigail-tools $(PYTHON):python3 $(LINK_TOOLS))
	CARGO_PROFILE_RELEASE_DEBUG=full CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off \
		CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_TARGET_DIR=$(OUT)/abi \
		$(CARGO) rustc --release --locked --lib --crate-type staticlib --no-default-features $(CARGOFLAGS)
	@$(MAKE) --no-print-directory link OUT=$(ABI_BUILD)
	abidw --out-file $(ABI_BUILD)/rust.abi $(ABI_BUILD)/lib/libudsipc.so
	$(PYTHON) -B tools/abi.py reduce include/udsipc.h <$(ABI_BUILD)/rust.abi >$(ABI_BUILD)/c.abi
endef

abi-check:
	$(describe_abi)
	$(PYTHON) -B tools/abi.py check $(ABI) $(ABI_BUILD)/c.abi

abi-update:
	$(PYTHON) -B tools/abi.py list include/udsipc.h packaging/abi/libudsipc.symbols $(VERSION)
	$(describe_abi)
	$(PYTHON) -B tools/abi.py update $(ABI) $(ABI_BUILD)/c.abi

# The Python package. The wheel carries what `make all` has built.
PYTHON_OUT := $(OUT)/python
PYTHON_BIN := $(PYTHON_OUT)/venv/bin
VENV := $(PYTHON):python3 import-ensurepip:python3-venv

wheel:
	$(call need,$(VENV) $(firstword $(STRIP)):binutils)
	@$(MAKE) --no-print-directory all
	@[ -x $(PYTHON_BIN)/pip ] || $(PYTHON) -m venv $(PYTHON_OUT)/venv
	@rm -rf $(PYTHON_OUT)/dist
	UDSIPC_LIBRARY=$(LIBRARY_DIR)/libudsipc.so $(PYTHON_BIN)/pip wheel --quiet --no-deps --wheel-dir $(PYTHON_OUT)/dist bindings/python
	@ls $(PYTHON_OUT)/dist/*.whl

# The wheel as it is installed: its types, its tests, its tag.
python-test: export PATH := $(PYTHON_BIN):$(PATH)
python-test: export PYTHONDONTWRITEBYTECODE := 1
python-test: wheel
	$(call need,$(firstword $(CC)):gcc)
	pip install --quiet --requirement bindings/python/requirements-test.txt
	pip install --quiet --no-deps --force-reinstall $(PYTHON_OUT)/dist/*.whl
	cd bindings/python && mypy --cache-dir $(PYTHON_OUT)/mypy src hatch_build.py tests/typed_use.py
	@if timeout 300 pyright --version >/dev/null 2>&1; then set -x; pyright --project bindings/python; \
	else echo "skipped: pyright cannot be fetched"; fi
	@$(call counted,cd bindings/python && UDSIPC_WHEEL=$$(ls $(PYTHON_OUT)/dist/*.whl) pytest --quiet)

# What Cargo.toml says is true. Its parts are the four below; `deny`, which takes a minute to install; and `semver`, which takes
# some.
manifest: features minimal-versions msrv package

# Cargo's subcommands, in a folder of ours unless the machine has them. What has to be fast is their build.
TOOLS := $(OUT)/tools
features minimal-versions deny semver: export PATH := $(TOOLS)/bin:$(PATH)
# $(call cargo_install,VERSION,CRATE)
cargo_install = CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	CARGO_PROFILE_RELEASE_DEBUG=0 $(CARGO) install --quiet --locked --root $(TOOLS) --version =$(1) $(2)
# $(call need_subcommand,NAME VERSION,OPTIONS)
define need_subcommand
@command -v cargo-$(firstword $(1)) >/dev/null || { set -x; \
	$(call cargo_install,$(lastword $(1)),$(2) cargo-$(firstword $(1))); }
endef
HACK := hack 0.6.46
DENY := deny 0.20.2
SEMVER := semver-checks 0.51.0

# Every feature alone, and none of them. `make lint` has looked at the default and so at `header`, which is all of it.
features:
	$(need_cargo)
	$(call need_subcommand,$(HACK))
	$(CARGO) hack clippy --locked --each-feature --exclude-all-features --exclude-features default,header,capi \
		--all-targets $(CARGOFLAGS) -- -D warnings

# The library with the oldest dependencies that Cargo.toml allows. What only tests or cbindgen need is left out. The lock file
# is written anew, so this happens in a copy.
minimal-versions:
	$(need_cargo)
	$(call need_subcommand,$(HACK))
	rm -rf $(OUT)/minimal-versions && mkdir -p $(OUT)/minimal-versions
	cp -R Cargo.toml build.rs README.md include src ffi-tests benches examples $(OUT)/minimal-versions
	cd $(OUT)/minimal-versions && $(CARGO) hack --remove-dev-deps && RUSTC_BOOTSTRAP=1 $(CARGO) update --quiet -Z minimal-versions && \
		CARGO_TARGET_DIR=$(OUT)/minimal-versions/target $(CARGO) check --locked --lib --no-default-features

# The oldest Rust, where rustup has it. Clippy looks in any case for parts of the standard library that it lacks
# (incompatible_msrv).
msrv:
	$(need_cargo)
	@if rustup toolchain list 2>/dev/null | grep -q '^$(subst .,\.,$(RUST_VERSION))'; then set -x; \
		CARGO_TARGET_DIR=$(OUT)/msrv rustup run $(RUST_VERSION) cargo check --locked --lib $(CARGOFLAGS); \
	else echo "skipped: no Rust $(RUST_VERSION) here. Install it: rustup toolchain install --profile minimal $(RUST_VERSION)"; fi

# The package as it would be published: complete, and built without a change to its sources.
package:
	$(need_cargo)
	$(CARGO) package --locked --allow-dirty $(CARGOFLAGS)

# Licences, sources and versions of the dependencies (deny.toml), and known defects where their database can be fetched.
deny:
	$(need_cargo)
	$(call need_subcommand,$(DENY),--no-default-features)
	$(CARGO) deny --locked check licenses bans sources
	@if timeout 60 $(CARGO) deny --locked fetch db; then set -x; $(CARGO) deny --locked check --disable-fetch advisories; \
	else echo "skipped: the database of advisories cannot be fetched"; fi

# The Rust API against that of the last release: what breaks takes a new major version, or with 0.x a new minor one.
LAST_RELEASE = $(shell git for-each-ref --merged HEAD --count=1 --sort=-version:refname \
	--format='%(refname:short)' 'refs/tags/v[0-9]*' 2>/dev/null)
semver:
	$(need_cargo)
	$(if $(LAST_RELEASE),$(call need_subcommand,$(SEMVER)),@echo "skipped: there is no release yet to compare with")
	$(if $(LAST_RELEASE),$(CARGO) semver-checks --baseline-rev $(LAST_RELEASE) --only-explicit-features)

# cargo-c installs what `make install` does. Building it takes five minutes of processor time, so CI leaves it out.
CAPI := 0.10.18+cargo-0.92.0
capi-check: export PATH := $(TOOLS)/bin:$(PATH)
capi-check:
	$(need_cargo)
	$(call need,$(LINK_TOOLS) pkg-config:pkg-config openssl/ssl.h:libssl-dev)
	@command -v cargo-capi >/dev/null || { set -x; $(call cargo_install,$(CAPI),cargo-c); }
	@$(MAKE) --no-print-directory all
	$(HARNESS) --test readme -- --ignored cargo_c

# How fast the parts are: criterion, under two minutes.
bench:
	$(need_cargo)
	$(CARGO) bench --locked --bench pipe $(CARGOFLAGS)

# The same work done by what people would use instead. BENCHFLAGS=--quick for a look, see benches/peers/run.py --help.
bench-peers:
	$(call need,$(PYTHON):python3 $(firstword $(CC)):gcc)
	@$(MAKE) --no-print-directory all
	@CARGO="$(CARGO)" $(PYTHON) -B benches/peers/run.py --library $(LIBRARY_DIR)/libudsipc.so \
		--out $(OUT)/bench-peers --json $(OUT)/bench-peers/figures.json $(BENCHFLAGS)

# Every interleaving of the hand-over between producers and the session (src/writer/model.rs), and of the executor's threads
# (src/executor/model.rs). A build of its own, without the link-time optimisation that takes longer than the models do.
model:
	$(need_cargo)
	@$(call counted,RUSTFLAGS="--cfg loom" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		CARGO_TARGET_DIR=$(OUT)/model $(CARGO) test --release --locked --no-default-features --lib $(CARGOFLAGS) -- model)

# Everything that watches the tests from outside. Each begins by finding the flaws that were made for it
# (ffi-tests/sanitizers), and leaves out what its list of tests to skip names, with reasons.
sanitize: sanitize-address sanitize-thread memcheck

CHECKS     := ffi-tests/sanitizers
PROOF      := --test c_abi -- --ignored proof::
# The programs mostly wait: four at a time are no more load than one test per processor elsewhere.
C_PROGRAMS  = -- --test-threads=4 --skip proof:: $(shell sed -n 's/^\([^\# ][^ ]*\).*/--skip \1/p' $(CHECKS)/$(1).skip)

# Library, tests and C programs with a sanitizer of rustc, in a build of their own; RUSTC_BOOTSTRAP=1 lets a stable
# toolchain do it. cargo is told the target, since build scripts and macros must stay as they are. What has to be fast are
# the builds: link-time optimisation is off, dependencies are not optimised, cbindgen is left out. Debug assertions are on.
SANITIZED = RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$(1) -Cforce-frame-pointers=yes $(2)" UDSIPC_CHECKER=$(1) \
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
	CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true \
	CARGO_TARGET_DIR=$(OUT)/sanitize-$(1) $(CARGO) test --release --locked --no-default-features $(CARGOFLAGS) \
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
	@$(MAKE) --no-print-directory all
	$(HARNESS) $(PROOF)
	@$(call counted,$(HARNESS) --test c_abi $(call C_PROGRAMS,memcheck))

# Random load and random faults for MINUTES, the account checked throughout, memory and descriptors flat.
MINUTES ?= 10
soak: all
	@mkdir -p $(OUT)/soak && dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	$(CC) $(C_STRICT) -g -O1 -pthread -Iinclude -o $(OUT)/soak/soak ffi-tests/soak/soak.c \
		-L$(LIBRARY_DIR) -Wl,-rpath,$(LIBRARY_DIR) -ludsipc && \
	cd "$$dir" && $(OUT)/soak/soak $(MINUTES) $(SEED)

# Coverage-guided fuzzing on the committed corpus. What it finds stays below the target folder.
SECONDS ?= 60
fuzz:
	$(need_cargo)
	$(call need,c++:g++)
	@CARGO="$(CARGO)" CARGO_TARGET_DIR="$(OUT)/fuzz" fuzz/run.sh $(SECONDS) $(TARGET)

# What `make all` has built is installed as it is, so that `sudo make install` needs no cargo.
$(LIBRARY_DIR)/libudsipc.so:
	@$(MAKE) --no-print-directory all
$(LIBRARY_DIR)/libudsipc.a: | $(LIBRARY_DIR)/libudsipc.so

# $(call below,PATH,FOLDER,NAME) writes a path below a folder relative to the variable that has the folder, so that a tree that
# is moved as a whole stays usable.
below = $(patsubst $(2),$${$(3)},$(patsubst $(2)/%,$${$(3)}/%,$(1)))
up    = $(subst $(eval) ,/,$(foreach part,$(subst /, ,$(1:$(PREFIX)/%=%)),..))
configure = sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@EXEC_PREFIX@|$(call below,$(EXEC_PREFIX),$(PREFIX),prefix)|' \
	-e 's|@LIBDIR@|$(call below,$(call below,$(LIBDIR),$(EXEC_PREFIX),exec_prefix),$(PREFIX),prefix)|' \
	-e 's|@INCLUDEDIR@|$(call below,$(INCLUDEDIR),$(PREFIX),prefix)|' \
	-e 's|@PREFIX_FROM_CMAKEDIR@|$(if $(filter $(PREFIX)/%,$(CMAKEDIR)),$${_udsipc_dir}/$(call up,$(CMAKEDIR)),$(PREFIX))|' \
	-e 's|@CMAKE_LIBDIR@|$(call below,$(LIBDIR),$(PREFIX),_udsipc_prefix)|' \
	-e 's|@CMAKE_INCLUDEDIR@|$(call below,$(INCLUDEDIR),$(PREFIX),_udsipc_prefix)|' \
	-e 's|@CMAKE_PRIVATE_LIBS@|$(subst $(eval) ,;,$(PRIVATE_LIBS))|' -e 's|@PRIVATE_LIBS@|$(PRIVATE_LIBS)|' \
	-e "s|@POINTER_SIZE@|$$(($$(od -An -tu1 -j4 -N1 $(LIBRARY_DIR)/libudsipc.so) * 4))|" \
	-e 's|@VERSION@|$(VERSION)|' -e 's|@MAJOR@|$(MAJOR)|'

install: $(LIBRARY_DIR)/libudsipc.so
	$(call have,$(INSTALL):coreutils $(firstword $(STRIP)):binutils)
	umask 022 && $(INSTALL) -d $(foreach dir,LIBDIR INCLUDEDIR PKGCONFIGDIR CMAKEDIR,"$(DESTDIR)$($(dir))")
	@# By way of rename(2): a program that starts meanwhile finds the old library or the new one, never half of one.
	$(INSTALL) -m 0755 $(LIBRARY_DIR)/libudsipc.so "$(DESTDIR)$(LIBDIR)/$(SO_FILE).new"
	$(STRIP) --strip-unneeded "$(DESTDIR)$(LIBDIR)/$(SO_FILE).new"
	mv -f "$(DESTDIR)$(LIBDIR)/$(SO_FILE).new" "$(DESTDIR)$(LIBDIR)/$(SO_FILE)"
	ln -sf $(SO_FILE) "$(DESTDIR)$(LIBDIR)/$(SONAME)"
	ln -sf $(SONAME) "$(DESTDIR)$(LIBDIR)/libudsipc.so"
	$(INSTALL) -m 0644 $(LIBRARY_DIR)/libudsipc.a "$(DESTDIR)$(LIBDIR)/libudsipc.a"
	$(STRIP) --strip-unneeded "$(DESTDIR)$(LIBDIR)/libudsipc.a"
	$(INSTALL) -m 0644 include/udsipc.h include/udsipc.hpp "$(DESTDIR)$(INCLUDEDIR)"
	umask 022 && $(configure) packaging/udsipc.pc.in >"$(DESTDIR)$(PKGCONFIGDIR)/udsipc.pc"
	@umask 022 && for file in $(CMAKE_FILES); do \
		$(configure) packaging/$$file.in >"$(DESTDIR)$(CMAKEDIR)/$$file" || exit 1; done
	$(refresh_linker_cache)
	@$(MAKE) --no-print-directory install-man

CMAKE_FILES := udsipcConfig.cmake udsipcConfigVersion.cmake

uninstall:
	rm -f $(foreach file,$(SO_FILE) $(SONAME) libudsipc.so libudsipc.a,"$(DESTDIR)$(LIBDIR)/$(file)") \
		$(foreach file,udsipc.h udsipc.hpp,"$(DESTDIR)$(INCLUDEDIR)/$(file)") \
		"$(DESTDIR)$(PKGCONFIGDIR)/udsipc.pc" $(foreach file,$(CMAKE_FILES),"$(DESTDIR)$(CMAKEDIR)/$(file)")
	@# The folder of its own too, unless somebody else has put something there.
	if [ -d "$(DESTDIR)$(CMAKEDIR)" ]; then rmdir --ignore-fail-on-non-empty "$(DESTDIR)$(CMAKEDIR)"; fi
	$(refresh_linker_cache)
	@$(MAKE) --no-print-directory uninstall-man

# The command line tool, and what the shells complete behind its name.
install: install-tools
install-tools: $(OUT)/udsipccat
	$(call have,$(INSTALL):coreutils $(firstword $(STRIP)):binutils)
	umask 022 && $(INSTALL) -d "$(DESTDIR)$(BINDIR)" "$(DESTDIR)$(DATADIR)/bash-completion/completions" \
		"$(DESTDIR)$(DATADIR)/zsh/site-functions" "$(DESTDIR)$(DATADIR)/fish/vendor_completions.d"
	$(INSTALL) -m 0755 $(OUT)/udsipccat "$(DESTDIR)$(BINDIR)/udsipccat.new"
	$(STRIP) --strip-unneeded "$(DESTDIR)$(BINDIR)/udsipccat.new"
	mv -f "$(DESTDIR)$(BINDIR)/udsipccat.new" "$(DESTDIR)$(BINDIR)/udsipccat"
	$(INSTALL) -m 0644 $(CAT)/completions/udsipccat.bash "$(DESTDIR)$(DATADIR)/bash-completion/completions/udsipccat"
	$(INSTALL) -m 0644 $(CAT)/completions/_udsipccat "$(DESTDIR)$(DATADIR)/zsh/site-functions/_udsipccat"
	$(INSTALL) -m 0644 $(CAT)/completions/udsipccat.fish "$(DESTDIR)$(DATADIR)/fish/vendor_completions.d/udsipccat.fish"

uninstall: uninstall-tools
uninstall-tools:
	rm -f "$(DESTDIR)$(BINDIR)/udsipccat" "$(DESTDIR)$(DATADIR)/bash-completion/completions/udsipccat" \
		"$(DESTDIR)$(DATADIR)/zsh/site-functions/_udsipccat" \
		"$(DESTDIR)$(DATADIR)/fish/vendor_completions.d/udsipccat.fish"

# Only for the running system: a package's own scripts do it when DESTDIR is set, and only root may.
define refresh_linker_cache
@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then PATH="$$PATH:/usr/sbin:/sbin" $(LDCONFIG); fi
endef

# The manual pages, which `make install` puts below MANDIR. `make man` writes those of section 3; they are committed, so that a
# build needs no Python. Each name in the section NAME of a page becomes a link to the page: man udsipc_writer_flush.
MANDIR   ?= $(DATADIR)/man
MAN      := mandoc:mandoc man:man-db
MAN_PAGES = $(wildcard packaging/man/*.[1-9])

# What is installed says where it lies. A relative path would be another one in another folder, and pkg-config takes a blank for
# the end of a flag. (DESTDIR stands in no file, and may be both.)
$(if $(filter install%,$(MAKECMDGOALS)),$(foreach dir,PREFIX EXEC_PREFIX LIBDIR INCLUDEDIR PKGCONFIGDIR CMAKEDIR BINDIR DATADIR \
	MANDIR,$(if $(filter-out /%,$($(dir)))$(word 2,$($(dir))),$(error \
	$(dir) is "$($(dir))", and must be an absolute path without a blank in it))))

.PHONY: man install-man uninstall-man
man:
	$(call have,$(PYTHON):python3)
	$(PYTHON) -B tools/man.py

# $(call for_each_page,COMMANDS) runs them with $page, the $folder of its section, its $file name, and the $links to it.
define for_each_page
@umask 022; for page in $(MAN_PAGES); do \
	file=$${page##*/}; section=$${page##*.}; folder="$(DESTDIR)$(MANDIR)/man$$section"; \
	links=$$(awk -v page="$$file" -v section="$$section" '$$1 == ".Sh" { inside = $$2 == "NAME" } \
		inside && $$1 == ".Nm" && $$2 "." section != page { print $$2 "." section }' "$$page"); \
	$(1) || exit 1; \
done
endef

install-man:
	$(call have,$(INSTALL):coreutils)
	$(call for_each_page,$(INSTALL) -d "$$folder" && $(INSTALL) -m 0644 "$$page" "$$folder" && \
		for link in $$links; do ln -sf "$$file" "$$folder/$$link" || exit 1; done)

uninstall-man:
	$(call for_each_page,(cd "$$folder" 2>/dev/null || exit 0; rm -f "$$file" $$links))

# Debian's packages, in target/release/deb, and the source package that they are built from. dpkg-buildpackage expects
# packaging/debian at the root of the sources, so it works in a copy of them. It does not check the build dependencies (-d): a Rust
# as new as this project needs is rarely a package of Debian.
DEB        := $(OUT)/deb
DEB_SOURCE := udsipc-$(VERSION)
DEB_ORIG   := udsipc_$(VERSION).orig.tar.xz
.PHONY: deb deb-check
deb:
	$(need_cargo)
	$(call have,dpkg-buildpackage:dpkg-dev dh:debhelper dh_python3:dh-python $(LINK_TOOLS))
	rm -rf $(DEB) && mkdir -p $(DEB)
	tar -cJf $(DEB)/$(DEB_ORIG) --exclude-vcs --exclude=./target --exclude=$(OUT:$(CURDIR)/%=./%) --exclude=__pycache__ \
		--sort=name --owner=0 --group=0 --numeric-owner --transform='s|^\.|$(DEB_SOURCE)|' .
	tar -xJf $(DEB)/$(DEB_ORIG) -C $(DEB)
	cp -RL packaging/debian $(DEB)/$(DEB_SOURCE)/debian
	cd $(DEB)/$(DEB_SOURCE) && env -u MAKEFLAGS -u CARGO_TARGET_DIR -u CARGO_BUILD_TARGET dpkg-buildpackage -us -uc -d
	@ls -l $(DEB)/*.deb

# The packages as lintian and their users see them: installed and removed in a copy of this machine.
deb-check: SHELL := /bin/bash
deb-check: .SHELLFLAGS := -eu -o pipefail -c
deb-check:
	$(need_cargo)
	$(call need,dpkg-buildpackage:dpkg-dev dh:debhelper dh_python3:dh-python lintian:lintian pkg-config:pkg-config $(LINK_TOOLS))
	@$(MAKE) --no-print-directory deb
	@$(call counted,$(HARNESS) --test deb -- --ignored)

clean:
	$(CARGO) clean
