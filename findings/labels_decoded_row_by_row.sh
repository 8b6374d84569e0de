#!/usr/bin/env bash
# Guess: what mteb's classification computes beside the vectors is ten logistic regressions, so that a quicker encoder is
#        held up by them and by nothing else.
# Seen:  the fits are a small part. Labels reach scikit-learn as a lazy column of `datasets`, which decodes a row at each
#        access, and each of seven metrics goes over it several times: scoring 3,080 predictions of 77 labels decodes
#        every label some forty times and takes tens of times as long as with the same labels in a list.
# With:  mteb 2.26.24, datasets 5.2.0, scikit-learn 1.9.1.
# Why:   a benchmark of encoders by the wall time of such a task measures the decoding: for Banking77 it was half of the
#        time with a small model on two cores, and two encoders of which one is twice as fast looked nearly alike.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet mteb==2.26.24 datasets==5.2.0 scikit-learn==1.9.1

cat > "$work/finding.py" <<'PY'
import random
import time

import datasets
from mteb.abstasks import AbsTaskClassification

ROWS, LABELS = 3080, 77
random.seed(1)
labels = [number % LABELS for number in range(ROWS)]
predicted = [label if random.random() < 0.8 else random.randrange(LABELS) for label in labels]
column = datasets.Dataset.from_dict({"label": labels})["label"]

decoded, iterate = 0, datasets.Dataset.__iter__


def counted(data):
    global decoded
    for row in iterate(data):
        decoded += 1
        yield row


def seconds(y_test) -> tuple[float, dict]:
    start = time.perf_counter()
    scores = AbsTaskClassification._calculate_scores(None, y_test, predicted)
    return time.perf_counter() - start, scores


seconds(labels)  # imports
(as_list, scores), (as_column, same) = seconds(labels), seconds(column)
datasets.Dataset.__iter__ = counted
seconds(column)
print(f"{ROWS} labels: {as_list:.3f} s as a list, {as_column:.3f} s as a column, each decoded {decoded / ROWS:.0f} times")
assert scores == same
assert decoded > 20 * ROWS, "the behaviour has changed"
PY
"$work/venv/bin/python" "$work/finding.py"
