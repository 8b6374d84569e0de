"""sentence-transformers' trainer on the same pairs, as short as it goes: peer.py PAIRS MODEL OUT STEPS fp32|bf16"""

import sys
from pathlib import Path

from datasets import load_dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss

FOUR = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")  # Eq. 6 of the paper
pairs, name, out, steps, precision = sys.argv[1:]
model = SentenceTransformer(name, device="cpu")
whole, model.max_seq_length = model.max_seq_length, 128
files = sorted(Path(pairs).glob("*.csv"))
data = {file.stem: load_dataset("csv", data_files=str(file), split="train").remove_columns("id") for file in files}
arguments = SentenceTransformerTrainingArguments(
    out, max_steps=int(steps), per_device_train_batch_size=64, learning_rate=2e-5, warmup_ratio=0.05, weight_decay=0.01,
    bf16=precision == "bf16", use_cpu=True, seed=42, save_strategy="no", logging_steps=50, report_to="none",
    multi_dataset_batch_sampler="proportional",
)  # fmt: skip
loss = MultipleNegativesRankingLoss(model, scale=100, directions=FOUR, partition_mode="joint")
SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss).train()
model.max_seq_length = whole  # else it would be scored by texts half as long as ours
model.save_pretrained(out)
