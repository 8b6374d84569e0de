"""Values that a setting of a benchmark may hold, in conf/benchmark."""

from gte.values import NAME, ONE_DEVICE, PATHS, SEVERAL_TEXTS, SHARE, TEXT, TRAIN, WIDTHS, Kind, whole

COUNT, COUNTS = whole(1), WIDTHS
PRECISIONS = ("fp32", "bf16", "fp16", "int8")


def of_words(*words: str, empty: bool = False) -> Kind:
    """Lists of some of these words, none of them twice; `empty`: or of none."""
    return Kind(
        lambda value: (
            isinstance(value, list)
            and all(value.count(one) == 1 and one in words for one in value)
            and (empty or value != [])
        ),
        f"a list of {', '.join(words)}, each once" + ", or []" * empty,
    )


MEASURED = Kind(
    lambda value: (
        isinstance(value, list) and len(value) == 3 and NAME.fits(value[0]) and all(map(COUNT.fits, value[1:]))
    ),
    "[variant,n,width]",
)
TIMED = {"data": TEXT, "model": NAME.or_one_of(None), "architecture": NAME, "hidden_size": COUNT}
TIMED |= {"num_hidden_layers": COUNT, "max_length": whole(3), "rounds": COUNT, "device": ONE_DEVICE}
BENCHMARKS = {  # of conf/benchmark, the keys of a benchmark
    "checkpoint": {
        "parameters": whole(12),
        "steps": COUNT,
        "every": COUNT,
        "work": whole(0),
        "folder": TEXT,
        "rounds": COUNT,
    },
    "encode": {
        **TIMED,
        "texts": COUNT,
        "precisions": of_words(*PRECISIONS).or_one_of(None),
        "batch_sizes": COUNTS,
    },
    "evaluation": {
        "checkpoint": NAME,
        "data_dir": Kind(lambda value: value is not None and PATHS.fits(value), "a path, or a list of them"),
        "tasks": SEVERAL_TEXTS,
        "rounds": COUNT,
        "device": ONE_DEVICE,
        "precision": Kind(lambda value: value in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
    },
    "loss": {
        "n": COUNT,
        "width": COUNT,
        "rounds": COUNT,
        "device": ONE_DEVICE,
        "memory_of": Kind(
            lambda value: value is None or (isinstance(value, list) and all(map(MEASURED.fits, value))),
            f"a list of {MEASURED.said}, or null",
        ),
    },
    "prepare": {
        "path": TEXT.or_one_of(None),
        "rows": COUNT,
        "repeated": SHARE,
        "tokenizer": TEXT.or_one_of(None),
        "rounds": COUNT,
        "pairs": of_words("ours", "datasets", "duckdb"),
        "tokens": of_words("ours tokens", "encode_batch tokens", "datasets tokens", empty=True),
    },
    "sampler": {
        "data": TEXT,
        "pairs": COUNT,
        "max_length": whole(3),
        "steps": COUNT,
        "peer_steps": COUNT,
        "workers": Kind(
            lambda value: isinstance(value, list) and value and all(map(whole(0).fits, value)),
            "a list of whole numbers, [0,1,2]",
        ),
        "rounds": COUNT,
    },
    "train": {
        **TIMED,
        "dropout": TRAIN["model.dropout"],
        "pairs": COUNT,
        "steps": COUNT,
        "batch_tokens": COUNT,
        "recompute_fraction": SHARE,
        "mini_batch": Kind(lambda value: COUNT.fits(value) or COUNTS.fits(value), f"at least 1, {COUNTS.said}"),
        "precisions": of_words(*PRECISIONS[:3]).or_one_of(None),
        "peers": of_words("sentence_transformers", "padded", empty=True).or_one_of(None),
    },
}
