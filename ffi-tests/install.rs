//! `make install` as a packager meets it: what lies where, with which rights, and what is left after `make uninstall`.
//! Whether programs can be built with it shows `linking.rs`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/installation.rs"]
mod installation;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use installation::{Installation, SONAME, VERSION, built, command, make, make_in, scripts};
use support::{PATIENCE, exported_functions, output, project, run, run_ok, tempdir};

/// The files and links below a folder, with their paths from there.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

/// Libraries and programs lie below a folder of their own if EXEC_PREFIX says so.
fn expected_files(libdir: &str, includedir: &str) -> BTreeSet<String> {
    let versioned = format!("libudsipc.so.{VERSION}");
    let libraries = [versioned.as_str(), SONAME, "libudsipc.so", "libudsipc.a", "pkgconfig/udsipc.pc"];
    let cmake = ["cmake/udsipc/udsipcConfig.cmake", "cmake/udsipc/udsipcConfigVersion.cmake"];
    let headers = ["udsipc.h", "udsipc.hpp"];
    let completions = [
        "bash-completion/completions/udsipccat",
        "fish/vendor_completions.d/udsipccat.fish",
        "zsh/site-functions/_udsipccat",
    ];
    let pages = support::manual_pages();
    let (exec_prefix, _) = libdir.split_once("lib").unwrap();
    let share = includedir.replace("include", "share");
    (libraries.iter().chain(&cmake).map(|name| format!("{libdir}/{name}")))
        .chain(headers.iter().map(|name| format!("{includedir}/{name}")))
        .chain(completions.iter().map(|name| format!("{share}/{name}")))
        .chain(pages.keys().map(|page| format!("{share}/man/{page}")))
        .chain([format!("{exec_prefix}bin/udsipccat")])
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn puts_down_what_a_c_library_is_made_of() {
    let installation = Installation::in_prefix();
    assert_eq!(files(&installation.prefix), expected_files("lib", "include"));

    let library = installation.libdir.join(format!("libudsipc.so.{VERSION}"));
    let tool = installation.prefix.join("bin/udsipccat");
    for file in files(&installation.prefix) {
        let path = installation.prefix.join(&file);
        if !path.is_symlink() {
            let expected = if path == library || path == tool { 0o755 } else { 0o644 };
            assert_eq!(mode(&path), expected, "{file}");
        }
    }
    // Relative, so that a staged or moved tree stays whole.
    let target = |link: &str| fs::read_link(installation.libdir.join(link)).unwrap();
    assert_eq!(target("libudsipc.so"), Path::new(SONAME));
    assert_eq!(target(SONAME), library.file_name().unwrap());

    let dynamic = output(Command::new("readelf").arg("-d").arg(&library));
    assert!(dynamic.contains(&format!("Library soname: [{SONAME}]")), "{dynamic}");
    for stripped in [library, tool, installation.libdir.join("libudsipc.a")] {
        let sections = output(Command::new("readelf").args(["-S", "-W"]).arg(&stripped));
        assert!(!sections.contains(".debug_info"), "{} holds debug information", stripped.display());
    }
    let exported = output(Command::new("nm").args(["-D", "--defined-only"]).arg(installation.libdir.join(SONAME)));
    assert!(exported.contains("udsipc_writer_new"), "stripping took the exported symbols: {exported}");
}

#[test]
fn pkg_config_tells_where_it_is() {
    let installation = Installation::in_prefix();
    assert_eq!(installation.pkg_config(&["--modversion"]), [VERSION]);
    let prefix = installation.prefix.to_str().unwrap();
    assert_eq!(installation.pkg_config(&["--variable=prefix"]), [prefix]);
    assert_eq!(installation.pkg_config(&["--cflags"]), [format!("-I{prefix}/include")]);
    assert_eq!(installation.pkg_config(&["--libs"]), [format!("-L{prefix}/lib"), "-ludsipc".into()]);
    // A tree that was moved as a whole is found at its new place.
    let moved = installation.pkg_config(&["--define-variable=prefix=/moved", "--cflags", "--libs"]);
    assert_eq!(moved, ["-I/moved/include", "-L/moved/lib", "-ludsipc"]);
}

/// It asks the loader for the library by its soname, and brings no path of the machine that it was built on.
#[test]
fn the_command_line_tool_runs_with_the_installed_library() {
    let installation = Installation::in_prefix();
    let tool = installation.prefix.join("bin/udsipccat");
    let dynamic = output(Command::new("readelf").arg("-d").arg(&tool));
    assert!(dynamic.contains(&format!("[{SONAME}]")), "{dynamic}");
    assert!(!dynamic.contains("PATH"), "{dynamic}");
    let mut version = Command::new(tool);
    let told = run_ok(version.arg("--version").env("LD_LIBRARY_PATH", &installation.libdir), PATIENCE);
    assert_eq!(told, format!("udsipccat {VERSION}, libudsipc {VERSION}\n"));
}

#[test]
fn a_staged_tree_is_one_for_its_final_place() {
    let installation = Installation::staged();
    let stage = installation.folder.path().join("stage");
    assert_eq!(files(&stage), expected_files("usr/lib/some-linux-gnu", "usr/include"));
    for file in ["pkgconfig/udsipc.pc", "cmake/udsipc/udsipcConfig.cmake", "cmake/udsipc/udsipcConfigVersion.cmake"] {
        let text = fs::read_to_string(installation.libdir.join(file)).unwrap();
        assert!(!text.contains(stage.to_str().unwrap()) && !text.contains('@'), "{file}: {text}");
    }
    let pc = fs::read_to_string(installation.libdir.join("pkgconfig/udsipc.pc")).unwrap();
    let folders =
        "prefix=/usr\nexec_prefix=${prefix}\nlibdir=${exec_prefix}/lib/some-linux-gnu\nincludedir=${prefix}/include\n";
    assert!(pc.contains(folders), "{pc}");
}

#[test]
fn what_depends_on_the_machine_has_a_prefix_of_its_own() {
    let installation = Installation::with_exec_prefix();
    let expected = expected_files("exec/lib", "prefix/include");
    assert_eq!(files(installation.folder.path()), expected);
    assert_eq!(installation.pkg_config(&["--variable=libdir"]), [installation.libdir.to_str().unwrap()]);
    let include = installation.prefix.join("include");
    assert_eq!(installation.pkg_config(&["--variable=includedir"]), [include.to_str().unwrap()]);
}

/// The versions of the symbols are what a later library with the same soname can tell programs apart by.
#[test]
fn every_exported_symbol_has_a_version() {
    let installation = Installation::in_prefix();
    let symbols = output(Command::new("readelf").args(["--dyn-syms", "-W"]).arg(installation.libdir.join(SONAME)));
    let version = concat!("UDSIPC_", env!("CARGO_PKG_VERSION_MAJOR"));
    let defined = symbols.lines().filter(|line| !line.contains(" UND ")).skip_while(|line| !line.contains("Name"));
    let exported: Vec<&str> = defined.skip(1).filter_map(|line| line.split_whitespace().last()).collect();
    let functions = exported_functions().into_iter().map(|name| format!("{name}@@{version}"));
    let expected: BTreeSet<String> = functions.chain([version.to_owned()]).collect();
    assert_eq!(exported.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
}

/// The list can be a package's `debian/libudsipc0.symbols` as it stands.
#[test]
fn debian_takes_the_list_of_symbols() {
    if command("dpkg-gensymbols").arg("--version").output().is_err() {
        println!("skipped: dpkg-gensymbols is missing; on Debian and Ubuntu: sudo apt-get install dpkg-dev");
        return;
    }
    let installation = Installation::in_prefix();
    let folder = installation.folder.path();
    fs::create_dir(folder.join("debian")).unwrap();
    let package = "Package: libudsipc0\nArchitecture: any\nDescription: A package\n";
    fs::write(folder.join("debian/control"), format!("Source: udsipc\nMaintainer: N <n@example.org>\n\n{package}"))
        .unwrap();
    let mut gensymbols = command("dpkg-gensymbols");
    gensymbols.args(["-plibudsipc0", "-c4", "-Onew.symbols"]).arg(format!("-v{VERSION}")).current_dir(folder);
    gensymbols.arg(format!("-e{}", installation.libdir.join(SONAME).display()));
    gensymbols.arg(format!("-I{}", project("packaging/abi/libudsipc.symbols").display()));
    let printed = run_ok(&mut gensymbols, PATIENCE);
    assert!(!printed.contains("match completely"), "{printed}");
}

#[test]
fn installing_twice_is_installing_once() {
    let installation = Installation::in_prefix().installed();
    assert_eq!(files(&installation.prefix), expected_files("lib", "include"));
}

/// Everybody can use what an administrator with a strict umask installs, also below a folder with a blank in its name.
#[test]
fn the_umask_of_the_installer_does_not_matter() {
    let folder = tempdir();
    let stage = folder.path().join("a stage");
    let install = make("install", &[format!("DESTDIR={}", stage.display()), "PREFIX=/usr".into()]);
    let mut strict = Command::new("sh");
    strict.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(install.get_program()).args(install.get_args());
    run_ok(&mut strict, PATIENCE);
    assert_eq!(files(&stage), expected_files("usr/lib", "usr/include"));
    for file in files(&stage) {
        let path = stage.join(&file);
        let is_executable = path.ends_with(format!("libudsipc.so.{VERSION}")) || path.ends_with("bin/udsipccat");
        let rights = if is_executable { 0o755 } else { 0o644 };
        assert!(path.is_symlink() || mode(&path) == rights, "{file}: {:o}", mode(&path));
        let mut folders = path.ancestors().skip(1).take_while(|folder| *folder != stage);
        assert!(folders.all(|folder| mode(folder) == 0o755), "{file}");
    }
}

/// Programs find the library by what is written into udsipc.pc, from whatever folder they are built in.
#[test]
fn a_folder_that_programs_would_not_find_is_refused() {
    for (variable, value) in
        [("PREFIX", "stage"), ("PREFIX", "/opt/two words"), ("LIBDIR", "lib64"), ("MANDIR", "~/man")]
    {
        let root = tempdir();
        let destdir = format!("DESTDIR={}/stage/", root.path().display());
        let done = run(&mut make("install", &[destdir, "PREFIX=/usr".into(), format!("{variable}={value}")]), PATIENCE);
        assert!(!done.status.success());
        assert!(done.output.contains(&format!("{variable} is \"{value}\", and must be")), "{}", done.output);
        assert_eq!(files(root.path()), BTreeSet::new());
    }
}

/// `rm -rf` of a path with a blank would remove what is called as its first part.
#[test]
fn a_target_folder_with_a_blank_in_its_path_is_refused() {
    let root = tempdir();
    let out = root.path().join("two words");
    for target in ["link", "install", "minimal-versions"] {
        let done = run(make_in(&out, target).arg("CARGO=false"), PATIENCE);
        assert!(!done.status.success());
        assert!(done.output.contains(&format!("cannot build in \"{}\"", out.display())), "{}", done.output);
        assert_eq!(files(root.path()), BTreeSet::new());
    }
}

/// Package builds give one LDFLAGS for all there is.
#[test]
fn the_shared_library_is_one_whatever_programs_are_linked_with() {
    let out = tempdir();
    symlink(built().join("libudsipc.a"), out.path().join("libudsipc.a")).unwrap();
    let flags = ["CARGO=false", "LDFLAGS=-fPIE -pie -Wl,-z,relro -Wl,-z,now"];
    run_ok(make_in(out.path(), "link").args(flags), PATIENCE);
    let dynamic = output(Command::new("readelf").arg("-d").arg(out.path().join("lib/libudsipc.so")));
    assert!(dynamic.contains(&format!("Library soname: [{SONAME}]")), "{dynamic}");
}

#[test]
fn uninstall_leaves_nothing_behind_and_nothing_else_out() {
    let installation = Installation::in_prefix();
    for (neighbour, beside) in [("lib/libudsipcx.so", true), ("lib/cmake/udsipc/Findudsipc.cmake", false)] {
        fs::write(installation.prefix.join(neighbour), "somebody else's").unwrap();
        run_ok(&mut make("uninstall", &installation.variables), PATIENCE);
        assert_eq!(files(&installation.prefix), BTreeSet::from([neighbour.to_owned()]));
        assert_eq!(installation.libdir.join("cmake/udsipc").exists(), !beside, "the package's own folder");
        // Nothing left to remove is no error.
        run_ok(&mut make("uninstall", &installation.variables), PATIENCE);
        fs::remove_file(installation.prefix.join(neighbour)).unwrap();
        run_ok(&mut make("install", &installation.variables), PATIENCE);
    }
}

/// What a package build calls changes nothing on the machine that it runs on, whoever runs it.
#[test]
fn a_missing_tool_is_named_and_never_installed() {
    for user in [0, 1000] {
        let (_folder, path) =
            scripts(&[("id", &format!("echo {user}")), ("apt-get", "echo apt-get was called; exit 1")]);
        for (target, missing, package) in
            [("install", "STRIP=no-such-strip", "binutils"), ("all", "CC=no-such-cc", "gcc")]
        {
            let root = tempdir();
            let variables = [format!("PREFIX={}", root.path().display()), missing.to_owned()];
            let done = run(make(target, &variables).env("PATH", &path), PATIENCE);
            assert!(!done.status.success());
            assert!(done.output.contains(&format!("sudo apt-get install {package}")), "{}", done.output);
            assert!(!done.output.contains("apt-get was called"), "{}", done.output);
            assert_eq!(files(root.path()), BTreeSet::new());
        }
    }
}

/// The same for every command of these targets, also those that nothing is missing for.
#[test]
fn what_a_package_build_calls_runs_no_apt_get() {
    let dry_run = |target| run_ok(make(target, &[]).arg("--dry-run"), PATIENCE);
    for target in ["all", "examples", "install", "uninstall", "clean", "lint", "check"] {
        assert!(!dry_run(target).contains("apt-get update"), "make {target}");
    }
    for target in ["demo", "test"] {
        assert!(dry_run(target).contains("apt-get update"), "the rule finds what it looks for in make {target}");
    }
}

/// Each of the two builds the other's part where it is missing, and a dry run makes neither.
#[test]
fn a_dry_run_ends_where_nothing_has_been_built() {
    let out = tempdir();
    for target in ["all", "install"] {
        let mut dry_run = Command::new("timeout");
        let make = make_in(out.path(), target);
        dry_run.arg("60").arg(make.get_program()).args(make.get_args()).arg("--dry-run");
        assert!(run_ok(&mut dry_run, PATIENCE).contains("udsipccat/main.c"), "make {target}");
    }
}

#[test]
fn root_gets_a_tool_installed_that_a_test_is_missing() {
    let apt_get = r#"folder=$(dirname "$0"); echo "$@" >>"$folder/calls""#;
    let (folder, path) = scripts(&[("id", "echo 0"), ("apt-get", apt_get)]);
    // CARGO=false ends it after that.
    let done = run(make("memcheck", &["CC=no-such-cc".to_owned()]).env("PATH", path), PATIENCE);
    assert!(!done.status.success());
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap_or_else(|e| panic!("{e}: {}", done.output));
    assert!(calls.starts_with("update -q\ninstall -qy --no-install-recommends gcc"), "{calls}");
}
