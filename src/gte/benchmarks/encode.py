"""Encoding: `Encoder.encode` against sentence-transformers' and a plain padded loop, on the texts of a prepared folder.

On a CPU also against what a user could run instead, OpenVINO and onnxruntime, where they are installed: the same graph,
batches of ENGINE_ROWS texts sorted by length, a request a core. Their int8 is what their own tools make of it.

`python -m gte.benchmarks.encode VARIANT '{"model": ..., ...}'` encodes once and prints its process's peak.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from gte.benchmarks.measure import compare, encoder_flops, in_child, matmul_rate, ours_alike, take_turns
from gte.benchmarks.texts import Steps, lengths, report, sentence_transformer, write_model
from gte.encoder import Encoder
from gte.memory import peak_memory
from gte.models.frozen import why_not
from gte.models.onnx import INPUTS, OUTPUTS, padded_inputs, quantize, session_of, trace
from gte.precision import AUTOCAST, native_bf16

BATCH = 32  # texts; the default of sentence-transformers' encode, and what a plain loop would take
BATCHES = (32, 256, 1024)
ENGINES = {"openvino": ("fp32", "bf16", "int8"), "onnxruntime": ("fp32", "int8")}  # on a CPU, and in what they compute
ENGINE_ROWS = 16
CALIBRATION = 300  # texts by which NNCF finds the ranges of OpenVINO's int8
LEAST_COSINE = {"fp32": 0.9999, "bf16": 0.995, "fp16": 0.995, "int8": 0.9}  # of any text, to ours in fp32


def run(
    data: str,
    *,
    model: str | None = None,
    architecture: str = "bert",
    hidden_size: int = 384,
    num_hidden_layers: int = 6,
    texts: int = 2048,
    max_length: int = 128,
    rounds: int = 5,
    device: str = "cpu",
    precisions: list[str] | None = None,
    batch_sizes: list[int] | None = None,
    alpha: float = 0.5,
    seed: int = 0,
) -> list[dict]:
    """Encode with ours and with the peers; `ratio` compares within one precision.

    Args:
        data, model, architecture: as in `gte.benchmarks.train`.
        precisions: fp32 (always taken), bf16, fp16, int8; by default fp32, where it is native bf16, on a GPU fp16, and
            on a CPU int8 where the model can be so.
        batch_sizes: texts a batch of sentence-transformers; each is tried once and the fastest takes part.
    Returns: a row a variant: seconds, texts/s, useful arithmetic, `mfu` as in training (of int8, over the rate of
        float32), the mean and the least cosine of a text's vector to ours in fp32, peak memory of a process of its own,
        and the peer's `batch_size`.
    Raises: RuntimeError where a variant gives other embeddings.
    """
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            model = f"{folder}/model"
            write_model(Path(model), data, architecture, hidden_size, num_hidden_layers, dropout=0.0)
        job = dict(data=data, model=model, texts=texts, max_length=max_length, device=device, alpha=alpha, seed=seed)
        corpus = make_corpus(job)
        encoder = Encoder.from_pretrained(model, max_length)
        if precisions is None:
            precisions = (["bf16"] if native_bf16(device) else []) + (["fp16"] if device != "cpu" else [])
            precisions += ["int8"] if device == "cpu" and why_not(encoder.lm, "int8") is None else []
        precisions = ["fp32", *(precision for precision in precisions if precision != "fp32")]
        encoders, sizes = make_all(job, precisions, corpus, batch_sizes or BATCHES)
        cosines = cosines_to_ours(encoders, corpus)
        measured = take_turns(
            {name: partial(turn, name, encode, corpus, device) for name, encode in encoders.items()}, rounds
        )
        flops = encoder_flops(lengths(encoder, corpus), encoder.lm.config, backward=False)
        for one in sum(measured.values(), []):
            one |= {"texts_per_s": texts / one["seconds"], "gflops": flops / one["seconds"] / 1e9}
            one["mfu"] = flops / one["seconds"] / one.pop("rate")
        facts = {"texts": texts, "max_length": max_length, "device": device, "threads": torch.get_num_threads()}
        rows = compare(measured, ours_alike, architecture=encoder.lm.config.model_type, **facts)
        for row in rows:
            row["batch_size"] = sizes.get(row["variant"])
            row["mean_cosine"] = float(cosines[row["variant"]].mean())
            row["lowest_cosine"] = float(cosines[row["variant"]].min())
            own = json.dumps(job | {"batch_size": row["batch_size"]})
            row["peak_mb"] = in_child("gte.benchmarks.encode", row["variant"], own)["peak"] / 2**20
    return rows


def make_all(
    job: dict, precisions: Sequence[str], corpus: list[str], batch_sizes: Sequence[int]
) -> tuple[dict[str, Callable[[list[str]], np.ndarray]], dict[str, int]]:
    """The function of every variant that can be here, and the batch sizes of the peers, both by the variant's name."""
    encoders, sizes = {}, {}
    for precision in precisions:
        encoders[f"ours {precision}"] = make(f"ours {precision}", job)
        name = f"sentence_transformers {precision}"
        if precision != "int8":  # it has none
            sizes[name], encoders[name] = fastest(name, job, corpus, batch_sizes)
        for engine, able in ENGINES.items() if job["device"] == "cpu" else ():
            if precision in able and find_spec(engine) and (precision != "int8" or find_spec(int8_tool(engine))):
                sizes[f"{engine} {precision}"] = ENGINE_ROWS
                encoders[f"{engine} {precision}"] = make(f"{engine} {precision}", job)
    encoders["padded fp32"] = make("padded fp32", job)
    sizes["padded fp32"] = BATCH
    return encoders, sizes


def cosines_to_ours(encoders: dict[str, Callable], corpus: list[str]) -> dict[str, np.ndarray]:
    """The cosine [N] of each text's vector by each variant to ours in fp32; each is warm afterwards.

    Raises RuntimeError where one of them is too small.
    """
    reference_ND = encoders["ours fp32"](corpus)
    cosines = {name: (encode(corpus) * reference_ND).sum(1) for name, encode in encoders.items()}
    for name, cosines_N in cosines.items():
        if cosines_N.min() < LEAST_COSINE[name.split()[1]]:
            raise RuntimeError(f"{name} embeds in another way than ours: smallest cosine {cosines_N.min():.4f}")
    return cosines


def fastest(
    name: str, job: dict, corpus: list[str], batch_sizes: Sequence[int]
) -> tuple[int, Callable[[list[str]], np.ndarray]]:
    """The batch size with which a peer encodes the corpus fastest, each tried once, and the function of the peer."""
    found = {}
    for size in batch_sizes:
        encode = make(name, job | {"batch_size": size})
        encode(corpus[: 2 * BATCH])
        start = time.perf_counter()
        encode(corpus)
        found[size] = time.perf_counter() - start, encode
    best = min(found, key=lambda size: found[size][0])
    return best, found[best][1]


def make_corpus(job: dict) -> list[str]:
    """Queries and documents of some steps, in no order."""
    step = Steps(job["data"], 64, job["alpha"], job["seed"])
    texts = sum((sum(step[number], []) for number in range(-(-job["texts"] // 128))), [])
    return np.random.default_rng(job["seed"]).permutation(texts)[: job["texts"]].tolist()


def make(name: str, job: dict):
    """The function of one variant: texts -> unit vectors float32 [N, D]."""
    variant, precision = name.split()
    if variant == "sentence_transformers":
        peer = sentence_transformer(job["model"], job["max_length"], job["device"])
        if AUTOCAST[precision]:
            peer = peer.to(AUTOCAST[precision])  # the weights themselves, as its users do
        options = dict(batch_size=job["batch_size"], normalize_embeddings=True, show_progress_bar=False)
        return lambda texts: np.asarray(peer.encode(texts, convert_to_numpy=True, **options), dtype=np.float32)
    encoder = Encoder.from_pretrained(job["model"], job["max_length"]).to(job["device"])
    if variant == "ours":
        return partial(encoder.encode, precision=precision)
    if variant in ENGINES:
        with tempfile.TemporaryDirectory() as folder:
            trace(encoder, Path(folder) / "model.onnx")
            calibration = make_corpus(job)[:CALIBRATION]
            started = STARTS[variant](Path(folder) / "model.onnx", precision, encoder, calibration)
        return partial(by_engine, encoder, started)
    return partial(padded, encoder)


def int8_tool(engine: str) -> str:
    """The package that makes an engine's int8."""
    return {"openvino": "nncf", "onnxruntime": "onnx"}[engine]


def start_onnxruntime(file: Path, precision: str, encoder: Encoder, texts: list[str]) -> Callable:
    """The function of a graph: batches of inputs -> vectors of each; one batch at a time on all cores."""
    if precision == "int8":
        quantize(file, file.with_name("int8.onnx"))
        file = file.with_name("int8.onnx")
    session = session_of(file)
    return lambda batches: [session.run([OUTPUTS[1]], dict(zip(INPUTS, batch, strict=True)))[0] for batch in batches]


def start_openvino(file: Path, precision: str, encoder: Encoder, texts: list[str]) -> Callable:
    """The same; as many requests at once as there are threads, one of them each."""
    import openvino

    model = openvino.Core().read_model(file)
    if precision == "int8":
        import nncf

        samples = nncf.Dataset([dict(zip(INPUTS, batch, strict=True)) for _, batch in batches_of(encoder, texts, 1)])
        model = nncf.quantize(model, samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts))
    threads = torch.get_num_threads()
    settings = {"NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    settings["INFERENCE_PRECISION_HINT"] = "bf16" if precision == "bf16" else "f32"
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(model, "CPU", settings), threads)

    def run(batches: list[tuple]) -> list[np.ndarray]:
        found = [None] * len(batches)

        def keep(request: object, number: int) -> None:
            found[number] = request.get_output_tensor(1).data.copy()

        queue.set_callback(keep)
        for number, batch in enumerate(batches):
            queue.start_async(dict(zip(INPUTS, batch, strict=True)), number)
        queue.wait_all()
        return found

    return run


STARTS = {"openvino": start_openvino, "onnxruntime": start_onnxruntime}


def by_engine(encoder: Encoder, started: Callable, texts: list[str]) -> np.ndarray:
    """Unit vectors [N, D] of a graph that was started."""
    rows, batches = zip(*batches_of(encoder, texts, ENGINE_ROWS), strict=True)
    result_ND = np.empty((len(texts), encoder.dimensions), np.float32)
    result_ND[np.concatenate(rows)] = np.concatenate(started(list(batches)))
    return result_ND


def batches_of(encoder: Encoder, texts: list[str], rows: int) -> Iterator[tuple[np.ndarray, tuple]]:
    """Numbers of `rows` texts of like length and a graph's inputs of them, the longest first."""
    ids = encoder.tokenize(texts)
    order = np.argsort([-len(row) for row in ids], kind="stable")
    for chunk in np.split(order, range(rows, len(order), rows)):
        yield chunk, padded_inputs([ids[i] for i in chunk], encoder.pad_id)


@torch.inference_mode()
def padded(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """Texts as they come, each batch padded to its longest."""
    encoder.eval().lm.set_attn_implementation("sdpa")
    parts = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        inputs = encoder.tokenizer(
            batch, padding=True, truncation=True, max_length=encoder.max_length, return_tensors="pt"
        ).to(encoder.device)
        mask = inputs["attention_mask"].unsqueeze(-1)
        means = (encoder.lm(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
        parts.append(torch.nn.functional.normalize(means).cpu().numpy())
    return np.concatenate(parts)


def turn(name: str, encode: Callable, corpus: list[str], device: str) -> dict:
    """Seconds of one encoding of the corpus, and the machine's matrix-product rate, FLOP/s, just before."""
    rate = matmul_rate(device, AUTOCAST.get(name.split()[1]) or torch.float32)
    start = time.perf_counter()
    encode(corpus)
    return {"seconds": time.perf_counter() - start, "rate": rate}


if __name__ == "__main__":
    job = json.loads(sys.argv[2])
    make(sys.argv[1], job)(make_corpus(job))
    report({"peak": peak_memory(job["device"])})
