"""Pushshift's Reddit dumps: RS_*.zst (posts) and RC_*.zst (comments), a JSON object a line.

A comment's `parent_id` is t3_ and the id of a post, or t1_ and the id of a comment, in any of the files. What the API
returned from 2022 on has other types: a number, which is the id of a comment in base 10, and null under a post.
Texts are as the API escapes them: &amp;, &lt; and &gt; stand for three characters, and no more is escaped.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gte.data.cleaning import clean
from gte.data.raw_lines import MAX_LINE
from gte.data.readers import read_keyed, read_objects
from gte.data.reasons import Reason, Unfit
from gte.data.records import Fields, Keyed, KeyedRow, Record, Rejected, records

# in place of a text: "[deleted]", "[deleted by user]", "[removed]", "[ Removed by Reddit on account of ... ]"
GONE = re.compile(
    r"\\?\[ ?(?:deleted(?: by user)?|unavailable"
    r"|removed(?: by reddit(?: (?:on account of|in response to) .{1,200})?)?) ?\\?\]",
    re.IGNORECASE,
)
ESCAPE = re.compile("&(?:amp|lt|gt);")
ESCAPED = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}
PARENT, COMMENT = 0, 1  # order of the rows of a key


def read_posts(path: Path, fields: Fields, *, longer_by: int = 0, min_reactions: int = 0) -> Iterator[Record]:
    """Posts with a text of their own as rows of title, selftext, subreddit, ...

    longer_by: skips a text that is not by so many characters longer than its title. min_reactions: skips a
    post with both fewer comments and fewer votes.
    """

    def wanted(post: dict) -> dict:
        title, text = unescaped(post.get("title")), unescaped(post.get("selftext"))
        check_author(post, "post", title, text)
        if not text:
            raise Unfit(Reason.NO_POST_TEXT)
        if isinstance(title, str) and isinstance(text, str) and len(text) < len(title) + longer_by:
            raise Unfit(Reason.SHORT_POST.of(longer_by))
        reactions = [post.get(name) for name in ("num_comments", "score")]
        if not any(isinstance(count, int) and count >= min_reactions for count in reactions):
            raise Unfit(Reason.FEW_REACTIONS.of(min_reactions))
        return {**post, "title": title, "selftext": text}

    return read_objects(path, fields, wanted)


def read_comments(path: Path, fields: Fields) -> Iterator[Keyed | Rejected]:
    """A post by its name; a comment by its own, as what others may answer, and by that of what it answers."""
    return read_keyed(path, take_post_or_comment, MAX_LINE)


def take_post_or_comment(row: int, value: dict) -> Iterator[Keyed]:
    """The keyed rows of one post or comment."""
    identity = clean(value.get("id"), "id")
    if "title" in value:
        title, text = unescaped(value["title"]), unescaped(value.get("selftext"))
        post = clean(title, "title")
        if isinstance(text, str):
            post = clean(f"{post}\n{text}", "selftext")
        yield Keyed(f"t3_{identity}", PARENT, [post, why_not(value, "parent", title, text)], row)
        return
    body, answered = clean(unescaped(value.get("body")), "body"), parent_name(value)
    yield Keyed(f"t1_{identity}", PARENT, [body, why_not(value, "parent", body)], row)
    check_author(value, "comment", body)
    yield Keyed(answered, COMMENT, [body], row)


def parent_name(value: dict) -> str:
    """The name of what a comment answers: t3_ or t1_ and its id. Raises Unfit where none is given."""
    stated = value.get("parent_id")
    if stated is None and value.get("link_id"):  # a comment on the post itself
        return clean(value["link_id"], "link_id")
    if isinstance(stated, int) and not isinstance(stated, bool) and 0 < stated < 2**63:
        return f"t1_{np.base_repr(stated, 36).lower()}"
    return clean(stated, "parent_id")


def join_comments(rows: Iterator[KeyedRow], fields: Fields) -> Iterator[tuple[str, Record]]:
    """Each comment with what it answers as a row of parent and body, where the comment stood."""
    parent = None
    for row in rows:
        if row.order == PARENT:
            if parent is not None and row.key.startswith("t3_"):  # a comment's second row repeats its pair as well
                yield row.file, Rejected(Reason.DUPLICATE_ID, row.row)
            parent = parent or row
        elif parent is None:
            yield row.file, Rejected(Reason.NO_PARENT, row.row)
        elif parent.values[1]:
            yield row.file, Rejected(parent.values[1], row.row)
        else:
            for record in records({"parent": parent.values[0], "body": row.values[0]}, fields, row.row):
                yield row.file, record


def check_author(value: dict, role: str, *texts) -> None:
    """Raises Unfit for what is deleted, and for what a machine wrote."""
    if reason := why_not(value, role, *texts):
        raise Unfit(reason)


def why_not(value: dict, role: str, *texts) -> str:
    """Why a post or comment is skipped, '' where it is not."""
    if any(isinstance(text, str) and GONE.fullmatch(text.strip()) for text in texts):
        return Reason.DELETED.of(role)
    return Reason.BY_MACHINE.of(role) if value.get("author") == "AutoModerator" else ""


def unescaped(value: object) -> object:
    """A text as its author wrote it; any other value as it is."""
    if isinstance(value, str) and "&" in value:
        return ESCAPE.sub(lambda found: ESCAPED[found[0]], value)
    return value
