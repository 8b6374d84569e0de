"""What a docstring or a README says, part by part: numpydoc, Google style, Sphinx fields and Markdown."""

import re
import textwrap
from typing import NamedTuple


class Section(NamedTuple):
    """A heading and its dedented text; `underlined` tells numpydoc's and reST's headings from Google's `Args:`."""

    heading: str
    body: str
    underlined: bool


class Docstring(NamedTuple):
    """`summary` is one cleaned line, `body` the raw paragraphs between it and the first heading."""

    summary: str
    body: str
    sections: tuple[Section, ...]


PARAMETERS = {"args", "arguments", "attributes", "inputs", "keyword_args", "keyword_arguments", "kwargs", "parameters"}
PARAMETERS |= {"other_parameters"}
RETURNS = {"output", "outputs", "return", "returns", "yield", "yields"}
# Headings of Google style; other lines that end in a colon are prose.
GOOGLE = PARAMETERS | RETURNS
GOOGLE |= {"constraints", "example", "example_usage", "examples", "input", "note", "notes", "raises", "reference"}
GOOGLE |= {"references", "see_also", "shape", "side_effects", "todo", "usage", "warning", "warnings"}

RULES = tuple("=-~^*#\"'")
UNDERLINE = re.compile(r"([=\-~^*#\"'])\1{2,}\s*$")
GOOGLE_HEADING = re.compile(r"([A-Z][A-Za-z]+(?: [A-Za-z]+)?)::?$")
MARKDOWN_HEADING = re.compile(r"#{1,6} +(\S.*?)#*$")
FIELD = re.compile(r":(\w+)(?: +[^:\n]*?)??(?: +(\*{0,2}\w+))?: *(.*)$")
SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*->.*)?$")
NOTE = re.compile(r"(?m)^( *)\.\. +(?:note|warning|tip|important|hint|caution|attention|rubric)::[ ]*")
VERSION = re.compile(r"( *)\.\. +(versionadded|versionchanged|deprecated):: *(\d[\w.]*)? *(.*)$")
ROLE = re.compile(r":(?:\w+:)?(?:func|class|meth|mod|attr|obj|exc|data|method|function):`([^`\n]+(?:\n[^`\n]+)?)`")
UNDERLINED = re.compile(r"(?m)^ *\S.*\n *([=\-~^])\1{2,} *$\n?")
LABELLED = re.compile(r" *[\w ]+::?\s*(?:\n|$)| *[\w*, ]+ : ")
BACKTICK = re.compile(r"(?<![`:\w])`(~?[A-Za-z_][\w.]*)(?:\(\))?`(?![`_])")


NOT_LETTERS = bytes(c for c in range(256) if not (chr(c).isspace() or (chr(c).isalpha() and c < 128)))


def key(heading: str) -> str:
    """`See Also` and `see also` have the key `see_also`."""
    return heading.strip().lower().replace(" ", "_")


def parse(doc: str) -> Docstring:
    """Splits a cleaned docstring (inspect.cleandoc) at its headings; headings inside code fences do not count."""
    sections = split_sections(doc)
    paragraphs = _without_signature(split_paragraphs(sections[0].body))
    fields = next((i for i, p in enumerate(paragraphs) if re.match(r":(param|type|return|raise|rtype|arg)", p)), None)
    paragraphs = paragraphs[:fields]
    first = clean(paragraphs[0]) if paragraphs and is_prose(paragraphs[0]) else ""
    summary, more = first_sentence(first) if len(first) > 200 else (first, "")
    return Docstring(summary, "\n\n".join(([more] if more else []) + paragraphs[1:]), tuple(sections[1:]))


def _without_signature(paragraphs: list[str]) -> list[str]:
    """Compiled functions have their signature as the first line."""
    if paragraphs and SIGNATURE.match(paragraphs[0].split("\n")[0]):
        return paragraphs[0].split("\n", 1)[1:] + paragraphs[1:]
    return paragraphs


def split_sections(text: str) -> list[Section]:
    """The text's sections in order; the first has an empty heading and holds what comes before any heading."""
    lines = text.expandtabs().split("\n")
    sections, heading, underlined, body, fenced, i = [], "", False, [], False, 0

    def close():
        sections.append(Section(heading, dedent("\n".join(body)).strip("\n"), underlined))

    fences = "```" in text
    while i < len(lines):
        line, below = lines[i], lines[i + 1] if i + 1 < len(lines) else ""
        found = None
        if fences and line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or not line or line[0] in " >|+":
            pass
        elif is_rule(line) and is_rule(lines[i + 2] if i + 2 < len(lines) else "") and below.strip():
            found, skip = below.strip(), 3
        elif is_rule(below) and not is_rule(line) and len(line) <= 100:
            found, skip = line.strip(), 2
        elif line[0] == "#" and (match := MARKDOWN_HEADING.match(line)):
            found, skip = match[1].strip(), 1
        elif line[-1] == ":" and below[:1] in ("", " ") and is_google_heading(line):
            found, skip = line.rstrip(":"), 1
        if found is None:
            body.append(line)
            i += 1
        else:
            close()
            heading, underlined, body = found, skip > 1, []
            i += skip
    close()
    return sections


def is_rule(line: str) -> bool:
    """True for what underlines a heading."""
    return line[:1] in RULES and UNDERLINE.match(line) is not None


def is_google_heading(line: str) -> bool:
    """True for `Args:` and the like."""
    match = GOOGLE_HEADING.match(line)
    return match is not None and key(match[1]) in GOOGLE


def dedent(text: str) -> str:
    """textwrap.dedent, which takes its time to find that a text is not indented."""
    return textwrap.dedent(text) if text[:1] in (" ", "\n", "\t") else text


def split_paragraphs(text: str) -> list[str]:
    """Blocks between blank lines, not stripped of their indentation."""
    return [p.strip("\n") for p in re.split(r"\n[ \t]*\n", text) if p.strip()]


def is_prose(paragraph: str) -> bool:
    """False for code, doctests, directives, tables, fields and figures."""
    first = paragraph.lstrip()
    if first.startswith((">>>", "..", "|", "+-", "```", "---", "===", ":param", ":return", ":type", "$$", "<", "{")):
        return False
    return ">>>" not in first and letter_share(first) >= 0.75


def letter_share(text: str) -> float:
    """The share of ASCII letters and white space among the text's characters."""
    return len(text.encode("ascii", "ignore").translate(None, NOT_LETTERS)) / max(1, len(text))


def prose(text: str, limit: int) -> str:
    """The cleaned prose paragraphs of the text, joined by blank-free spaces up to about `limit` characters."""
    kept, size, code = [], 0, False
    for paragraph in split_paragraphs(NOTE.sub(r"\1", text) if ".. " in text else text):
        indented = paragraph.startswith("    ")
        if not (code and indented) and is_prose(paragraph):
            kept.append(clean(paragraph))
            size += len(kept[-1])
        code = paragraph.rstrip().endswith("::") or (code and indented)
        if size >= limit:
            break
    return cut(" ".join(kept), limit)


def cut(text: str, limit: int) -> str:
    """The text, shortened at the last space before `limit` characters."""
    return text if len(text) <= limit else text[: limit + 1].rsplit(" ", 1)[0]


def first_sentence(text: str) -> tuple[str, str]:
    """The first sentence and the rest."""
    match = re.match(r"(.{15,}?[.!?])\s+(?=[A-Z`(\"'])", text)
    return (match[1], text[match.end() :]) if match else (text, "")


def display(target: str) -> str:
    """What a reader sees of a role's text: `~a.b.C` is `C`, `title <a.b>` is `title`."""
    target = " ".join(target.split())
    if match := re.match(r"(.+?)\s*<.*>$", target):
        return match[1]
    return target.rsplit(".", 1)[-1] if target.startswith("~") else target.lstrip("!.")


# What a pattern cannot match without, the pattern, what replaces it. Most texts hold none of the first.
CLEANERS = (
    ("<", re.compile(r"<!--.*?-->|(?<!`)</?[a-zA-Z][^<>\n]*>", re.S), ""),
    ("![", re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),
    ("](", re.compile(r"\[([^\[\]]+)\]\([^()\s]*(?:\s+\"[^\"]*\")?\)"), r"\1"),
    ("`]", re.compile(r"\[`~?([^`\]]+)`\]"), r"\1"),
    (">`", re.compile(r"`([^`<]+?)\s*<[^`>]+>`__?"), r"\1"),
    ("]_", re.compile(r"\s?\[[\w#*]+\]_"), ""),
    ("`", re.compile(r"`{1,2}~?([^`]+)`{1,2}_{0,2}"), r"\1"),
    ("*", re.compile(r"(?<![\w*])(\*\*?)(?=[^\s*])([^*\n]*[^\s*])\1(?![\w*])"), r"\2"),
    ("::", re.compile(r"::(?=\s|$)"), ":"),
)


def clean(text: str) -> str:
    """The text on one line, without reST and Markdown markup: roles, links, emphasis, footnote marks, HTML tags."""
    if ":`" in text:
        text = re.sub(r":(?:\w+:)?\w+:`([^`]+)`", lambda m: display(m[1]), text)
    for needed, pattern, replacement in CLEANERS:
        if needed in text:
            text = pattern.sub(replacement, text)
    return " ".join(text.split())


def linked_paragraphs(doc: str) -> list[str]:
    """The prose paragraphs that may hold cross-references; no headings, no lists of parameters."""
    paragraphs = split_paragraphs(UNDERLINED.sub("", doc)) if "`" in doc else []
    return [p for p in paragraphs if "`" in p and not LABELLED.match(p) and is_prose(p)]


def references(paragraph: str) -> list[str]:
    """Targets of the paragraph's cross-references, in order: Sphinx roles, [`links`] and names in single backticks."""
    found = [(m.start(), m[1]) for m in ROLE.finditer(paragraph)]
    found += [(m.start(), m[1]) for m in BACKTICK.finditer(paragraph)]
    targets = []
    for _, target in sorted(found):
        target = " ".join(target.split())
        if match := re.search(r"<([^>]+)>$", target):
            target = match[1]
        targets.append(target.lstrip("~!.").removesuffix("()"))
    return list(dict.fromkeys(targets))


def entries(section: Section) -> list[tuple[str, str]]:
    """(head, raw description) of a definition-like section: `x : int` over indented text, or `x (int): text`."""
    found: list[tuple[str, list[str]]] = []
    for line in section.body.split("\n"):
        if line[:1] in ("", " "):
            if found:
                found[-1][1].append(line)
        elif section.underlined:
            found.append((line, []))
        else:
            match = re.match(r"(\*{0,2}`{0,2}[\w.]+`{0,2}\s*(?:\(.*?\))?)\s*:(?:\s+(.*))?$", line)
            found.append((match[1], [match[2] or ""]) if match else (line, []))
    return [(head, dedent("\n".join(body)).strip()) for head, body in found]


def fields(doc: str) -> list[tuple[str, str, str]]:
    """(field, argument, raw description) of Sphinx fields such as `:param int x: text`."""
    found: list[tuple[str, str, list[str]]] = []
    for line in doc.split("\n"):
        if match := FIELD.match(line):
            found.append((match[1], match[2] or "", [match[3]]))
        elif found and line.startswith(" "):
            found[-1][2].append(line.strip())
        elif line.strip():
            found.append(("", "", []))
    return [(name, argument, "\n".join(body)) for name, argument, body in found if name]


def parameters(doc: str, parsed: Docstring) -> list[tuple[str, str]]:
    """(name, cleaned first paragraph of its description) of every documented parameter or attribute."""
    found = []
    for section in parsed.sections:
        if key(section.heading) not in PARAMETERS:
            continue
        for head, body in entries(section):
            name = re.split(r"\s*[:(]", head, maxsplit=1)[0].strip("*` ")
            if re.fullmatch(r"[A-Za-z_][\w.]*(?:, ?\*{0,2}[A-Za-z_][\w.]*){0,3}", name):
                found.append((name.replace("*", ""), prose(body, 600)))
    found += [
        (argument.lstrip("*"), prose(body, 600))
        for name, argument, body in fields(doc)
        if argument and name in ("param", "parameter", "arg", "argument", "keyword", "ivar", "cvar", "var")
    ]
    return found


def returned(doc: str, parsed: Docstring) -> str:
    """The cleaned description of what is returned or yielded, or an empty string."""
    for section in parsed.sections:
        if key(section.heading) in RETURNS:
            if not section.underlined:
                text = prose(section.body, 600)
                return re.sub(r"^(?:[\w.]+(?:\[.*?\])?|\(.*?\))\s*: +", "", text)
            return cut(" ".join(filter(None, (prose(body, 600) for _, body in entries(section)))), 600)
    return next((prose(body, 600) for name, _, body in fields(doc) if name in ("return", "returns")), "")


def see_also(parsed: Docstring) -> list[tuple[list[str], str]]:
    """(names, cleaned description or empty) of each entry of a numpydoc See Also section."""
    found = []
    for section in parsed.sections:
        if key(section.heading) != "see_also" or not section.underlined:
            continue
        for head, body in entries(section):
            names, _, same_line = head.partition(" : ")
            names = [display(n) for n in re.sub(r":[\w:]+:|`", "", names).split(",")]
            names = [n.strip() for n in names if re.fullmatch(r"\s*[A-Za-z_][\w.]*\s*", n)]
            if names:
                found.append((names, prose(f"{same_line}\n{body}".strip(), 600)))
    return found


def examples(doc: str) -> list[tuple[str, str]]:
    """(cleaned paragraph above or empty, code) of doctests and fenced Python; prompts are stripped, output stays."""
    found, above = [], ""
    if ">>>" not in doc and "```py" not in doc:
        return found
    for paragraph in split_paragraphs(UNDERLINED.sub("", re.sub(r"(?m)^( *)```", r"\n\1```", doc))):
        text = dedent(paragraph)
        head, _, rest = text.partition("\n")
        if is_google_heading(head):
            text, above = dedent(rest) if key(head).startswith(("example", "usage")) else "", ""
        if text.startswith(">>>"):
            code = re.sub(r"(?m)^(?:>>>|\.\.\.)(?: |$)", "", text)
            if not above and found and found[-1][1]:  # consecutive doctests are one example
                found[-1] = (found[-1][0], f"{found[-1][1]}\n{code}")
            else:
                found.append((above, code))
            above = ""
        elif text.startswith("```py"):
            code = re.sub(r"(?m)^(?:>>>|\.\.\.)(?: |$)", "", text.split("\n", 1)[-1].split("```")[0]).strip("\n")
            found.append((above, code))
            above = ""
        elif text and is_prose(text):
            above = clean(text)
    return found


def version_notes(doc: str) -> list[tuple[str, str, str]]:
    """(directive, version, cleaned text) of the versionadded, versionchanged and deprecated directives with a text."""
    found, lines = [], doc.split("\n") if ":: " in doc else []
    for i, line in enumerate(lines):
        if not (match := VERSION.match(line)) or not match[3]:
            continue
        body = [match[4]]
        for below in lines[i + 1 :]:
            if not below.strip() or len(below) - len(below.lstrip()) <= len(match[1]):
                break
            body.append(below)
        if text := clean(" ".join(body)):
            found.append((match[2], match[3].rstrip(".:"), text))
    return found
