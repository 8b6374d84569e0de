#!/usr/bin/env bash
# Guess: a tokenizer that is written to JSON and read again is the same tokenizer: tokenizer.json holds the scores of a
#        Unigram model (XLM-R, ALBERT, T5) with all the digits that tell one float64 from the next.
# Seen:  the digits are all there (Python's json gives the scores back), but the reader of `tokenizers` misses one in
#        eight of SentencePiece's float32 scores by the last bit. Each copy.deepcopy and pickle goes through it. Read a
#        second time they stay as they are.
# With:  tokenizers 0.23.3.
# Why:   a checksum over a tokenizer's rules tells a copy from its original, so a model that was saved from a copy counts
#        as one that reads texts in another way than the data prepared for it.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet tokenizers==0.23.3

cat > "$work/finding.py" <<'PY'
import copy
import json
import random
import struct

from tokenizers import Tokenizer, models


def scores(tokenizer):
    return [score for _, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


def float32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


random.seed(0)
born = [float32(random.uniform(-20, 0)) for _ in range(20_000)]
first = Tokenizer(models.Unigram([(f"w{i}", score) for i, score in enumerate(born)], unk_id=0))
read = Tokenizer.from_str(first.to_str())
again = Tokenizer.from_str(read.to_str())
moved = [(a, b) for a, b in zip(born, scores(read)) if a != b]
print(f"scores that Python reads from the JSON otherwise: {sum(a != b for a, b in zip(born, scores(first)))}")
print(f"that tokenizers reads otherwise: {len(moved)} of {len(born)}, such as {moved[0][0]!r} as {moved[0][1]!r}")

assert scores(first) == born
assert 0.05 < len(moved) / len(born) < 0.3
assert all(float32(b) == a and abs(b - a) < 1e-14 for a, b in moved)
assert scores(copy.deepcopy(first)) == scores(again) == scores(read)
PY
"$work/venv/bin/python" "$work/finding.py"
