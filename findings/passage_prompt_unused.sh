#!/usr/bin/env bash
# Guess: a model with the prompts {"query": "query: ", "passage": "passage: "} (E5's) puts "passage: " before what
#        encode_document() is given, as its docstring says: the first of "document", "passage", "corpus" that exists.
# Seen:  encode_document() adds no prompt at all. A loaded model always has a "document" prompt, the empty string, so
#        "passage" is never reached. encode_query() does use "query: ". Nothing is logged.
# With:  sentence-transformers 6.2.0, transformers 5.23.0, torch 2.13.0.
# Why:   such a model answers prefixed queries from documents that lack the prefix it was trained with; the scores are
#        lower and nothing says so. Name the prompt "document", or pass prompt_name="passage".
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TQDM_DISABLE=1

cat > "$work/finding.py" <<'PY'
import sys

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

work = sys.argv[1]
torch.manual_seed(0)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "passage", ":", "a", "small", "text"]
BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(f"{work}/backbone")
BertModel(
    BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
).save_pretrained(f"{work}/backbone")
prompts = {"query": "query: ", "passage": "passage: "}
modules = [Transformer(f"{work}/backbone"), Pooling(16)]
SentenceTransformer(modules=modules, prompts=prompts).save(f"{work}/model")

model = SentenceTransformer(f"{work}/model")
text = ["a small text"]
document = model.encode_document(text)
bare = model.encode(text, prompt="")
passage = model.encode(text, prompt_name="passage")
print("prompts given:             ", prompts)
print("prompts of the loaded model:", model.prompts)
print("encode_document == encode(prompt=''):             ", np.allclose(document, bare, atol=1e-6))
print("encode_document == encode(prompt_name='passage'): ", np.allclose(document, passage, atol=1e-6))

assert model.prompts == {**prompts, "document": ""}
assert np.allclose(document, bare, atol=1e-6)
assert not np.allclose(document, passage, atol=1e-3)
assert np.allclose(model.encode_query(text), model.encode(text, prompt="query: "), atol=1e-6)
PY
"$work/venv/bin/python" "$work/finding.py" "$work"
