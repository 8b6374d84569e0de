"""The markup of HighWire, the press of bioRxiv and medRxiv, which their API leaves in titles and abstracts."""

import re
from html import unescape
from html.entities import html5

# characters by names in braces or brackets: those of HTML, and HighWire's own
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega varepsilon varphi"
)
OTHERS = "micro pound euro approx isin gtrsim lesssim uparrow downarrow rightarrow leftarrow Rightarrow cap cup times"
NAMED = {name: html5[f"{name};"] for name in f"{GREEK} {OTHERS}".split()} | {
    "+/-": "±", "degrees": "°", "middle dot": "·", "bullet": "•", "infty": "∞", "~": "~", "~=": "≅", "->": "→",
    "-&gt;": "→", "superscript 1": "¹", "superscript 2": "²", "superscript 3": "³",
}  # fmt: skip
NAMES = "|".join(map(re.escape, NAMED))
TAGS = "ST_ABS|LINKSMALLFIG|LI|LST|TEXTBOX|QD|FD|INLINEFIG|FIG(?:_DISPLAY)?(?:_L)?|TBL|TABLECAPTION|FLOATNO"
# its first character by itself, for which the text is searched at once
MARKUP = re.compile(
    r"[OCM{\[&](?:"
    r"(?<=O)_ST_ABS(?P<heading>.{0,200}?)C_ST_ABS"
    r"|(?<=[OC])(?P<letters>_SCP(?:LOW|CAP))"  # within words
    rf"|(?<=[OCM])_(?:{TAGS})"
    rf"|(?<=\{{)(?<![_^\\{{]\{{)(?P<brace>{NAMES})\}}"  # LaTeX has others
    rf"|(?<=\[)(?P<bracket>{NAMES}|&\w{{2,8}};)\]"
    r"|(?<=&)(?P<entity>\w{2,8};))",
    re.DOTALL,
)
BLOCK = re.compile(  # up to the next one: one that is not closed costs no more
    r"(?:(?i:graphical abstract|toc graphic|graphical toc)\s*+)?O_(FIG|TBL)(?:(?!O_\1).)*?C_\1(?:_DISPLAY)?", re.DOTALL
)
HEADINGS = (
    "Aims?|Abstract|Background|Introduction|Rationale|Motivation|Objectives?|Purpose|Importance|Significance|Design|"
    "Setting|Participants|Patients|Interventions?|Exposures?|Measurements?|Methods?|Approach|Main outcomes?|Results?|"
    "Findings?|Discussion|Limitations?|Conclusions?|Interpretation|Implications?|Summary|Author summary|Highlights?|"
    "Key points?|Key messages?|Funding|Availability|Contact|Registration|Trial registration|Teaser"
)
# a line's heading that its text follows without a space; in capitals also the first line's, whose small ones they were
CAPITALS = HEADINGS.upper().removeprefix("AIMS?|")  # AIMNet is a name
GLUED = re.compile(
    rf"\n(?:(?<=.\n)(?:{HEADINGS})(?=[A-Z]|(?<!Aim)\d)|(?:{CAPITALS})(?=[A-Z][a-z]|A ))",
    re.DOTALL,
)
MARKED = re.compile(r"[_{\[&\n]")


def readable(text: str) -> str:
    """A title or an abstract without markup: headings end in a colon, figures and tables are left out as a whole.

    >>> readable("O_ST_ABSAimsC_ST_ABSTo see TGF{beta} at 5 {micro}M.\\nResultsIt O_SCPLOWROSEC_SCPLOW.")
    'Aims: To see TGFβ at 5 µM.\\nResults: It ROSE.'
    """
    if not MARKED.search(text):
        return text
    if "O_FIG" in text or "O_TBL" in text:
        text = BLOCK.sub("\n", text)
    text = MARKUP.sub(without_markup, text)
    return GLUED.sub(r"\g<0>: ", f"\n{text}").strip()


def without_markup(found: re.Match) -> str:
    """The text that a piece of markup stands for."""
    if found["heading"]:
        heading = found["heading"].strip().rstrip(":")
        return f"\n{heading} " if heading[-1:] in ("", ".", "?", "!") else f"\n{heading}: "
    if name := found["brace"] or found["bracket"]:
        return NAMED.get(name) or unescape(name)
    if found["entity"]:
        return unescape(found[0])
    return "" if found["letters"] else "\n"
