#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""make_man.py --version V --out DIRECTORY FILE...: the man pages.

A header of include/weir becomes one page of section 7, with what its first comment says and all its
types, and one of section 3 for each comment above a function: what else is declared below that
comment is another name of the page. So a page says what the header says, and nothing else. A page
written by hand is copied; @VERSION@ and @DATE@ in it are replaced.

Fails where something public has no comment.
"""
import argparse
import datetime
import os
import pathlib
import re
import sys
import textwrap

COMMENT = re.compile(r"^/\*(.*?)\*/\n", re.S | re.M)
PROTOTYPE = re.compile(r"^(?!typedef|#)((?:static inline )?\w[\w ]*?[ *]+)(weir_\w+)\(([^;{]*)\)"
                       r"(?=;| *\n\{)", re.M)
TYPE = re.compile(r"^(struct|enum) (weir_\w+) \{\n.*?^\};\n", re.S | re.M)
ERRORS = re.compile(r'X\((WEIR_E\w+), -\d+, "([^"]*)"\)')
OWN_ERROR = re.compile(r"\bWEIR_E[A-Z]+\b")
LINE_MOST = 100  # of what a page is about
TYPE_LINES = 45  # what is longer stands on the header's page only

class Block:
    """A comment, and what is declared right below it."""
    def __init__(self, comment, code):
        self.comment = comment
        self.code = code
        self.calls = [(m[2], declaration(m)) for m in PROTOTYPE.finditer(bare(code))]

def declaration(match):
    kind = match[1].replace("static inline ", "")
    return re.sub(r"\s+", " ", f"{kind}{match[2]}({match[3]});").replace("* ", "*")

def bare(text):
    """Without comments, of the same length, so that what is found lies where it lies in the text."""
    return re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.S)

def words(comment):
    """The text of a comment, without its stars."""
    lines = [re.sub(r"^ ?\*? ?", "", line, count=1) for line in comment.strip("\n").split("\n")]
    lines[0] = lines[0].lstrip()
    return "\n".join(line.rstrip() for line in lines).strip()

def blocks(text):
    """Every comment at the left edge, with the code up to the next empty line outside of braces."""
    for match in COMMENT.finditer(text):
        code, depth = [], 0
        for line in text[match.end():].split("\n"):
            if not line.strip() and depth == 0:
                break
            if line.startswith("/*"):
                break
            code.append(line)
            depth += line.count("{") - line.count("}")
        yield Block(words(match[1]), "\n".join(code) + "\n")

# --- roff ---------------------------------------------------------------------------------------

def plain(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"^([.])", r"\\&\1", text, flags=re.M)

def marked(text, own):
    """Calls and constants in bold; a call that has a page elsewhere with its section."""
    def call(match):
        return f"\\fB{match[1]}\\fP({'3' if match[1] not in own else ''})"
    text = plain(text)
    text = re.sub(r"\b(weir_\w+)\(\)", call, text)
    return re.sub(r"\b(WEIR_[A-Z_]+)\b", r"\\fB\1\\fP", text)

def verbatim(lines):
    indent = min(len(l) - len(l.lstrip()) for l in lines if l)
    return [".RS 4", ".EX", *[plain(l[indent:]) or "\\&" for l in lines], ".EE", ".RE"]

def prose(text, own):
    """Paragraphs; what is indented stays as it is."""
    out = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.split("\n")
        if out:
            out.append(".PP")
        while lines:
            is_code = lines[0].startswith("  ")
            count = next((i for i, l in enumerate(lines) if l.startswith("  ") != is_code), len(lines))
            out += verbatim(lines[:count]) if is_code else [marked("\n".join(lines[:count]), own)]
            lines = lines[count:]
    # A paragraph mark is one too many before what begins one by itself; its space is not.
    return "\n".join(".sp" if l == ".PP" and out[i + 1].startswith(".RS") else l
                     for i, l in enumerate(out))

def head(name, section, about, given, names=None):
    return (f'.\\" Made by docs/man/make_man.py from the headers.\n'
            f'.TH {name.upper()} {section} {given.date} "Weir {given.version}" "Weir"\n'
            f'.SH NAME\n{plain(", ".join(names or [name]))} \\- {plain(about)}\n')

def about(comment, end=r"[.:;]"):
    """One line: the first sentence, or as much of it as one line holds."""
    line = re.sub(r"\s+", " ", re.split(r"\n\s*\n", comment)[0]).strip()
    line = re.split(rf"(?<=[a-z)\"]){end}(?:\s|$)", line, maxsplit=1)[0].rstrip(".:;")
    if len(line) > LINE_MOST:
        line = line[:LINE_MOST].rsplit(" ", 1)[0].rstrip(",") + " ..."
    return line[0].lower() + line[1:] if re.match(r"[A-Z][a-z]|A ", line) else line

# --- Pages --------------------------------------------------------------------------------------

class Header:
    def __init__(self, path):
        self.name = path.stem
        self.text = re.sub(r"^/\* SPDX.*\n", "", path.read_text())
        self.types = {m[2]: m[0].rstrip() for m in TYPE.finditer(self.text)}
        found = list(blocks(self.text))
        if not found:
            sys.exit(f"{path}: it does not say what it is for")
        self.top = found[0].comment
        self.groups = [b for b in found if b.calls]
        self.loose = self.adopt()
        library = re.search(r"\blib(weir_\w+)\b", self.top)  # one of its own says its name
        self.linked = library[1] if library else "weir"

    def adopt(self):
        """Functions below no comment belong to the next one's page. Returns who has none."""
        known = {name for b in self.groups for name, _ in b.calls}
        lost = []
        for match in PROTOTYPE.finditer(bare(self.text)):
            if match[2] in known:
                continue
            after = [b for b in self.groups if self.text.find(b.code) > match.start()]
            before_next = after and "/* ---" not in self.text[match.end():self.text.find(after[0].code)]
            if before_next:
                after[0].calls.append((match[2], declaration(match)))
            else:
                lost.append(match[2])
        return lost

def call_page(block, header, every, given):
    own = [name for name, _ in block.calls]
    include = f"#include <weir/{header.name}.h>"
    out = [head(own[0], 3, about(block.comment), given, own), ".SH SYNOPSIS", ".nf",
           f".B {include}", ".PP"]
    out += [f'.B "{plain(line)}"' for _, text in block.calls for line in textwrap.wrap(
        text, 76, subsequent_indent=" " * 8, break_long_words=False)]
    out += [".fi", ".PP", f"Link with \\fI\\-l{header.linked}\\fP.", ".SH DESCRIPTION", prose(block.comment, own)]
    signatures = " ".join(text for _, text in block.calls)
    used = [n for n in dict.fromkeys(re.findall(r"(?:struct|enum) (weir_\w+)", signatures))
            if n in every.types and every.types[n].count("\n") <= TYPE_LINES]
    if used:
        out.append(".SH TYPES")
        for number, name in enumerate(used):
            out += ([".PP"] if number else []) + [".EX", plain(every.types[name]), ".EE"]
    if re.search(r"\bint weir_", signatures):
        out += [".SH RETURN VALUE",
                "\\fBWEIR_OK\\fP (0), or an error of the closed list, which is negative."]
        errors = [e for e in dict.fromkeys(OWN_ERROR.findall(block.comment)) if e in every.errors]
        if errors:
            out += ["Those that are named above:"]
        for error in errors:
            out += [".TP", f".B {error}", marked(every.errors[error], own)]
    out += [".SH SEE ALSO", see_also(header, every)]
    return "\n".join(out) + "\n"

def see_also(header, every):
    names = dict.fromkeys([header.name, "weir", "weir_error"])
    return ",\n".join(f"\\fB{n}\\fP(7)" for n in names if n in every.pages)

def header_page(header, every, given):
    line = re.sub(r"^Weir(: |, | (?=across))", "", header.top)
    out = [head(header.name, 7, about(line, "[.;]"), given), ".SH SYNOPSIS", f".B #include <weir/{header.name}.h>",
           ".SH DESCRIPTION", prose(header.top, [])]
    if header.groups:
        out.append(".SH CALLS")
        for block in header.groups:
            out += [".TP", ", ".join(f"\\fB{name}\\fP(3)" for name, _ in block.calls),
                    plain(about(block.comment))]
    kinds = declared(header)
    if kinds:
        out += [".SH TYPES"]
        for number, text in enumerate(kinds):
            out += ([".PP"] if number else []) + [".EX", plain(text), ".EE"]
    others = [n for n in sorted(every.pages) if n != header.name]
    out += [".SH SEE ALSO", ",\n".join(f"\\fB{n}\\fP(7)" for n in others)]
    return "\n".join(out) + "\n"

def declared(header):
    """Types, constants and lists with the comments above them, as they stand in the header."""
    text = header.text[header.text.find("*/") + 3:]
    kept = []
    for part in re.split(r"\n(?:[ \t]*\n)+", text):
        code = COMMENT.sub("", part + "\n")
        if PROTOTYPE.search(part + "\n") or part.startswith(("{", "}")) or not code.strip():
            continue
        if all(re.match(r"(#include|#pragma|#ifdef|#endif|extern \"C\"|\}|struct \w+;|$)", l)
               for l in code.split("\n")):
            continue
        kept.append(part.strip("\n"))
    # An empty line in the midst of a type has cut it; an inline function's body is not a type.
    joined = []
    for part in kept:
        if joined and joined[-1].count("{") > joined[-1].count("}"):
            joined[-1] += "\n\n" + part
        elif re.match(r"(/\*|struct|enum|#define|typedef|extern)", part):
            joined.append(part)
    return joined

class Everything:
    def __init__(self, headers):
        self.pages = {h.name for h in headers}
        self.types = {name: text for h in headers for name, text in h.types.items()}
        self.errors = {m[1]: m[2] for h in headers for m in ERRORS.finditer(h.text)}

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--version", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    given = parser.parse_args()
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    day = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc) if epoch \
        else datetime.datetime.now(datetime.timezone.utc)
    given.date = day.strftime("%Y-%m-%d")
    given.out.mkdir(parents=True, exist_ok=True)
    for section in {"3", "7", *(p.suffix[1:] for p in given.files if p.suffix != ".h")}:
        (given.out / f"man{section}").mkdir(exist_ok=True)
    for old in given.out.glob("man?/*"):
        old.unlink()

    headers = [Header(p) for p in sorted(given.files) if p.suffix == ".h"]
    every = Everything(headers)
    lost = [f"{h.name}.h: {name}() has no comment" for h in headers for name in h.loose]
    if lost:
        sys.exit("\n".join(lost))
    for header in headers:
        (given.out / "man7" / f"{header.name}.7").write_text(header_page(header, every, given))
        for block in header.groups:
            own = [name for name, _ in block.calls]
            (given.out / "man3" / f"{own[0]}.3").write_text(call_page(block, header, every, given))
            for name in own[1:]:
                (given.out / "man3" / f"{name}.3").write_text(f".so man3/{own[0]}.3\n")
    for path in (p for p in given.files if p.suffix != ".h"):
        text = path.read_text().replace("@VERSION@", given.version).replace("@DATE@", given.date)
        (given.out / f"man{path.suffix[1:]}" / path.name).write_text(text)

if __name__ == "__main__":
    main()
