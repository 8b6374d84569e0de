#!/usr/bin/env bash
# Guess: a tokenizer.json saved by save_pretrained() is what from_pretrained() reads: a normalizer that was added to
#        the fast tokenizer is written into the file, so it is there after loading.
# Seen:  the normalizer is in tokenizer.json, and AutoTokenizer (a BertTokenizer) does not use it: it makes its own from
#        tokenizer_config.json (do_lower_case, ...). The library `tokenizers` and PreTrainedTokenizerFast do obey the
#        file, so one folder gives two different token ids. No warning.
# With:  transformers 5.23.0, tokenizers 0.23.3. No torch needed.
# Why:   a model trained with the changed tokenizer is evaluated with other ids once it is loaded back, and a server
#        that reads tokenizer.json itself (with `tokenizers`) gives other vectors than the Python model.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet transformers==5.23.0 tokenizers==0.23.3
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TQDM_DISABLE=1

cat > "$work/finding.py" <<'PY'
import json
import sys

from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

folder = f"{sys.argv[1]}/tokenizer"
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "Hello", "world"]
text = "Hello world"

cased = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=False)
own = cased.backend_tokenizer.normalizer
cased.backend_tokenizer.normalizer = normalizers.Sequence([own, normalizers.Lowercase()])
memory = cased(text).input_ids
cased.save_pretrained(folder)

with open(f"{folder}/tokenizer.json") as file:
    written = [part["type"] for part in json.load(file)["normalizer"]["normalizers"]]
loaded = AutoTokenizer.from_pretrained(folder)
auto = loaded(text).input_ids
generic = PreTrainedTokenizerFast.from_pretrained(folder)(text).input_ids
rust = Tokenizer.from_file(f"{folder}/tokenizer.json").encode(text).ids
print("normalizers in tokenizer.json:", written)
print("before saving:                ", memory)
print(f"AutoTokenizer ({type(loaded).__name__}):", auto)
print("PreTrainedTokenizerFast:      ", generic)
print("tokenizers.Tokenizer:         ", rust)

hello, capital = words.index("hello"), words.index("Hello")
assert written == ["BertNormalizer", "Lowercase"]
assert memory[1] == hello and generic == memory and rust == memory
assert isinstance(loaded, BertTokenizer)
assert auto[1] == capital and auto[2:] == memory[2:]
PY
"$work/venv/bin/python" "$work/finding.py" "$work"
