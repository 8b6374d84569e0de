#!/usr/bin/env bash
# Guess: GISTEmbedLoss leaves a text's similarity with itself out of its sums, as MultipleNegativesRankingLoss does, so
#        that a batch of pairs that a model tells apart perfectly costs nothing.
# Seen:  a text's own similarity is left out only because the guide scores it higher than the pair. Where query and
#        document are the same text (title = body, unsupervised pairs), it does not: each row then sums e^(1/t) three
#        times, and the loss is ln 3 = 1.0986 where it should be 0. A pair that differs by one word costs 0.00.
# With:  sentence-transformers 6.2.0, transformers 5.23.0, torch 2.13.0.
# Why:   such pairs push texts away from themselves. A margin above 0 masks the two entries again.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TQDM_DISABLE=1

cat > "$work/finding.py" <<'PY'
import math
import sys
import warnings

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

warnings.filterwarnings("ignore")
work = sys.argv[1]
torch.manual_seed(0)
letters = "abcdefgh"
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "it", *letters]
BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(f"{work}/backbone")
bert = BertModel(
    BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
)
with torch.no_grad():  # every letter a direction of its own, far from the others
    table = bert.embeddings.word_embeddings.weight
    table.zero_()
    for n, _ in enumerate(letters):
        table[6 + n, 8 * n : 8 * n + 8] = torch.tensor([9.0, -9.0] * 4)
    table[5, ::2] = 0.05
bert.save_pretrained(f"{work}/backbone")
model = SentenceTransformer(modules=[Transformer(f"{work}/backbone"), Pooling(64)])
loss = GISTEmbedLoss(model, guide=model, temperature=0.01)


def cost(queries: list[str], documents: list[str]) -> float:
    features = [model.preprocess(queries), model.preprocess(documents)]
    return loss(features, torch.zeros(len(queries))).item()


texts = [" ".join([letter] * 12) for letter in letters]
other = [f"{text} it" for text in texts]
highest = (model.similarity(model.encode(texts), model.encode(texts)) - 2 * torch.eye(8)).max().item()
equal, near = cost(texts, texts), cost(texts, other)
print(f"highest cosine of two texts:        {highest:.3f}")
print(f"loss, documents equal to the queries: {equal:.4f}   ln 3 = {math.log(3):.4f}")
print(f"loss, documents with one more word:   {near:.4f}")
assert highest < 0.8
assert abs(equal - math.log(3)) < 1e-3
assert near < 1e-3
PY
"$work/venv/bin/python" "$work/finding.py" "$work"
