#!/usr/bin/env bash
# Guess: mteb.evaluate(SentenceTransformer("runs/b")) evaluates the model in runs/b.
# Seen:  if another model was evaluated from another local folder before, even in an earlier process, that model's
#        score comes back. Models loaded from local folders get the name "no_model_name/available" and the revision
#        "no_revision_available", all of them, and the result cache on disk goes by these two and the task. Only a
#        line of the log at level INFO tells.
# With:  mteb 2.26.24, sentence-transformers 6.2.0, transformers 5.23.0, torch 2.13.0.
# Why:   of two checkpoints, or one before and after more training, both get the first one's score. Pass cache=None,
#        or to each model a ResultCache with a folder of its own.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet \
    torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 mteb==2.26.24
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TQDM_DISABLE=1 MTEB_CACHE="$work/mteb"

cat > "$work/finding.py" <<'PY'
import json
import random
import sys

import mteb
import torch
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizer

work, name, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
WORDS = ["red", "green", "blue", "big", "small", "house", "tree", "car"]


class TinySTS(AbsTaskSTS):
    """Forty pairs of four random words each, with random scores."""

    metadata = TaskMetadata(
        name="TinySTS",
        description="Forty random pairs",
        dataset={"path": "tiny/sts", "revision": "1"},
        type="STS",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="cosine_spearman",
        reference=None,
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation="",
    )

    def load_data(self, *args, **kwargs):
        rng = random.Random(0)
        rows = []
        for _ in range(40):
            first, second = (" ".join(rng.choices(WORDS, k=4)) for _ in range(2))
            rows.append({"sentence1": first, "sentence2": second, "score": rng.uniform(0, 5)})
        self.dataset = DatasetDict({"test": Dataset.from_list(rows)})
        self.data_loaded = True


def save():
    torch.manual_seed(seed)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(f"{work}/{name}-backbone")
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(f"{work}/{name}-backbone")
    modules = [Transformer(f"{work}/{name}-backbone"), Pooling(16)]
    SentenceTransformer(modules=modules).save(f"{work}/{name}")


def score(**kwargs):
    result = mteb.evaluate(SentenceTransformer(f"{work}/{name}"), TinySTS(), show_progress_bar=False, **kwargs)
    return result.task_results[0].get_score()


save()
answer = {"given": score(), "own": score(cache=None)}
print(f"model {name}: evaluate(model, task) gives {answer['given']:.4f}, with cache=None {answer['own']:.4f}")
with open(f"{work}/answers.jsonl", "a+") as file:
    file.write(json.dumps(answer) + "\n")
    file.seek(0)
    answers = [json.loads(line) for line in file]
assert abs(answer["own"] - answers[0]["own"]) > 0.02 or name == "a"
assert abs(answer["given"] - answers[0]["own"]) < 1e-5
PY
"$work/venv/bin/python" -W ignore "$work/finding.py" "$work" a 1
"$work/venv/bin/python" -W ignore "$work/finding.py" "$work" b 2
