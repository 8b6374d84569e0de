"""Prompts: the words that a model wants before a text, by kind: query, document, or what mteb calls a task.

The names of the kinds, and what is taken where none is asked for, are those of sentence-transformers.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

from transformers import PreTrainedTokenizerBase

from gte.errors import UserError, did_you_mean
from gte.models.pretrained import Settings

KINDS = ("query", "document")
NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}  # what models call them, in this order


def find_prompt(settings: Settings, name: str | None = None, words: str | None = None) -> str:
    """The words before a text: `words` themselves, else those of that name, else the model's default; "" is none.

    Raises UserError for a name that the model has no prompt of.
    """
    if words is not None:
        return words
    name = settings.default_prompt if name is None else name
    if name is None:
        return ""
    if name not in settings.prompts:
        known = ", ".join(settings.prompts) or "none"
        raise UserError(f"the model names no prompt '{name}' (it has: {known}); name one of these, or give the words")
    return settings.prompts[name]


def prompt_of(settings: Settings, kind: str) -> str:
    """The model's words before a query or a document, "" where it names none: its default is for neither of them."""
    return next((settings.prompts[name] for name in NAMES[kind] if settings.prompts.get(name)), "")


def unread_line(settings: Settings) -> str:
    """Names the model's prompts where none of them is one for queries or documents; nothing where one is."""
    names = [name for name, words in settings.prompts.items() if words]
    if not names or any(prompt_of(settings, kind) for kind in KINDS):
        return ""
    return f"note: no prompt of the model ({', '.join(names)}) is for all queries or documents; prompts= gives one"


def check_prompts(prompts: dict[str, str] | None, known: Iterable[str] | None = None, key: str = "prompts") -> None:
    """Raises UserError where prompts are no dict of words, or one has a name that nobody reads.

    known: names that are read beside those of queries and documents; None is any.
    """
    if prompts is None:
        return
    if not isinstance(prompts, dict) or not all(isinstance(words, str) for words in prompts.values()):
        raise UserError(f"{key}={prompts} must be words by kind, {key}={{query: 'query: ', document: 'passage: '}}")
    read = list(dict.fromkeys([*chain.from_iterable(NAMES.values()), *(known or ())]))
    for name in prompts:
        if known is not None and name not in read:
            others = ", a task or its kind" if known else ""
            instead = did_you_mean(name, read) or f"; name one of {', '.join(read[:4])}{others}"
            raise UserError(f"{key}.{name} is not read here{instead}")


def with_prompts(settings: Settings, prompts: dict[str, str] | None, key: str = "prompts") -> Settings:
    """The settings with other prompts than the model's own: None leaves these, {} is no prompt at all.

    Raises UserError, with `key`, where that is no dict of words.
    """
    if prompts is None:
        return settings
    check_prompts(prompts, key=key)
    default = settings.default_prompt if settings.default_prompt in prompts else None
    given = replace(settings, prompts=prompts, default_prompt=default)
    words = prompt_of(given, "document")
    return replace(given, prompts={"document": words} | prompts) if words else given


def prompt_length(tokenizer: PreTrainedTokenizerBase, words: str, max_length: int) -> int:
    """Tokens at the start of a text that are the prompt's, special tokens before them included, as
    sentence-transformers counts: those of the words alone, without a special token at their end.

    Raises UserError where they leave none of `max_length` tokens to the text.
    """
    ids = tokenizer(words, verbose=False)["input_ids"]
    if len(ids) >= max_length:
        raise UserError(
            f"the prompt {words[:40]!r} takes {len(ids)} tokens, special ones included, of max_length={max_length}: "
            "nothing of a text is left; shorten it"
        )
    return len(ids) - (bool(ids) and ids[-1] in tokenizer.all_special_ids)
