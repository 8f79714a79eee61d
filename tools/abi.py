#!/usr/bin/env python3
"""The description of the ABI in packaging/abi, as `make abi-check` and `make abi-update` make it.

    abi.py reduce HEADER <ABIDW        writes what a C program sees of the library that abidw has described
    abi.py compare OLD NEW             fails, with abidiff's explanation, if programs that were built with OLD break with NEW
    abi.py check OLD NEW               the same, and fails if NEW has what OLD does not say
    abi.py update OLD NEW              the same as compare, and then replaces OLD by NEW
    abi.py list HEADER SYMBOLS VERSION adds the functions to the list of symbols that HEADER declares and the list lacks

abidw describes a library with the types of its sources. For Rust that is too much: the fields of opaque handles down to
the standard library's, namespaces, Option around a function pointer. Any of it may change without a C program noticing.
What is left here are the exported functions, and the types that the header declares.
"""

import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
FUNCTION = re.compile(r"\b(udsipc_\w+)\(")
OPAQUE = re.compile(r"^typedef struct (\w+) \1;", re.MULTILINE)
LISTED = re.compile(r"^ (udsipc_\w+)@", re.MULTILINE)

# The attributes that matter to a caller. Left out: mangled names, visibilities, places in the sources.
KEPT = (
    "name size-in-bits alignment-in-bits is-struct is-anonymous layout-offset-in-bits access value type-id elf-symbol-id"
).split()


def code(header):
    with open(header, encoding="ascii") as file:
        return COMMENT.sub("", file.read())


class Reduction:
    """The types of one description, and those of them that have been written."""

    def __init__(self, corpus, opaque):
        self.types = {element.get("id"): element for element in corpus.iter() if element.get("id")}
        self.opaque = opaque
        self.names = set()
        self.written = []

    def type_id(self, identifier):
        """The name of a type, which is written with all that it refers to when it is seen first."""
        element = self.c_type(self.types[identifier])
        name = self.type_name(element)
        if name not in self.names:
            self.names.add(name)
            copied = self.copy(element)
            copied.set("id", name)
            self.written.append(copied)
        return name

    def c_type(self, element):
        """What C has for a type of Rust: a function pointer for an Option with one in it, void for c_void."""
        name = element.get("name", "")
        if name.startswith("Option<"):
            [some] = [member for member in element.iter("class-decl") if member.get("name") == "Some"]
            return self.types[some.find(".//var-decl").get("type-id")]
        if name in ("c_void", "void"):
            return ElementTree.Element("type-decl", {"name": "void"})
        return element

    def type_name(self, element):
        """A name that depends on nothing but the type, so that a change of one type changes nothing but its own lines."""
        if element.tag == "pointer-type-def":
            return f"pointer-to-{self.type_name(self.c_type(self.types[element.get('type-id')]))}"
        if element.tag == "function-type":
            parts = [self.type_name(self.c_type(self.types[part.get("type-id")])) for part in element]
            return f"function-{'-'.join(parts)}"
        return element.get("name")

    def copy(self, element):
        kept = {name: value for name, value in element.attrib.items() if name in KEPT}
        if element.get("type-id"):
            kept["type-id"] = self.type_id(element.get("type-id"))
        if element.get("name") in self.opaque:
            kept.pop("size-in-bits", None)
            kept["is-declaration-only"] = "yes"
            return ElementTree.Element(element.tag, kept)
        copied = ElementTree.Element(element.tag, kept)
        copied.extend(self.copy(child) for child in element)
        return copied


def reduce(header):
    corpus = ElementTree.parse(sys.stdin).getroot()
    symbols = sorted(corpus.iter("elf-symbol"), key=lambda symbol: symbol.get("name"))
    functions = {function.get("elf-symbol-id"): function for function in corpus.iter("function-decl")}
    reduction = Reduction(corpus, set(OPAQUE.findall(code(header))))
    unit = ElementTree.Element("abi-instr", {"address-size": "64", "path": "udsipc.h", "language": "LANG_C11"})
    declared = []
    for symbol in symbols:
        identifier = f"{symbol.get('name')}@@{symbol.get('version')}"
        if identifier not in functions:
            sys.exit(f"abi.py: {identifier} is exported, but is no function with debug information")
        declared.append(reduction.copy(functions[identifier]))
    unit.extend(reduction.written + declared)
    attributes = {name: corpus.get(name) for name in ("version", "architecture", "soname")}
    reduced = ElementTree.Element("abi-corpus", attributes)
    table = ElementTree.SubElement(reduced, "elf-function-symbols")
    table.extend(symbols)
    reduced.append(unit)
    ElementTree.indent(reduced)
    print(ElementTree.tostring(reduced, encoding="unicode"))


def without_additions(old, new):
    """Takes from the new description what the contract lets the library add to the old one: functions, status numbers, and
    counters at the end of the metrics structs. abidiff can be told to ignore some of them, and then ignores more."""
    functions = {symbol.get("name") for symbol in old.iter("elf-symbol")}
    for parent in [*new.iter("elf-function-symbols"), *new.iter("abi-instr")]:
        for child in list(parent):
            if child.tag in ("elf-symbol", "function-decl") and child.get("name") not in functions:
                parent.remove(child)
    for enum in new.iter("enum-decl"):
        before = old.find(f".//enum-decl[@name='{enum.get('name')}']")
        names = {enumerator.get("name") for enumerator in before.iter("enumerator")} if before is not None else set()
        for enumerator in enum.findall("enumerator"):
            if enumerator.get("name") not in names:
                enum.remove(enumerator)
    for struct in new.iter("class-decl"):
        before = old.find(f".//class-decl[@name='{struct.get('name')}']")
        if struct.get("name").endswith("_metrics") and before is not None:
            size = min(int(before.get("size-in-bits")), int(struct.get("size-in-bits")))
            struct.set("size-in-bits", str(size))
            for member in struct.findall("data-member"):
                if int(member.get("layout-offset-in-bits")) >= size:
                    struct.remove(member)


def compare(old_path, new_path):
    old, new = (ElementTree.parse(path).getroot() for path in (old_path, new_path))
    if old.get("architecture") != new.get("architecture"):
        print(f"skipped: {old_path} describes {old.get('architecture')}, and this library is {new.get('architecture')}")
        sys.exit(0)
    without_additions(old, new)
    with tempfile.NamedTemporaryFile("w", suffix=".abi") as kept:
        kept.write(ElementTree.tostring(new, encoding="unicode"))
        kept.flush()
        # With the changes that abidiff calls harmless, such as two counters that have changed their places.
        done = subprocess.run(["abidiff", "--harmless", old_path, kept.name], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(
            f"{done.stdout}\nThe ABI is broken: programs built with the library of {old_path} do not work with this one. "
            "CONTRIBUTING.md, Versions, says what may change."
        )


def check(old_path, new_path):
    compare(old_path, new_path)
    if not filecmp.cmp(old_path, new_path, shallow=False):
        sys.exit(f"The ABI has grown, which breaks no program. Say so in {old_path}: make abi-update, and commit it.")


def update(old_path, new_path):
    if os.path.exists(old_path):
        compare(old_path, new_path)
    shutil.copyfile(new_path, old_path)


def add_to_list(header, symbols, version):
    with open(symbols, encoding="ascii") as file:
        text = file.read()
    missing = set(FUNCTION.findall(code(header))) - set(LISTED.findall(text))
    lines = text.splitlines()
    head = [line for line in lines if not line.startswith(" ")]
    listed = [line for line in lines if line.startswith(" ")]
    listed += [f" {name}@UDSIPC_{version.split('.')[0]} {version}" for name in missing]
    with open(symbols, "w", encoding="ascii") as file:
        file.write("\n".join([*head, *sorted(listed)]) + "\n")


def main(arguments):
    match arguments:
        case ["reduce", header]:
            reduce(header)
        case ["compare", old, new]:
            compare(old, new)
        case ["check", old, new]:
            check(old, new)
        case ["update", old, new]:
            update(old, new)
        case ["list", header, symbols, version]:
            add_to_list(header, symbols, version)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
