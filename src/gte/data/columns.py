"""The columns of a user's file that are query, document and negatives: configured, of a known layout, or asked for.

Nothing is guessed: half of a layout, several columns of unknown names, an instruction and a score are refused with the
setting that says what is meant.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from gte.data.records import Field
from gte.errors import UserError, did_you_mean

# the field's layouts, by the names of their two columns, spelt as `normal` does; the first that a file has is its own
LAYOUTS = (
    (("query",), ("positive_passages",)),  # Tevatron
    (("question",), ("positive_ctxs",)),  # DPR
    (("query",), ("pos", "positive")),  # BGE; also MEDI
    (("anchor", "question"), ("positive", "pos")),  # sentence-transformers' n-tuples, with their negatives
    (("query", "question"), ("document", "passage", "context")),  # SQuAD, Natural Questions
    (("query", "question", "prompt", "instruction"), ("answer", "response", "output", "completion", "text", "body")),
    (("sentence1",), ("sentence2",)),
    (("sent0",), ("sent1",)),  # SimCSE
    (("text1",), ("text2",)),
    (("premise",), ("hypothesis",)),
    (("title", "headline"), ("body", "abstract", "text", "document", "passage", "description", "content", "answer")),
    (("comment", "docstring"), ("code",)),
)  # fmt: skip
NEGATIVE = re.compile(r"(hard_)?neg(ative)?s?(_?\d+)?|negative_passages|hard_negative_ctxs|sent2")
SCORES = ("score", "label", "similarity", "similarity_score", "relatedness_score", "relevance")
INPUTS = ("input", "inputs", "context")  # of an instruction, as Alpaca and Dolly have them
INSTRUCTIONS = ("instruction", "prompt", "task_instruction", "query_instruction")
IDENTITY = re.compile(r"(.*_)?(id|ids|idx|index|uuid|guid|hash)|([qpd]|doc|passage|question)ids?|unnamed:_\d+|")
KNOWN = {name for names in chain.from_iterable(LAYOUTS) for name in names}
STATED = {
    "query": "query", "pos": "document", "positive": "document", "document": "document", "neg": "negatives",
    "negative": "negatives", "negatives": "negatives", "score": "score", "keep": "keep",
}  # fmt: skip
# SQuAD's questions without an answer in their paragraph, as its JSON and `datasets` spell them
UNANSWERED = {"is_impossible": [True], "answers": [[], {"text": [], "answer_start": []}]}
OF_FILES = ("columns", "score", "min_score", "header", "delimiter", "quoting")  # settings that `Wanted` takes
QUOTING = ("minimal", "none")
UNNAMED = "(no name)"
LOOKED_INTO = 100  # cells of a column, for lists that are spelt in them
SAMPLE = 1_000  # rows of a file that are looked at


@dataclass(frozen=True)
class Wanted:
    """The columns and scores of a user's files that the user names: `data.columns`, `data.score` and so on.

    Args:
        columns: {query, pos, neg, score, keep}, or such mappings by source.
        score: the column of scores; False where a column that looks like one is none, None to ask.
        min_score: the least score that a pair must have.
        header: whether csv and tsv files begin with the columns' names; None finds out.
        delimiter: of csv and tsv files; None finds out.
        quoting: of their cells, minimal (RFC 4180) or none (quotes are text); None finds out.
        prefix: of the settings, as the user types them.
        several: whether there are several files, which may differ.

    >>> Wanted(columns={"query": "q", "pos": "a"}).of("faq")
    {'query': 'q', 'document': 'a'}
    """

    columns: dict = field(default_factory=dict)
    score: str | bool | None = None
    min_score: float | None = None
    header: bool | None = None
    delimiter: str | None = None
    quoting: str | None = None
    prefix: str = "data."  # of the settings, as the user types them
    several: bool = False  # files, which may differ

    def check(self, sources: Sequence[str], path: Path) -> None:
        """Raises UserError for a key that is neither a role nor a source, and for settings of a wrong type."""
        if not isinstance(self.columns, dict):
            raise UserError(
                f"{self.prefix}columns={self.columns} must be a mapping: '{self.prefix}columns={{query: A, pos: B}}'"
            )
        for key, value in self.columns.items():
            if key in STATED and not (isinstance(value, dict) and key != "keep"):
                continue
            if not isinstance(value, dict) or str(key) not in sources:
                close = did_you_mean(str(key), [*STATED, *sources])
                raise UserError(
                    f"{self.prefix}columns.{key}: neither a role ({', '.join(STATED)}) nor a file of {path} "
                    f"({', '.join(sources)}){close}"
                )
            if unknown := [role for role in value if role not in STATED]:
                raise UserError(
                    f"{self.prefix}columns.{key}.{unknown[0]} is no role{did_you_mean(unknown[0], STATED)}; roles: "
                    f"{', '.join(STATED)}"
                )
        for roles in [self.columns, *(value for key, value in self.columns.items() if key not in STATED)]:
            if not isinstance(roles.get("keep") or {}, dict):
                raise UserError(
                    f"{self.prefix}columns.keep={roles['keep']} must be values by column: "
                    f"'{self.prefix}columns.keep={{label: 1}}'"
                )
        if self.delimiter is not None and (not isinstance(self.delimiter, str) or len(self.separator()) != 1):
            raise UserError(f"{self.prefix}delimiter={self.delimiter!r} must be one character, or tab")
        if self.quoting not in (None, *QUOTING):
            raise UserError(f"{self.prefix}quoting={self.quoting} must be {' or '.join(QUOTING)}")
        if self.min_score is not None and (isinstance(self.min_score, bool | str) or self.score is False):
            raise UserError(f"{self.prefix}min_score={self.min_score} needs a number and {self.prefix}score=COLUMN")

    def of(self, source: str) -> dict:
        """The roles of one source: {query, document, negatives, score, keep}, those that are configured."""
        own = {key: value for key, value in self.columns.items() if key in STATED}
        own |= next((value for key, value in self.columns.items() if str(key) == source and key not in STATED), {})
        return {STATED[key]: value for key, value in own.items()}

    def setting(self, source: str, query: Field, document: Field) -> str:
        """Spell the setting to type for these two columns of a source."""
        query, document = (name if str(name).startswith("[") else quoted(name) for name in (query, document))
        own = f".{source}" if self.several and re.fullmatch(r"[A-Za-z_][\w-]*", source, re.ASCII) else ""
        return f"'{self.prefix}columns{own}={{query: {query}, pos: {document}}}'"

    def ask(self, source: str, texts: list) -> str:
        """The setting to type, with two columns of text in it."""
        return f"say it: {self.setting(source, *[*texts, 'COLUMN', 'COLUMN'][:2])}"

    def separator(self) -> str | None:
        """Delimiter of csv and tsv files as one character, None where the user names none."""
        return "\t" if self.delimiter in ("tab", "\\t") else self.delimiter


FIND_OUT = Wanted()  # what a user says who says nothing


def choose_columns(path: Path, source: str, columns: list, rows: list[dict], wanted: Wanted) -> dict:
    """Choose the columns that are query, document and negatives: named by the user, or of a known layout.

    Args:
        path: of the file, for errors.
        source: its name.
        columns: of the file, in order.
        rows: its first ones.
        wanted: what the user names.
    Returns: the keys of a `Source`, and (as "columns") all of it for people.
    Raises: UserError where the columns are not told apart, with the setting to type.

    >>> rows = [{"title": "a heading", "body": "its text", "views": "7"}]
    >>> found = choose_columns(Path("news.csv"), "news", list(rows[0]), rows, FIND_OUT)
    >>> found["query"], found["document"]
    ('title', 'body')
    """
    stated = wanted.of(source)
    texts = [name for name in columns if is_text(name, [row.get(name) for row in rows])]
    found = {role: find(path, value, columns) for role, value in stated.items() if role != "keep"}
    if (found.get("query") is None) != (found.get("document") is None):
        raise UserError(
            f"{path}: {wanted.prefix}columns names only one of query and pos; the columns are {listed(columns)}; "
            f"{wanted.ask(source, texts)}"
        )
    if found.get("query") is None:
        query, document = known_layout(path, source, columns, texts, wanted)
        found |= {"query": query, "document": document}
        refuse_twice(path, columns, found.values())
        refuse_instruction(path, source, texts, query, document, wanted)
        if (normal(query), normal(document)) == ("question", "context"):
            found["drop"] = {name: values for name, values in UNANSWERED.items() if name in columns}
    if "negatives" not in found:
        taken = flat(found.values())
        negatives = [name for name in columns if NEGATIVE.fullmatch(normal(name)) and name not in taken]
        found["negatives"] = negatives[0] if len(negatives) == 1 else negatives or None
    keep = {find(path, name, columns): values for name, values in (stated.get("keep") or {}).items()}
    taken = [*flat(found.values()), *keep]
    score = found.pop("score", None)
    if score is None:
        score = choose_score(path, columns, rows, wanted, taken)
        if wanted.score is None and wanted.min_score is None:
            keep |= constant_scores([name for name in score_columns(columns) if name not in taken], rows)
    elif wanted.min_score is None:
        raise UserError(
            f"{path}: the column '{score}' needs the least score of a pair: {wanted.prefix}min_score=NUMBER"
        )
    drop = found.pop("drop", {})
    refuse_twice(path, columns, [*found.values(), *keep])
    refuse_spelt_lists(path, flat(found.values()), rows)
    used = [*flat(found.values()), *keep, *drop, score]
    shown = {"unused": [name for name in columns if name not in used]}
    if score is not None:
        found |= {"score": score, "min_score": float(wanted.min_score)}
    return {
        **found,
        **({"keep": keep} if keep else {}),
        **({"drop": drop} if drop else {}),
        "columns": {**found, **({"keep": keep} if keep else {}), **shown},
    }


def known_layout(path: Path, source: str, columns: list, texts: list, wanted: Wanted) -> tuple[Field, Field]:
    """The query's and the document's column; two columns of text of unknown names are these two."""
    names: dict[str, str] = {}
    for column in texts:
        names.setdefault(normal(column), column)
    for queries, documents in LAYOUTS:
        query = next((names[name] for name in queries if name in names), None)
        document = next((names[name] for name in documents if name in names and names[name] != query), None)
        if query is not None and document is not None:
            return query, document
    others = [name for name in texts if not NEGATIVE.fullmatch(normal(name))]
    if len(others) < 2:
        typed = "" if others or len(columns) < 2 else f"; if two do, {wanted.ask(source, columns)}"
        raise UserError(
            f"{path}: a query and a document are needed, and its columns ({listed(columns)}) hold "
            f"{len(others) or 'no'} text{typed}"
        )
    refuse_twice(path, columns, others)
    half = [name for name in others if normal(name) in KNOWN]
    if not half and len(others) == 2:
        return others[0], others[1]
    why = f"only '{half[0]}' is of a known layout" if half else "none of its names is known"
    raise UserError(
        f"{path}: which columns are query and document? It has: {listed(columns)}; {why}; {wanted.ask(source, texts)}"
    )


def refuse_twice(path: Path, columns: list, used: Iterable) -> None:
    """Raises UserError where one of the columns used has a namesake: which of the two is meant is not known."""
    for name in flat(used):
        places = [place for place, one in enumerate(columns, 1) if normal(one) == normal(name)]
        if len(places) > 1 and isinstance(name, str):
            first, second = (f"'{columns[place - 1]}' (column {place})" for place in places[:2])
            raise UserError(f"{path} has two columns of one name, {first} and {second}; rename or remove one")


def refuse_spelt_lists(path: Path, used: list, rows: list[dict]) -> None:
    """Raises UserError where most cells of a column that is used spell a list, as pandas writes lists to a csv file."""
    for name in used:
        cells = [row[name] for row in rows if isinstance(row.get(name), str) and row[name].strip()][:LOOKED_INTO]
        if 2 * sum(map(spells_list, cells)) > len(cells):
            column = f"column {name + 1}" if isinstance(name, int) else f"'{name}'"
            raise UserError(
                f"{path}: the cells of {column} are lists as text, {listed([cells[0]])} for one; .jsonl and .parquet "
                f"files hold lists: in pandas read_csv(FILE, converters={{{name!r}: ast.literal_eval}}), then "
                "to_json(FILE, orient='records', lines=True)"
            )


def spells_list(cell: str) -> bool:
    """Whether a cell is a list, or an object, of texts as JSON or Python spells it."""
    cell = cell.strip()
    if cell[0] + cell[-1] not in ("[]", "{}", "()"):
        return False
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes that Python will not take any more
                value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return False
    items = value.values() if isinstance(value, dict) else value
    return isinstance(value, list | tuple | dict) and all(isinstance(item, str | list | dict) for item in items)


def refuse_instruction(path: Path, source: str, texts: list, query: str, document: str, wanted: Wanted) -> None:
    """Raises UserError where an instruction stands beside the query: a model that reads it makes other vectors."""
    beside = INPUTS if normal(query) in INSTRUCTIONS else ()
    for name in texts:
        if normal(name) in beside and name != document:
            raise UserError(
                f"{path} has the column '{name}' beside '{query}' and '{document}'; put it behind the query: "
                f"{wanted.setting(source, f'[{quoted(query)}, {quoted(name)}]', document)}, or leave it out: "
                f"{wanted.setting(source, query, document)}"
            )
        if normal(name) in INSTRUCTIONS and name not in (query, document):
            raise UserError(
                f"{path} has the column '{name}' beside '{query}' and '{document}'; put it before the query: "
                f"{wanted.setting(source, f'[{quoted(name)}, {quoted(query)}]', document)}, or leave it out: "
                f"{wanted.setting(source, query, document)}"
            )


def choose_score(path: Path, columns: list, rows: list[dict], wanted: Wanted, taken: list) -> str | None:
    """The column of scores that decides which pairs count. Raises UserError where there seems to be one, unasked."""
    if wanted.score is False:
        return None
    if isinstance(wanted.score, str):
        names = [name for name in columns if normal(name) == normal(wanted.score)]
        if names and wanted.min_score is None:
            raise UserError(
                f"{wanted.prefix}score={wanted.score} needs the least score of a pair: {wanted.prefix}min_score=NUMBER"
            )
        return names[0] if names else None  # of several files one may have it
    for name in score_columns(columns):
        if name in taken:
            continue
        if wanted.min_score is not None:
            return name
        values = {str(row[name]) for row in rows if row.get(name) not in (None, "")}
        if len(values) > 1:
            numbers = sorted(float(value) for value in values if is_number(value))
            range_ = f"{numbers[0]:g} to {numbers[-1]:g}" if len(numbers) == len(values) else f"'{min(values)}', ..."
            raise UserError(
                f"{path} has the column '{name}' ({range_}): which pairs belong together? "
                f"{wanted.prefix}min_score=NUMBER takes those from there on, "
                f"'{wanted.prefix}columns.keep={{{quoted(name)}: VALUE}}' those of a value, "
                f"{wanted.prefix}score=false takes all"
            )
    return None


def score_columns(columns: list) -> list[str]:
    """The columns that are named like scores or labels."""
    return [name for name in columns if normal(name) in SCORES]


def constant_scores(names: list[str], rows: list[dict]) -> dict[str, object]:
    """The value, of all that were looked at, of each of these columns: a row with another one is filtered out, and
    counted, as its texts may not belong together."""
    found = {}
    for name in names:
        values = [row.get(name) for row in rows]
        held = [value for value in values if value is not None and value != ""]
        if held and isinstance(held[0], str | int | float) and held[0] == held[0]:  # NaN is no value
            empty = [value for value in ("", None) if value in values]
            found[name] = [held[0], *empty] if empty else held[0]
    return found


def find(path: Path, name: Field, columns: list) -> Field:
    """The file's own spelling of a column's name, or of several; of a number the column at that position.

    Raises UserError for a column that it has not, or twice.
    """
    if name is None or isinstance(name, list):
        return name and [find(path, one, columns) for one in name]
    alike = [name] if columns.count(name) == 1 else [one for one in columns if normal(one) == normal(name)]
    if not alike and isinstance(name, int) and 0 <= name < len(columns):
        return columns[name]
    if len(alike) != 1:
        many = "several columns" if alike else "no column"
        raise UserError(f"{path} has {many} '{name}'{did_you_mean(name, columns)}; it has: {listed(columns)}")
    return alike[0]


def is_text(name: str | int, values: list) -> bool:
    """Whether a column may hold texts: mostly neither ids, nor numbers, nor nothing."""
    values = [value for value in values if value is not None and value != ""]
    if not values or 2 * sum(isinstance(value, str | list) for value in values) < len(values):
        return False
    if isinstance(name, str) and IDENTITY.fullmatch(normal(name)):
        return False
    strings = [value.strip() for value in values if isinstance(value, str)]
    if not strings:
        return True
    if all(is_number(value) for value in strings):
        return False
    codes = [not re.search(r"\s", value) and bool(re.search(r"\d", value)) for value in strings]
    return len(strings) < 5 or not all(codes)


def is_number(value: str) -> bool:
    """Whether a cell spells a number."""
    if value[:1].isalpha() and value[0] not in "iInN":  # not Infinity or NaN: a text, without an exception's cost
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def normal(name: str) -> str:
    """A column's name in lower case, words joined by underscores."""
    return re.sub(r"[\s_-]+", "_", str(name).strip().lower())


def flat(values: Iterable) -> list:
    """Names and lists of names as one list."""
    names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    return [name for name in names if name is not None]


def listed(columns: Sequence) -> str:
    """Spell the columns' names for an error."""
    return ", ".join(" ".join(str(column).split())[:60] or UNNAMED for column in columns)


def quoted(name: str | int) -> str:
    """A name as Hydra takes it within braces."""
    plain = isinstance(name, int) or re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII)
    return str(name) if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
