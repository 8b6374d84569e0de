"""What a model's card says of its ONNX graphs follows from what was measured of them."""

from types import SimpleNamespace

import pytest

from gte.models.card import onnx_lines
from gte.models.onnx import Comparison

FLOAT = Comparison("onnx/model.onnx", 90.0, 1.0, 0.99999, 40)
INT8 = Comparison("onnx/model_int8.onnx", 23.0, 0.99, 0.95, 40)


@pytest.mark.parametrize(("forms", "warned"), [([FLOAT], False), ([FLOAT, INT8], True)])
@pytest.mark.parametrize("side", ["right", "left"])
def test_int8s_ranges_and_the_side_that_is_cut_are_said_where_they_matter(forms, warned, side):
    encoder = SimpleNamespace(tokenizer=SimpleNamespace(truncation_side=side), max_length=128)
    text = "\n".join(onnx_lines("m", encoder, forms))
    assert ("takes its ranges from the batch" in text) == warned
    assert text.count("| onnx/") == len(forms) and "over 40 sample texts" in text
    cut = 'enable_truncation(128, direction="left")' if side == "left" else "enable_truncation(128)"
    assert cut in text
