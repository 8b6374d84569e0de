#!/usr/bin/env bash
# Guess: scoring vectors of encode(..., precision="int8") by dot product sums in a wider type, or is refused: cosine,
#        Euclidean and Manhattan similarity all raise an error for int8.
# Seen:  with similarity_fn_name="dot", model.similarity() returns int8: each sum is taken modulo 256. A text's score
#        with itself can be negative, and semantic_search() ranks by these remainders. No error, no warning.
# With:  sentence-transformers 6.2.0, transformers 5.23.0, torch 2.13.0, numpy 2.4.6.
# Why:   int8 vectors look usable with the library's own search, and an evaluation of them gives numbers that are
#        noise. Cast to int32 or float32 first, as this script does for comparison.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet \
    torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 numpy==2.4.6
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TQDM_DISABLE=1

cat > "$work/finding.py" <<'PY'
import sys

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sentence_transformers.util import dot_score, semantic_search
from transformers import BertConfig, BertModel, BertTokenizer

work = sys.argv[1]
torch.manual_seed(0)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(200)]
BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(f"{work}/backbone")
BertModel(
    BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )
).save_pretrained(f"{work}/backbone")
modules = [Transformer(f"{work}/backbone"), Pooling(64)]
model = SentenceTransformer(modules=modules, similarity_fn_name="dot")

texts = [f"w{i} w{(7 * i + 3) % 200}" for i in range(200)]
int8 = model.encode(texts, precision="int8")
scores = model.similarity(int8, int8)
exact = int8.astype(np.int32) @ int8.astype(np.int32).T
modulo_256 = exact.astype(np.int8)
hits = semantic_search(torch.from_numpy(int8), torch.from_numpy(int8), top_k=1, score_function=dot_score)
wrapped_top = np.mean([hit[0]["corpus_id"] == row for row, hit in enumerate(hits)])
exact_top = np.mean(exact.argmax(1) == np.arange(200))
print("dtype of the embeddings, of the scores:", int8.dtype, scores.dtype)
print("score of the first text with itself: exact", exact[0, 0], "- returned", scores[0, 0].item())
print(f"texts that find themselves first among 200: exact {exact_top:.1%}, semantic_search {wrapped_top:.1%}")

assert int8.dtype == np.int8 and scores.dtype == torch.int8
assert np.array_equal(scores.numpy(), modulo_256)
assert (np.diag(modulo_256) < 0).any() and (np.diag(exact) > 0).all()
assert exact_top > 0.9 and wrapped_top < 0.2
model.similarity_fn_name = "cosine"
try:
    model.similarity(int8, int8)
except RuntimeError as error:
    print("cosine instead of dot raises:", str(error)[:80])
else:
    raise AssertionError("cosine similarity takes int8 now")
PY
"$work/venv/bin/python" "$work/finding.py" "$work"
