#!/usr/bin/env python3
"""Writes the manual pages of section 3: tools/man.py [--check] [ROOT]

Each ROOT/packaging/man/NAME.3.in is a page in mdoc(7), and becomes NAME.3 beside it. A line that begins with "@" stands for
something that ROOT/include/udsipc.h says. GROUPS are parts of the header, named by their titles up to the colon and separated
by semicolons.

    @names GROUPS       the names of the section NAME, behind the page's own
    @synopsis GROUPS    the declarations
    @describe GROUPS    the description of each type and function
    @omit LABEL: TEXT   what the page says once, and @describe leaves out
    @type NAME          the description of one type here, and not with its group
    @chapter TITLE      a chapter of the comment at the top of the header
    @chapters           the other chapters, each with its heading
    @code ... @end      a program, as it is

"@version@" is the version of the header. The date of a page is that of the version's release in CHANGELOG.md; before the
release it is the one in the template. --check writes nothing, and fails if a page is not what the header and the templates say.
"""

import re
import sys
import textwrap
from pathlib import Path

MONTHS = "January February March April May June July August September October November December".split()
VARIABLES = "RUNTIME_DIRECTORY STATE_DIRECTORY LISTEN_PID LISTEN_FDS LISTEN_FDNAMES NOTIFY_SOCKET".split()
LABEL = re.compile(r"((?:Parameters|Returns|Default|Ownership|Threads|Blocking|System calls)[a-z, ]*):(?: |$)")
# Between labels of a comment, a sentence that ends before this column ends a paragraph.
FULL_LINE = 100


def fail(message):
    sys.exit(f"tools/man.py: {message}")


# ---- The header


def comment_lines(comment):
    return [re.sub(r"^ *\* ?", "", line).rstrip() for line in comment.strip().splitlines()]


def documented(text, declaration):
    """The declarations of this form that have a comment in front, each with the lines of the comment."""
    found = re.findall(rf"/\*\*((?:(?!\*/).)*)\*/\s*({declaration})", text, re.S)
    return [(comment_lines(comment), code.strip()) for comment, code in found]


class Item:
    """A documented declaration: a function, callback, handle, struct, enum or macro."""

    def __init__(self, group, comment, declaration):
        self.group, self.comment, self.parameters = group, comment, []
        head, _, members = declaration.partition("{")
        # What marks a declaration, such as UDSIPC_NODISCARD, is no part of what a program writes.
        self.head = " ".join(re.sub(r"\bUDSIPC_[A-Z0-9_]+\b(\s*\([^()]*\))?", "", head).split())
        self.members = documented(members, "[^;,]*")
        function = re.match(r"(.*?)(?:\(\*(\w+)\)|(udsipc_\w+)) ?\((.*)\)", self.head)
        if declaration.startswith("#define"):
            self.kind, self.head = "macro", " ".join(declaration.split())
            self.name = self.head.split()[1]
        elif re.match("typedef (struct|enum) ", self.head):
            _, kind, self.name, *_ = self.head.split()
            self.kind = kind if self.members else "handle"
        elif function:
            self.result, callback, name, parameters = function.groups()
            self.kind, self.name = ("callback", callback) if callback else ("function", name)
            self.parameters = [part.strip() for part in parameters.split(",") if part.strip() != "void"]
        else:
            fail(f"cannot read the declaration {declaration!r}")


class Header:
    def __init__(self, text):
        self.version = re.search(r'#define UDSIPC_VERSION_STRING "(.*)"', text)[1]
        parts = re.split(r"/\*\n \* ([^\n]*)\n \* -+\n \*/\n", text)
        self.groups = {}
        for group, body in zip((title.split(":")[0] for title in parts[1::2]), parts[2::2]):
            found = documented(body, r"#define[^\n]*|[^;{]*(?:\{[^}]*\}[^;]*)?;")
            self.groups[group] = [Item(group, *each) for each in found]
        self.items = {item.name: item for items in self.groups.values() for item in items}
        self.members = {re.search(r"\w+$", declaration)[0] for item in self.items.values() if item.kind == "struct"
                        for _, declaration in item.members}
        manual = "\n".join(comment_lines(re.match(r"/\*(.*?)\*/", text, re.S)[1]))
        _, *parts = re.split(r"^([A-Z][A-Z ]+)$", manual, flags=re.M)
        self.chapters = {title: re.split(r"\n{2,}", body.strip("\n")) for title, body in zip(parts[::2], parts[1::2])}


def sections(comment):
    """The parts of a comment: paragraphs, parameters, labelled paragraphs, and the paragraphs behind the last label."""
    blocks, last = [["", ""]], ""
    for line in comment:
        label = LABEL.match(line)
        ends_early = any(label for label, _ in blocks) and last.endswith(".") and len(last) < FULL_LINE
        if label:
            blocks.append([label[1], line[label.end():]])
        elif blocks[-1][0] == "Parameters" and line.startswith("  "):
            blocks[-1][1] += f"\n{line[2:]}"
        elif not line or ends_early or blocks[-1][0] == "Parameters":
            blocks.append(["", line])
        else:
            blocks[-1][1] += f" {line}"
        last = line
    text, parameters, labelled, behind = [], [], [], []
    for label, block in blocks:
        # "Threads: any. Blocking: never." stand in one line.
        block, *blocking = re.split(r"(?<=[.;]) (?=Blocking: )", block)
        if label == "Parameters":
            entries = re.findall(r"^(\w+) +(.*(?:\n .*)*)", block, re.M)
            parameters = [(name, " ".join(entry.split())) for name, entry in entries]
        elif label:
            labelled += [(label, behind := [block])]
            labelled += [("Blocking", behind := [each.removeprefix("Blocking: ")]) for each in blocking]
        elif block.strip():
            (behind if labelled else text).append(block)
    return text, parameters, labelled, [labelled[-1][1].pop(1) for _ in behind[1:]]


# ---- Text to mdoc(7)


def escape(text):
    for character, escaped in (("\\", "\\e"), ("~", "\\(ti"), ("^", "\\(ha"), ("`", "\\(ga")):
        text = text.replace(character, escaped)
    # At the beginning of a line these two would make it a request.
    return re.sub(r"^(?=[.'])", r"\\&", text)


def program(lines):
    lines = textwrap.dedent("\n".join(lines)).strip("\n").split("\n")
    lines = [escape(line).replace("-", "\\-").replace("'", "\\(aq") for line in lines]
    return [".Bd -literal -offset indent", *lines, ".Ed"]


def sentence_case(title):
    return title.capitalize()


class Translator:
    """Writes texts and declarations of the header for one page."""

    def __init__(self, pages, page):
        self.header, self.pages, self.page = pages.header, pages, page

    def macro(self, word, item):
        """The macro for a word that is certain to be a name; None for any other word."""
        found = self.header.items.get(word.removesuffix("()"))
        if found and found.kind in ("function", "callback") and self.pages.of_group[found.group] != self.page:
            return f"Xr {found.name} 3"
        if found:
            return f"{'Fn' if found.kind == 'function' else 'Dv' if found.kind == 'macro' else 'Vt'} {found.name}"
        if word in self.header.chapters:
            return f'{"Sx" if self.page == self.pages.of_chapters else "Dq"} "{sentence_case(word)}"'
        if reference := re.fullmatch(r"([A-Za-z_]\w*)\((\d)\)", word):
            return f"Xr {reference[1]} {reference[2]}"
        if word in VARIABLES:
            return f"Ev {word}"
        if re.fullmatch(r"NULL|SIG[A-Z]+|[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", word):
            return f"Dv {word}"
        if quoted := re.fullmatch(r"`([^`]+)`", word):
            return f"{'Va' if quoted[1] in self.header.members else 'Ql'} {escape(quoted[1])}"
        if re.fullmatch(r"[a-z]\w*_\w*[a-z0-9]", word):
            is_parameter = item and any(re.search(rf"\b{word}$", parameter) for parameter in item.parameters)
            return f"{'Fa' if is_parameter else 'Va'} {word}"
        return None

    def prose(self, text, item=None):
        """Lines of mdoc: a new one for each sentence, and one for each name with the punctuation around it."""
        text = text.replace("at the top of this file", "in udsipc(3)")
        for title in self.header.chapters:
            text = text.replace(title, title.replace(" ", "\0"))
        lines, words = [[]], text.split()
        for word, following in zip(words, words[1:] + [""]):
            before, name, after = re.fullmatch(r"([(\[\"]*)(.*?(?:\(\d?\))?)([)\].,;:!?\"]*|'s?[,.]?)", word).groups()
            macro = self.macro(name.replace("\0", " "), item)
            if macro:
                after = "".join(f" {each}" for each in after) if re.fullmatch(r"[)\].,;:!?]*", after) else f" Ns {after}"
                macro = f".Pf {before} {macro}{after}" if before else f".{macro}{after}"
                lines += [macro.replace('Pf "', r"Pf \(dq").replace('Ns "', r"Ns \(dq"), []]
                continue
            if len(" ".join(lines[-1])) + len(word) > 76:
                lines.append([])
            lines[-1].append(re.sub(r"^-(?=\w)", r"\\-", escape(word)))
            if re.search(r"[.!?][)\"]*$", word):
                if re.match(r"[a-z]+[,.;]?$", following):
                    lines[-1][-1] += r"\&"  # no end of a sentence
                else:
                    lines.append([])
        return [line if isinstance(line, str) else " ".join(line) for line in lines if line]

    def tagged(self, pairs, width, item=None, compact=False):
        """A list of tags with a text, or with a list of paragraphs."""
        lines = [".Pp", f".Bl -tag -compact -width {width}"] if compact else [f".Bl -tag -width {width}"]
        for tag, text in pairs:
            lines += [f".It {tag}", *self.paragraphs([text] if isinstance(text, str) else text, item)]
        return [*lines, ".El"] if pairs else []

    def paragraphs(self, texts, item=None):
        lines = [line for text in texts for line in (".Pp", *self.prose(text, item))]
        return lines[1:]

    def table(self, lines):
        """Rows of cells below titles: a title begins where its cells do. The first line of a row has no empty cell."""
        titles = list(re.finditer(r"\S+(?: \S+)*", lines[0]))
        starts = [0, *(title.start() for title in titles), None]
        rows = []
        for line in lines[1:]:
            cells = [line[begin:end].strip() for begin, end in zip(starts, starts[1:])]
            if all(cells):
                rows.append(cells)
            else:
                rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells)]
        # A tag of two letters could be a macro.
        return self.tagged([(re.sub(r"\b(?=[A-Z][A-Za-z]\b)", r"\\&", row[0]),
                             [f"{title[0].capitalize()}: {cell}." for title, cell in zip(titles, row[1:])])
                            for row in rows], "Ds")

    def chapter(self, title):
        """The paragraphs of a chapter. Sketches of programs in the first one are left out: pages have whole programs."""
        blocks = self.header.chapters[title]
        if title == next(iter(self.header.chapters)):
            is_sketch = [bool(re.match(r" .*[;{}]", block, re.S)) for block in blocks] + [False]
            blocks = [block for block, sketch, next_is_sketch in zip(blocks, is_sketch, is_sketch[1:])
                      if not sketch and not (next_is_sketch and block.endswith(":"))]
        lines = []
        for block in blocks:
            if not block.startswith("    "):
                lines += [".Pp", *self.prose(block)]
            elif block.startswith(" " * 9):
                lines += self.table(block.split("\n"))
            else:
                lines += program(block.split("\n"))
        return lines[1:]

    def synopsis(self, item):
        if item.kind == "macro":
            return [f".Fd {item.head}"]
        if item.kind in ("handle", "struct", "enum"):
            return [f".Vt {item.head.rstrip(';')}{'' if item.kind == 'handle' else f' {item.name}'} ;"]
        name = f"(*{item.name})" if item.kind == "callback" else item.name
        parameters = item.parameters or ["void"]
        # A name that fills the line with its first parameter may stand alone in it.
        name += r"\:\&" if len(name) + len(parameters[0]) > 71 else ""
        return [f".Ft {item.result.strip()}", f".Fo {name}", *(f'.Fa "{each}"' for each in parameters), ".Fc"]

    def describe(self, item, is_omitted):
        text, parameters, labelled, behind = sections(item.comment)
        lines = [f".Ss {item.name}", *self.paragraphs(text, item)]
        members = [(declaration, " ".join(comment)) for comment, declaration in item.members]
        if item.kind == "enum":
            pairs = [("Dv {} Pq {}".format(*declaration.split(" = ")), comment) for declaration, comment in members]
            return lines + self.tagged(pairs, "Ds")
        types = {declaration.rsplit(None, 1)[0] for declaration, _ in members}
        if len(types) == 1:
            lines += ["The members are of the type", f".Vt {types.pop()} :"]
            members = [(declaration.split()[-1], comment) for declaration, comment in members]
        lines += self.tagged([(f'Va "{declaration}"', comment) for declaration, comment in members], "Ds")
        parameters = [(f"Fa {name}", text) for name, text in parameters if not is_omitted(f"{name}: {text}")]
        labelled = [(f"Em {label}", texts) for label, texts in labelled if not is_omitted(f"{label}: {' '.join(texts)}")]
        for pairs in (parameters, labelled):
            width = max((len(tag) - 3 for tag, _ in pairs), default=0)
            lines += self.tagged(pairs, f"{width}n" if width < 14 else "Ds", item, compact=True)
        return lines + [line for text in behind for line in (".Pp", *self.prose(text, item))]


# ---- Pages


class Pages:
    def __init__(self, header, folder):
        self.header = header
        self.templates = {path.name.split(".")[0]: path.read_text() for path in sorted(folder.glob("*.3.in"))}
        self.of_chapters = next(page for page, text in self.templates.items() if "\n@chapters\n" in text)
        self.of_group = {group: page for page, text in self.templates.items()
                         for groups in re.findall(r"^@describe (.*)$", text, re.M) for group in groups.split("; ")}
        if self.of_group.keys() != header.groups.keys():
            fail(f"the templates describe {sorted(self.of_group)}, the groups of the header are {sorted(header.groups)}")

    def items(self, groups):
        return [item for group in groups.split("; ") for item in self.header.groups[group]]

    def render(self, page, date):
        header, translator = self.header, Translator(self, page)
        template = self.templates[page].splitlines()
        elsewhere = [line.split(" ", 1)[1] for line in template if line.startswith(("@type ", "@chapter "))]
        omitted = {line.split(" ", 1)[1]: False for line in template if line.startswith("@omit ")}

        def is_omitted(text):
            omitted.update({text: True} if text in omitted else {})
            return text in omitted

        lines = [f'.\\" Written by tools/man.py from include/udsipc.h and {page}.3.in: do not edit.']
        while template:
            line = template.pop(0)
            directive, _, argument = line.partition(" ")
            if not line.startswith("@"):
                lines.append(f".Dd {date}" if date and directive == ".Dd" else line.replace("@version@", header.version))
            elif directive == "@names":
                names = [page, *(item.name for item in self.items(argument) if item.kind != "macro" and item.name != page)]
                lines += [*(f".Nm {name} ," for name in names[:-1]), f".Nm {names[-1]}"]
            elif directive == "@synopsis":
                lines += [line for item in self.items(argument) for line in translator.synopsis(item)]
            elif directive == "@describe":
                lines += [line for item in self.items(argument) if item.name not in elsewhere
                          for line in translator.describe(item, is_omitted)]
            elif directive == "@type":
                lines += translator.describe(header.items[argument], is_omitted)[1:]
            elif directive == "@chapter":
                lines += translator.chapter(argument)
            elif directive == "@chapters":
                lines += [line for title in header.chapters if title not in elsewhere
                          for line in (f".Ss {sentence_case(title)}", *translator.chapter(title))]
            elif directive == "@code":
                end = template.index("@end")
                lines += program(template[:end])
                del template[:end + 1]
            elif directive != "@omit":
                fail(f"{page}.3.in: {line!r} is no directive")
        if not all(omitted.values()):
            fail(f"{page}.3.in omits what the header does not say: {[text for text, used in omitted.items() if not used]}")
        return "\n".join(lines) + "\n"


def release_date(changelog, version):
    found = re.search(rf"^## \[{re.escape(version)}\] - (\d+)-(\d+)-(\d+)$", changelog, re.M)
    return found and f"{MONTHS[int(found[2]) - 1]} {int(found[3])}, {found[1]}"


def main(arguments):
    is_check = "--check" in arguments
    root = Path(next((each for each in arguments if each != "--check"), Path(__file__).parent.parent))
    folder = root / "packaging/man"
    pages = Pages(Header((root / "include/udsipc.h").read_text()), folder)
    date = release_date((root / "CHANGELOG.md").read_text(), pages.header.version)
    texts = {f"{page}.3": pages.render(page, date) for page in pages.templates}
    stale = [name for name, text in texts.items() if not (folder / name).exists() or (folder / name).read_text() != text]
    if is_check and stale:
        fail(f"not what include/udsipc.h and the templates say: {', '.join(stale)} in packaging/man. Run make man, and commit")
    for name in stale:
        (folder / name).write_text(texts[name])


if __name__ == "__main__":
    main(sys.argv[1:])
