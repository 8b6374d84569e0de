"""Why a row gives no pair: the reasons by which rejections are counted, told and steered."""

from enum import StrEnum, unique

FILTERED = "filtered: "  # begins the reason of a row that its source skips by choice: counted, but no fault


@unique
class Reason(StrEnum):
    """A reason of a rejection; its value is the sentence that is counted and shown.

    In some a role, a limit or a field is left open, which `of` fills in.

    >>> Reason.EMPTY.of("query"), Reason.LONG_LINE.of(16_384)
    ('empty query', 'line over 16,384 bytes')
    """

    # a file that cannot be read on: what would have followed is in no count
    DAMAGED_ARCHIVE = "damaged archive"
    DAMAGED_FILE = "damaged file"
    ARCHIVE_BOMB = "archive bomb"
    UNENDED_ARRAY = "array without an end"
    # a part of a file
    DAMAGED_ROW_GROUP = "damaged row group"
    TRUNCATED_FILE = "truncated file"
    TRUNCATED_RECORD = "truncated record"
    LONG_LINE = "line over {:,} bytes"
    LONG_ITEM = "item over {:,} bytes"
    LONG_PAGE = "page over {:,} bytes"
    LONG_RECORD = "record over {:,} bytes"
    TEXT_BEHIND_ARRAY = "text after the array"
    NO_ARTICLE = "no PubmedArticle"
    NO_COLLECTION = "page without a collection"
    # how a row is written
    INVALID_UTF8 = "invalid UTF-8"
    INVALID_JSON = "invalid JSON"
    INVALID_LITERAL = "invalid literal"
    NO_JSON_OBJECT = "no JSON object"
    MALFORMED_ROW = "malformed row"
    MALFORMED_XML = "malformed XML"
    MALFORMED_HTTP = "malformed HTTP"
    MALFORMED_RECORD = "malformed record"
    MALFORMED_URL = "malformed url"
    NO_WARC_RECORD = "no WARC record"
    ENTITY_REFUSED = "entity refused"
    DEEP_HTML = "HTML nested too deeply"
    OPEN_QUOTE = "quote that is not closed"
    REJECTED_LINE = "row with a rejected line"
    # its shape
    UNKNOWN_SHAPE = "unknown shape of row"
    UNKNOWN_EVIDENCE = "unknown shape of evidence"
    UNKNOWN_LABEL = "unknown label"
    TOO_FEW_COLUMNS = "too few columns"
    TOO_MANY_COLUMNS = "too many columns"
    SMALL_SET = "set of fewer than two texts"
    # its values
    MISSING = "missing {}"
    EMPTY = "empty {}"
    WRONG_TYPE = "wrong type of {}"
    HOLDS_NUL = "NUL in {}"
    LONG_ID = "id over {} characters"
    DUPLICATE_ID = "duplicate id"
    DOCSTRING_IN_CODE = "docstring within the code"
    # what it belongs to
    NO_PARENT = "parent not in the files"
    NO_PAGE = "page not in the files"
    NO_DOCUMENT = "document not in the files"
    NO_QUERY = "query not in the files"
    NO_QUESTION = "answer without its question"
    NO_CONTEXT = "supporting paragraphs not in the context"
    # of a hard negative alone
    OWN_TEXT = "text of its own pair"
    # evaluation texts in it
    EVALUATION_TEXT = "text of an evaluation set"
    EVALUATION_NGRAM = "n-gram of an evaluation set"
    # what its source skips
    SHORT_QUERY = f"{FILTERED}query under {{:,}} characters"
    SHORT_DOCUMENT = f"{FILTERED}document under {{:,}} characters"
    LONG_DOCUMENT = f"{FILTERED}document over {{:,}} characters"
    FIELD_IS = f"{FILTERED}{{}} is {{}}"
    LOW_FIELD = f"{FILTERED}{{}} under {{:g}}"
    LOW_SCORE = f"{FILTERED}score under {{}}"
    NEUTRAL = f"{FILTERED}neutral"
    NO_LABEL = f"{FILTERED}no label"
    NO_CONTRADICTION = f"{FILTERED}premise without a contradiction"
    NO_ENTAILMENT = f"{FILTERED}premise without an entailment"
    NO_POST_TEXT = f"{FILTERED}post without a text"
    SHORT_POST = f"{FILTERED}text not {{}} characters longer than its title"
    FEW_REACTIONS = f"{FILTERED}under {{}} comments and votes"
    DELETED = f"{FILTERED}deleted {{}}"
    BY_MACHINE = f"{FILTERED}{{}} by AutoModerator"
    INCOMPLETE_PAGE = f"{FILTERED}page without a {{}}"
    EMPTY_PAGE = f"{FILTERED}empty page"
    NO_POSITIVE = f"{FILTERED}no positive passage"
    OTHER_POST = f"{FILTERED}no question"
    OTHER_KIND = f"{FILTERED}neither question nor answer"
    UNANSWERED = f"{FILTERED}question without an answer"
    ANSWER_NOT_CHOSEN = f"{FILTERED}answer not chosen"
    EMPTY_ANCHOR = f"{FILTERED}empty anchor"
    ANCHOR_AT_THE_EDGE = f"{FILTERED}anchor in a header or footer"
    ANCHOR_IN_ANOTHER_LANGUAGE = f"{FILTERED}anchor in another language"
    ANCHOR_FROM_ITS_SITE = f"{FILTERED}anchor from the same site"
    FUNCTIONAL_ANCHOR = f"{FILTERED}functional anchor"
    MANY_ANCHORS = f"{FILTERED}more than {{}} anchors of a page"
    WITHDRAWN = f"{FILTERED}withdrawn"
    SUPERSEDED = f"{FILTERED}superseded version"
    FEW_NEGATIVES = f"{FILTERED}fewer than {{}} negatives under {{:g}} of the score"
    NO_TITLE = f"{FILTERED}article without a title"
    NO_ABSTRACT = f"{FILTERED}article without an abstract"
    NO_HTML = f"{FILTERED}no HTML"
    OTHER_STATUS = f"{FILTERED}HTTP status other than 200"

    def __repr__(self) -> str:
        return repr(self.value)

    @property
    def kind(self) -> "Reason":
        """The reason itself, as `Stated.kind`."""
        return self

    def of(self, *parts: object) -> "Stated":
        """The sentence with its roles, limits or fields filled in."""
        return Stated(self, self.value.format(*parts))


class Stated(str):
    """The sentence of a reason whose open parts are filled in; `kind` is the reason."""

    kind: Reason

    def __new__(cls, kind: Reason, sentence: str):
        stated = super().__new__(cls, sentence)
        stated.kind = kind
        return stated

    def __reduce__(self):
        return Stated, (self.kind, str(self))


# each stands for all that would have followed in its file
ENDS = (Reason.DAMAGED_ARCHIVE, Reason.DAMAGED_FILE, Reason.ARCHIVE_BOMB, Reason.UNENDED_ARRAY)


def kind_of(reason: str) -> Reason | None:
    """The member that a reason is or fills in; None for a sentence of a format of one's own, or one that was counted.

    >>> kind_of(Reason.EMPTY.of("query")) is Reason.EMPTY
    True
    """
    return getattr(reason, "kind", None)


def is_fault(reason: str) -> bool:
    """Whether a reason, as it is counted, is a fault of the row, not a choice of its source.

    >>> is_fault(Reason.INVALID_JSON), is_fault(Reason.NEUTRAL)
    (True, False)
    """
    return not reason.startswith(FILTERED)


class Unfit(Exception):
    """A row gives no pair; `reason` says why."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason
