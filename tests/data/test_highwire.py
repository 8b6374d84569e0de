"""HighWire's markup in bioRxiv's and medRxiv's texts; the forms are those that their API gives."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gte.data.formats.highwire import GREEK, readable

FIGURE = (
    'O_FIG O_LINKSMALLFIG WIDTH=200 HEIGHT=113 SRC="FIGDIR/small/715005v1_ufig1.gif" ALT="Figure 1">\n'
    "View larger version (39K):\norg.highwire.dtl.DTLVardef@bad2ddorg.highwire.dtl.DTLVardef@169b0ab"
    "_HPS_FORMAT_FIGEXP  M_FIG An overview\n\nof it. C_FIG"
)
FORMS = [
    ("Structured abstractO_ST_ABSBackgroundC_ST_ABSDiets differ.\n\nMethodsFrom sheets.\n\nConclusionsSo what.",
     "Structured abstract Background: Diets differ. Methods: From sheets. Conclusions: So what."),
    ("AbstractO_ST_ABSAim:C_ST_ABSTo see.", "Abstract Aim: To see."),
    ("O_ST_ABSWhat is known?C_ST_ABSNothing. O_ST_ABSC_ST_ABS Or C_ST_ABS all.", "What is known? Nothing. Or all."),
    ("AO_SCPLOWBSTRACTC_SCPLOWWe show MO_SCPLOWUSEC_SCPLOWDO_SCPLOWRIFTC_SCPLOW.", "ABSTRACT: We show MUSEDRIFT."),
    ("the O_SCPLOWlacZC_SCPLOW gene, Cohens O_SCPLOWKC_SCPLOWO_SCPCAP.C_SCPCAP", "the lacZ gene, Cohens K."),
    ("HighlightsO_LIA set\nC_LIO_LIOf items\nC_LI", "Highlights A set Of items"),
    (f"It ends.\n\nGraphical Abstract\n\n{FIGURE}\n\nAnd goes on.", "It ends. And goes on."),
    (f"One {FIGURE} two {FIGURE} three", "One two three"),
    ("Ends.\n\nGraphical Abstract O_FIG_DISPLAY_L [Figure 1] M_FIG_DISPLAY C_FIG_DISPLAY", "Ends."),
    ("A log.\n\nO_TBL View this table:\norg.highwire.dtl.DTLVardef@11e0d M_TBL O_FLOATNOTable 1.C_FLOATNO "
     "O_TABLECAPTIONSizesC_TABLECAPTION C_TBL After it.", "A log. After it."),
    ("Microbes.\n\nO_TEXTBOXSIGNIFICANCEThey matter.\n\nC_TEXTBOX", "Microbes. SIGNIFICANCE: They matter."),
    ("flow: O_FD O_INLINEFIG[Formula 1]C_INLINEFIGM_FD(1)C_FD where", "flow: [Formula 1] (1) where"),
    ("0{middle dot}83 {+/-} 2{degrees}C, 5 {micro}M, TGF{beta} and IL-1[beta]", "0·83 ± 2°C, 5 µM, TGFβ and IL-1β"),
    ("([&le;]3), p &lt; .05, 0.3[-&gt;] 0.6, x [isin] X, [~]10", "(≤3), p < .05, 0.3→ 0.6, x ∈ X, ~10"),
    ("10{superscript 2} {approx} 100", "10² ≈ 100"),
    ("An O_FIG that is not closed", "An that is not closed"),
]  # fmt: skip
PLAIN = [
    "F_{e}, v_{0}, \\\\mathrm{F}, {{beta}}, 19^{o}C, x_{beta} and {0, 1}",
    "[18F]FDG, [Ca2+], [Formula], [95% CI 1-2], {e}",
    "R&D of O_2 by C_4 plants at M_1", "Methods and results were good.", "ResultsDB is a table", "RESULTS were as good",
    "One.\nResults were robust.\nAimed to test it.\nAIM2 is a sensor.\nAim2-deficient mice.", "AIMNet and AIMSim",
    "One.\nAlphaFold3 predicts.\nMethodsare small", "Resultant\nBackgrounds", "{unknown} and {two words} and [zorp]",
]  # fmt: skip


@pytest.mark.parametrize(("raw", "text"), FORMS)
def test_markup_becomes_what_it_stands_for(raw, text):
    assert " ".join(readable(raw).split()) == text
    assert readable(readable(raw)) == readable(raw)


@pytest.mark.parametrize("text", PLAIN)
def test_what_only_looks_like_markup_stays(text):
    assert readable(text) == text


@given(st.text(st.characters(exclude_characters="_{[&\n")))
def test_a_text_without_a_mark_is_its_own(text):
    assert readable(text) is text


@pytest.mark.parametrize("name", GREEK.split())
def test_a_letters_name_is_that_letter(name):
    """By Unicode's names, which spell one letter in another way and have two variants as symbols."""
    size = "CAPITAL" if name[0].isupper() else "SMALL"
    said = f"GREEK {size} LETTER {name.upper()}".replace("LAMBDA", "LAMDA")
    variants = {"varepsilon": "GREEK LUNATE EPSILON SYMBOL", "varphi": "GREEK PHI SYMBOL"}
    for raw in (f"TGF{{{name}}}1", f"TGF[{name}]1"):
        assert readable(raw) == f"TGF{unicodedata.lookup(variants.get(name, said))}1"


PIECES = ["O_FIG ", "O_TBL", "O_ST_ABS", "graphical abstract ", "[&", "{", "\nMain outcome", "&lt"]


@pytest.mark.parametrize("piece", PIECES)
def test_markup_that_never_ends_is_read_in_step_with_its_size(piece):
    """Work that grows with its square would take minutes."""
    assert readable(piece * 50_000 + "O_FIG the end").endswith("the end")
