#!/usr/bin/env bash
# Guess: of documents with equal scores trec_eval keeps the order in which the run gives them, or counts a mean over all
#        orders, so that the names of the documents play no part.
# Seen:  equal scores are put in order of the document's name, the greatest first, whatever the order of the run. With
#        one relevant document among ten of equal score its reciprocal rank is 1.0 if it is called "d9" and 0.1 if it is
#        called "d0"; nDCG@10 is 1.0 and 0.289. mteb scores through this library.
# With:  pytrec_eval-terrier 0.5.11.
# Why:   scores in half precision and of integer or binary vectors tie by the hundred; numbered ids of a collection that
#        lists relevant documents first or last then move a benchmark's result, and two tools with the same scores differ.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet pytrec_eval-terrier==0.5.11

cat > "$work/finding.py" <<'PY'
import pytrec_eval

NAMES = [f"d{n}" for n in range(10)]


def measures(relevant: str, order: list[str]) -> tuple[float, float]:
    evaluator = pytrec_eval.RelevanceEvaluator({"q": {relevant: 1}}, {"recip_rank", "ndcg_cut.10"})
    found = evaluator.evaluate({"q": dict.fromkeys(order, 0.5)})["q"]
    return found["recip_rank"], found["ndcg_cut_10"]


for relevant in NAMES:
    forth, back = measures(relevant, NAMES), measures(relevant, NAMES[::-1])
    print(f"relevant {relevant}: reciprocal rank {forth[0]:.3f}, nDCG@10 {forth[1]:.3f}")
    assert forth == back, "the order of the run has a say: the behaviour has changed"
    assert abs(forth[0] - 1 / (10 - NAMES.index(relevant))) < 1e-9, "the behaviour has changed"
print("as described: ten equal scores are ranked by name, d9 first")
PY
"$work/venv/bin/python" "$work/finding.py"
