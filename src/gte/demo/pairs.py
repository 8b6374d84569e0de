"""The kinds of text pairs that Python packages hold. Each function yields the (query, document) pairs of one kind."""

import re
from collections.abc import Iterator

from gte.demo import docstring
from gte.demo.docstring import Docstring
from gte.demo.pysource import Item, Source

LIMIT = 2_000  # characters of a document; 128 tokens are about 600
# Sections that are no prose, or make pairs of another kind.
OTHER_HEADINGS = {"example", "examples", "methods", "raises", "reference", "references", "see_also", "usage"}
Pairs = Iterator[tuple[str, str]]


def readable(text: str, words: int, share: float = 0.7) -> bool:
    """True for English-like text: at least `words` words of letters, and enough letters among the characters."""
    return docstring.letter_share(text) >= share and len(re.findall(r"[A-Za-z]{2,}", text[:400])) >= words


def limited(text: str) -> str:
    """The first LIMIT characters, without white space at either end."""
    return text[:LIMIT].strip()


def docstring_code(item: Item, doc: Docstring) -> Pairs:
    """Summary and description -> the function's code without its docstring."""
    if item.code.count("\n") >= 1 and len(item.code) >= 60 and readable(doc.summary, 4):
        yield docstring.cut(f"{doc.summary} {docstring.prose(doc.body, 400)}".strip(), 400), limited(item.code)


def name_summary(item: Item, doc: Docstring) -> Pairs:
    """Qualified name -> what it is, in one sentence."""
    if not item.private and readable(doc.summary, 3):
        yield item.public, doc.summary


def title_body(item: Item, doc: Docstring) -> Pairs:
    """Summary -> the description that follows it, without what any section says."""
    body = docstring.prose(doc.body, LIMIT)
    if readable(doc.summary, 3) and readable(body, 8):
        yield doc.summary, body


def heading_section(item: Item, doc: Docstring) -> Pairs:
    """Name, summary and heading -> the section's prose."""
    skipped = docstring.PARAMETERS | docstring.RETURNS | OTHER_HEADINGS
    for section in doc.sections:
        if docstring.key(section.heading) in skipped or len(section.heading) < 4:
            continue
        if readable(body := docstring.prose(section.body, LIMIT), 8):
            title = f"{short(item)}: {docstring.cut(doc.summary, 200).rstrip('.')}".removesuffix(": ")
            yield f"{title} - {docstring.clean(section.heading)}", body


def parameter_description(item: Item, doc: Docstring) -> Pairs:
    """`parameter x of f` -> the description of x."""
    for name, text in docstring.parameters(item.doc, doc):
        if readable(text, 5, share=0.6):
            yield f"parameter {name} of {short(item)}", text


def return_description(item: Item, doc: Docstring) -> Pairs:
    """`what f returns` -> the description of the result."""
    text = docstring.returned(item.doc, doc)
    if readable(text, 5, share=0.6):
        yield f"what {short(item)} returns", text


def doctest_example(item: Item, doc: Docstring) -> Pairs:
    """The sentence above an example, else the summary -> the example's code and output."""
    first = True
    for above, code in docstring.examples(item.doc):
        above = docstring.first_sentence(above)[0] if len(above) > 300 else above
        if len(code) >= 40 and "\n" in code.strip():
            query = doc.summary if first else ""
            if readable(above, 4) and above != doc.summary:
                query = above
            if readable(query, 3):
                yield query, limited(code)
            first = False


def version_note(item: Item, doc: Docstring) -> Pairs:
    """`f changed in version 1.2` -> what changed."""
    verb = {"versionadded": "added", "versionchanged": "changed", "deprecated": "deprecated"}
    for directive, version, text in docstring.version_notes(item.doc):
        if readable(text, 4, share=0.6):
            yield f"{item.public} {verb[directive]} in version {version}", text


def class_members(item: Item, doc: Docstring) -> Pairs:
    """Class or module -> its members, one summary a line."""
    listed = []
    for member in item.members:
        name = member.name.rsplit(".", 1)[-1]
        summary = docstring.parse(member.doc).summary if member.doc and not name.startswith("_") else ""
        if readable(summary, 3):
            listed.append(f"{name}: {summary}")
    if len(listed) >= 3:
        title = f"{item.public}: {doc.summary}" if readable(doc.summary, 2) else f"{item.kind} {item.public}"
        yield docstring.cut(title, 300), limited("\n".join(listed))


ITEM_KINDS = (
    docstring_code,
    name_summary,
    title_body,
    heading_section,
    parameter_description,
    return_description,
    doctest_example,
    version_note,
    class_members,
)


def comment_code(source: Source) -> Pairs:
    """Comment -> the lines of code below it."""
    skip = re.compile(
        r"(?i)copyright|licen[sc]e|pylint|noqa|pyre-|mypy|pragma|todo|fixme|type:|fmt:|https?:|[-=*#_~]{3}|auto.?generated"
    )
    for comment, code in source.comments:
        if len(code) >= 40 and len(comment) <= 600 and readable(comment, 6, share=0.85) and not skip.search(comment):
            yield comment, limited(code)


def error_function(source: Source) -> Pairs:
    """Error message -> the code that raises it, the message itself taken out."""
    for message, code in source.errors:
        if readable(message, 5) and code.count("\n") >= 3:
            yield docstring.cut(message, 400), limited(code)


def dataset_description(source: Source) -> Pairs:
    """Title of the paper that presented a data set, else the data set's name -> its description."""
    for texts in source.metadata:
        description = docstring.clean(texts.get("description", ""))
        title = re.search(r"(?m)^\s*title\s*=\s*[{\"](.+?)[}\"],?\s*$", texts.get("bibtex_citation", ""))
        title = re.sub(r"[{}\\]", "", title[1]) if title else texts.get("name", "")
        if title and readable(description, 5):
            yield title, docstring.cut(description, LIMIT)


def page_sections(text: str, page: str) -> Pairs:
    """`page: heading` -> the section's prose, of a README or a reST page; `page` alone names what precedes any heading
    and the section whose heading starts like the page's name."""
    for section in docstring.split_sections(text):
        heading = docstring.clean(section.heading)
        heading = "" if heading.lower() == page.lower() else heading
        body = docstring.prose(section.body, LIMIT)
        if readable(body, 8) and docstring.key(heading) != "see_also":
            yield f"{page}: {heading}" if heading else page, body


def changelog_entries(text: str, package: str) -> Pairs:
    """`package 1.2 fixed name` -> the entries of that release that are about the name."""
    found: dict[str, list[str]] = {}
    release = verb = ""
    for entry in re.split(r"(?m)^(?=#|- )", text):
        if match := re.match(r"## \[?(\d[\w.]*)", entry):
            release = match[1]
        elif match := re.match(r"#{3,4} (\w+)", entry):
            verb = match[1].lower()
        elif release and entry.startswith("- "):
            name = re.search(r"`([A-Za-z_][\w.]*)", entry)
            said = docstring.clean(re.sub(r"\(?\[#?\d+\]\([^)]*\)[,)]*|-{3,}", "", entry[2:])).strip(" ,")
            if name and readable(said, 5, share=0.6):
                found.setdefault(f"{package} {release} {verb} {name[1]}", []).append(said)
    for query, entries in found.items():
        yield query, limited(" ".join(entries))


def short(item: Item) -> str:
    """The name that people use: `f` or `Class.method`, and the full name of a module."""
    return ".".join(item.inner.split(".")[-2:]) or item.public


class References:
    """Finds the item that a cross-reference means; `pairs` yields the Hyperlink kinds."""

    def __init__(self, items: list[Item], aliases: dict[str, str] | None = None):
        self.aliases = {"np": "numpy", "pd": "pandas", "plt": "matplotlib.pyplot"} if aliases is None else aliases
        self.by_name: dict[str, Item] = {}
        self.by_last: dict[str, list[Item]] = {}
        self.docs: dict[str, str] = {}
        for item in items:
            if not item.local and item.doc:
                self.by_name.setdefault(item.name, item)
                self.by_name.setdefault(item.public, item)
                self.by_last.setdefault(item.name.rsplit(".", 1)[-1], []).append(item)

    def resolve(self, target: str, item: Item) -> Item | None:
        """The item meant by `target` in the docstring of `item`, or None where it is unknown or not unique."""
        top, _, rest = target.partition(".")
        if top in self.aliases and rest:
            target = f"{self.aliases[top]}.{rest}"
        scope = item.name
        while scope:
            if found := self.by_name.get(f"{scope}.{target}"):
                return found
            scope = scope.rpartition(".")[0]
        if found := self.by_name.get(target):
            return found
        parts = target.split(".")
        if len(parts) == 1 and not re.search(r"[A-Z]|_", target):  # plain words are rarely cross-references
            return None
        package = item.name.partition(".")[0]
        meant = [i for i in self.by_last.get(parts[-1], []) if _in_order(parts[:-1], i.name.split(".")[:-1])]
        same = [i for i in meant if i.name.partition(".")[0] == package] or (meant if len(parts) > 1 else [])
        return same[0] if len(same) == 1 else None

    def text(self, item: Item) -> str:
        """The text at the end of the link: name, summary and description."""
        if item.name not in self.docs:
            doc = docstring.parse(item.doc)
            self.docs[item.name] = f"{doc.summary} {docstring.prose(doc.body, 600)}".strip() if doc.summary else ""
        said = self.docs[item.name]
        return f"{item.public}: {said}" if readable(said, 4) else ""

    def hyperlink(self, item: Item) -> Iterator[tuple[str, str, list[Item]]]:
        """(paragraph, text of the first item it refers to, that item)."""
        for paragraph in docstring.linked_paragraphs(item.doc):
            said = docstring.cut(docstring.clean(paragraph), 600)
            for name in docstring.references(paragraph)[:3] if readable(said, 8) else ():
                target = self.resolve(name, item)
                if target not in (None, item) and (text := self.text(target)):
                    yield said, text, [target]
                    break

    def see_also(self, item: Item) -> Iterator[tuple[str, str, list[Item]]]:
        """(summary, names and summaries of the related items, one a line, those of them that were found)."""
        if "See Also" not in item.doc:
            return
        doc = docstring.parse(item.doc)
        lines, targets = [], []
        for names, text in docstring.see_also(doc):
            for name in names:
                target = self.resolve(name, item)
                said = text or (docstring.parse(target.doc).summary if target else "")
                if readable(said, 3):
                    lines.append(f"{name}: {said}")
                targets += [target] if target else []
        if lines and readable(doc.summary, 3):
            yield doc.summary, limited("\n".join(lines)), targets


def _in_order(parts: list[str], names: list[str]) -> bool:
    rest = iter(names)
    return all(part in rest for part in parts)
