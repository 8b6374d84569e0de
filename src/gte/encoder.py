"""The encoder: a language model with pooling (Eqs. 1-2: the mean), run over length-sorted chunks under a token budget.

A chunk is packed, its texts end to end without padding, where `gte.attention` knows the language model to be right that
way; otherwise it is padded to its longest text, which costs a few percent since texts are sorted by length.

Shapes: N texts, T tokens of all texts end to end, L tokens of the longest text in a chunk, D width.
"""

import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from gte.attention import (
    Runs,
    at_least_float32,
    flash_fits,
    no_mask,
    on_cuda,
    position_ids,
    takes_mask_as_it_is,
    use_packed_attention,
)
from gte.chunks import Placed, Plan, place, plan_chunks
from gte.errors import UserError
from gte.models.fast_ids import FastIds
from gte.models.frozen import FrozenLayers, calibration_texts, first_hidden, why_not
from gte.models.fused import use_fused_layers
from gte.models.pretrained import POOLINGS, load_pretrained, usable_positions
from gte.prompts import find_prompt, prompt_length
from gte.recompute import run_again, separate_casts
from gte.settings import Settings

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = (*AUTOCAST, "int8")  # of `encode`


class Encoder(nn.Module):
    """E(x): mean over a text's tokens, special tokens included, of the language model's last layer (Eqs. 1-2).

    settings: what its files say of its vectors; max_length and pooling override theirs. pooling: mean, as in the paper,
    cls, a text's first token, or last, its last one. padding_free: whether chunks are packed; None does so where
    `gte.attention` knows how, on a GPU in half precision only. compile: whether torch.compile works on the language
    model; chunks are then padded, since packed ones would be compiled anew for each mix of lengths.
    """

    def __init__(
        self,
        lm: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        padding_free: bool | None = None,
        compile: bool = False,
        settings: Settings | None = None,
        pooling: str | None = None,
    ):
        super().__init__()
        given = {"max_length": max_length, "pooling": pooling}
        given = {key: value for key, value in given.items() if value is not None}
        self.settings = replace(settings or Settings(), **given)
        if self.settings.pooling not in POOLINGS.values():
            raise UserError(
                f"pooling={self.settings.pooling} is not known; choose one of: {', '.join(POOLINGS.values())}"
            )
        positions = usable_positions(lm)
        if isinstance(self.max_length, bool) or not isinstance(self.max_length, int) or self.max_length < 3:
            raise UserError(
                f"max_length={self.max_length} must be a whole number of tokens, at least 3: the special ones and one"
            )
        if self.max_length > positions:
            raise UserError(
                f"max_length={self.max_length} is more than the {positions} positions of this language model"
            )
        self.lm = lm
        packs = use_packed_attention(lm)
        if padding_free and not packs:
            raise UserError(
                f"attention without padding is not known to be right for the model type '{lm.config.model_type}'; "
                "set model.padding_free=null"
            )
        if padding_free and compile:
            raise UserError("model.compile=true works on padded chunks only; set model.padding_free=null or false")
        self.padding_free = False if not packs or compile else padding_free
        self.compiled = compile
        if compile:
            lm.compile(dynamic=True)
        else:
            use_fused_layers(lm)
        # BERT's pooler takes no part in mean pooling and would get no gradient; it is kept for `save` alone, since
        # other programs expect it in a BERT
        self.unused_pooler = getattr(lm, "pooler", None)
        if self.unused_pooler is not None:
            self.unused_pooler.requires_grad_(False)
            lm.pooler = nn.Identity()  # of some kinds it is called in any case
        self.tokenizer = tokenizer
        self.width = lm.config.hidden_size
        self.counts: Counter[str] = Counter()  # of `encode`: the texts, and those of them that fill max_length
        self.pad_id = tokenizer.pad_token_id or 0
        self.fast_ids: FastIds | None = None
        self.frozen: FrozenLayers | None = None  # kept from one `encode` to the next
        self.frozen_in_use = False

    def __getstate__(self) -> dict:
        """Of a copy, or a pickle: without what is quickly made anew, and is no one else's to change."""
        return self.__dict__ | {"fast_ids": None, "frozen": None}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        **options,
    ) -> "Encoder":
        """A transformers or sentence-transformers directory, or a name on the hub; `options` as of the class.

        Its files are obeyed, `max_length` is an upper bound in tokens; see `gte.models.pretrained.load_pretrained`.
        Raises UserError where nothing loads, and where the vectors would not be the model's own.
        Python files that a model brings along are run only with `trust_remote_code`.
        """
        lm, tokenizer, settings = load_pretrained(name_or_path, max_length, trust_remote_code, revision)
        return cls(lm, tokenizer, settings=settings, **options)

    @classmethod
    def from_scratch(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        hidden_size: int,
        num_hidden_layers: int,
        num_attention_heads: int,
        intermediate_size: int | None = None,
        max_length: int = 512,
        dropout: float = 0.1,
        **options,
    ) -> "Encoder":
        """A BERT of random weights (drawn from torch's global generator) over the given tokenizer's vocabulary.

        intermediate_size: None is BERT's 4 * hidden_size. Raises UserError where the heads do not divide the width.
        """
        if not hidden_size or hidden_size % num_attention_heads:
            raise UserError(
                f"hidden_size={hidden_size} does not divide over num_attention_heads={num_attention_heads}; choose "
                f"hidden_size={(hidden_size // num_attention_heads + 1) * num_attention_heads}"
            )
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size or 4 * hidden_size,
            max_position_embeddings=max_length,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            pad_token_id=tokenizer.pad_token_id,
        )
        return cls(BertModel(config), tokenizer, max_length, **options)

    @property
    def max_length(self) -> int:
        """Tokens of a text, special tokens included; longer ones are cut."""
        return self.settings.max_length

    @property
    def dimensions(self) -> int:
        """Width of the vectors that `encode` gives: that of the language model, or what the settings leave of it."""
        return min(self.width, self.settings.truncate_dim or self.width)

    @property
    def device(self) -> torch.device:
        return next(self.lm.parameters()).device

    @property
    def computing_dtype(self) -> torch.dtype:
        """In what the language model multiplies now: autocast's type, else that of its weights."""
        kind = self.device.type
        casts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        return torch.get_autocast_dtype(kind) if casts else next(self.lm.parameters()).dtype

    @property
    def packed(self) -> bool:
        """Whether chunks are packed: padding_free, or the choice that it leaves.

        On a GPU in float32 they are not: attention of padded texts is no slower there, and no less exact.
        """
        if self.padding_free is not None:
            return self.padding_free
        width = self.width // self.lm.config.num_attention_heads
        return self.device.type == "cpu" or flash_fits(self.device, self.computing_dtype, width)

    def plan(self, lengths_N: np.ndarray, batch_tokens: int) -> Plan:
        """The chunks that `forward` takes for texts of these lengths, under the precision that holds now."""
        return plan_chunks(lengths_N, batch_tokens, self.packed)

    def forward(
        self,
        ids_T: Tensor,
        lengths_N: Tensor,
        plan: Plan,
        recompute_fraction: float = 0.0,
        skip_N: Tensor | None = None,
    ) -> Tensor:
        """Embeddings [N, D], at least float32, of N texts given as token ids end to end, special tokens included.

        skip_N: how many tokens at the start of each text are read but not pooled (a prompt's); None is none.
        Ids, lengths and skip_N lie on the host; they go to the model's device once, and nothing there is waited for.
        A share `recompute_fraction` of the chunks keeps no activations and is run again in the backward pass with the
        same dropout: with 1.0 the memory is that of one chunk, with one backward and the same gradients.
        """
        if torch.is_grad_enabled():
            self.frozen = None  # the weights are about to change: an evaluation's copy of them is of no more use
        placed = place(ids_T, lengths_N.numpy(), plan, self.device, None if skip_N is None else skip_N.numpy())
        # the longest chunks first: they hold the most activations
        again = round(recompute_fraction * len(placed.chunks)) if torch.is_grad_enabled() else 0

        def embed(chunk: range) -> Tensor:
            return self.embed(placed, chunk)

        with separate_casts():
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            pooled = [run_again(embed, placed.chunks[:again], trained, self.device)] if again else []
            pooled += map(embed, placed.chunks[again:])
        return torch.cat(pooled)[placed.back_N] if pooled else torch.empty(0, self.width, device=self.device)

    def embed(self, placed: Placed, chunk: range) -> Tensor:
        """Embeddings [n, D] of the texts of one chunk, longest first."""
        rows = slice(chunk.start, chunk.stop)
        lengths, skip = placed.lengths_N[rows], None if placed.skip_N is None else placed.skip_N[rows]
        pool, arrange = (self.pool_packed, self.pack) if placed.packed else (self.pool_padded, self.pad)
        texts = arrange(placed.ids_T, placed.starts_N[rows], lengths, placed.host_lengths_N[rows])
        return pool(*texts, lengths, skip)

    def pack(
        self, ids_T: Tensor, starts: Tensor, lengths: Tensor, host_lengths: np.ndarray
    ) -> tuple[Tensor, Tensor, Runs, Tensor | None]:
        """Token ids [1, T] of texts end to end, their positions [1, T], the runs of equal length, and for a GPU the
        offsets [n + 1] of the texts."""
        total = int(host_lengths.sum())
        ends = lengths.cumsum(0)
        within = torch.arange(total, device=self.device)
        within -= (ends - lengths).repeat_interleave(lengths, output_size=total)
        ids = ids_T[starts.repeat_interleave(lengths, output_size=total) + within].long()
        positions = position_ids(ids, within, self.lm.config)
        changes = np.flatnonzero(np.diff(host_lengths, prepend=-1))
        texts = np.diff(changes, append=len(host_lengths))
        runs = list(zip(texts.tolist(), host_lengths[changes].tolist(), strict=True))
        offsets = nn.functional.pad(ends, (1, 0)).int() if on_cuda(self.device) else None
        return ids[None], positions[None], runs, offsets

    def pad(
        self, ids_T: Tensor, starts: Tensor, lengths: Tensor, host_lengths: np.ndarray
    ) -> tuple[Tensor, Tensor | None]:
        """Token ids [n, L], and their mask [n, L], which is None where there is no padding."""
        longest, shortest = int(host_lengths.max()), int(host_lengths.min())
        columns = torch.arange(longest, device=self.device)
        index = starts[:, None] + columns
        if longest == shortest:
            return ids_T[index].long(), None
        mask = columns < lengths[:, None]
        return torch.where(mask, ids_T[index.clamp_(max=len(ids_T) - 1)].long(), self.pad_id), mask

    def pool_packed(
        self,
        ids: Tensor,
        positions: Tensor,
        runs: Runs,
        offsets: Tensor | None,
        lengths: Tensor,
        skip: Tensor | None = None,
    ) -> Tensor:
        """Eq. 1, then Eq. 2, summed in float32, or another pooling: [n, D]."""
        if self.frozen_in_use:
            hidden_TD = self.frozen(first_hidden(self.lm, ids, positions), runs)
        else:
            mask = no_mask(self.lm.config)
            output = self.lm(input_ids=ids, attention_mask=mask, position_ids=positions, runs=runs, offsets=offsets)
            hidden_TD = output.last_hidden_state[0]
        dtype = at_least_float32(hidden_TD)
        if self.settings.pooling != "mean":
            return hidden_TD[lengths.cumsum(0) - lengths + self.chosen(lengths, skip)].to(dtype)
        if skip is not None:
            return mean_behind(hidden_TD, lengths, skip)
        parts = hidden_TD.split([texts * length for texts, length in runs])
        return torch.cat([part.unflatten(0, run).mean(1, dtype=dtype) for part, run in zip(parts, runs, strict=True)])

    def pool_padded(self, ids: Tensor, mask: Tensor | None, lengths: Tensor, skip: Tensor | None = None) -> Tensor:
        """The same over a mask."""
        if mask is None:
            attention_mask = None
        elif takes_mask_as_it_is(self.lm):  # of [n, L] transformers asks the device whether it masks anything at all
            attention_mask = mask[:, None, None]
        else:
            attention_mask = mask.long()
        hidden = self.lm(input_ids=ids, attention_mask=attention_mask).last_hidden_state
        dtype = at_least_float32(hidden)
        if self.settings.pooling != "mean":
            return hidden[torch.arange(len(hidden), device=hidden.device), self.chosen(lengths, skip)].to(dtype)
        if skip is not None:
            pooled = torch.arange(hidden.shape[1], device=hidden.device) >= skip[:, None]
            mask = pooled if mask is None else mask & pooled
        if mask is None:
            return hidden.mean(1, dtype=dtype)
        sum_nD = (hidden * mask[..., None]).sum(1, dtype=dtype)
        return sum_nD / mask.sum(1, keepdim=True).clamp(min=1)

    def chosen(self, lengths: Tensor, skip: Tensor | None) -> Tensor:
        """The token of each text, counted from its first, whose vector pooling by cls or last takes: [n]."""
        if self.settings.pooling == "last":
            return lengths - 1
        return torch.zeros_like(lengths) if skip is None else torch.where(skip < lengths, skip, 0)

    def tokenize(self, texts: list[str], prompt: str = "") -> list[list[int]]:
        """Token ids with special tokens, each text cut at `max_length`, its prompt counted."""
        return self.tokenizer(
            [prompt + text for text in texts] if prompt else texts,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]

    @torch.inference_mode()
    def encode(
        self,
        texts: list[str],
        batch_tokens: int | None = None,
        normalize: bool = True,
        precision: str | None = None,
        progress: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> np.ndarray:
        """Embeddings float32 [N, D] in the caller's order, D = `dimensions`; unit length where `normalize`.

        Before each text goes `prompt`, else the prompt that the model has under `prompt_name`, else its default one, as
        in sentence-transformers; prompt="" is none. Raises UserError for a name that it does not have.
        `precision` is fp32 (default), bf16, fp16 or int8: the arithmetic of the language model; pooling stays float32.
        On a CPU a BERT's layers are laid out anew for it (`gte.models.frozen`), and kept so for the next call: their
        weights take that much memory again. int8 is for these alone, UserError names what is missing.
        `batch_tokens`: tokens of a chunk, padding included; None suits the device.
        Texts are tokenised and encoded in blocks, so memory beyond the result does not grow with N; the next block is
        tokenised while one is encoded. Calls from several threads wait for each other: the mode of the modules, which
        is put back at the end, is one for all. TypeError names what is no text; UserError an unknown precision.
        """
        if isinstance(texts, str) or not (hasattr(texts, "__len__") and hasattr(texts, "__getitem__")):
            raise TypeError(f"encode takes a list of texts, got one {type(texts).__name__}")
        precision = precision or "fp32"
        if precision not in PRECISIONS:
            raise UserError(f"precision={precision} is unknown; choose {', '.join(PRECISIONS)}")
        prompt = find_prompt(self.settings, prompt_name, prompt)
        skip = prompt_length(self.tokenizer, prompt, self.max_length) if prompt else 0
        if batch_tokens is None:  # small chunks stay in a processor's cache and pad little; a GPU wants to be filled
            batch_tokens = max(2_048 if self.device.type == "cpu" else 65_536, self.max_length)
        result_ND = np.empty((len(texts), self.dimensions), dtype=np.float32)
        bar = tqdm(total=len(texts), unit=" texts", disable=not progress, leave=False)
        with lock_of(self), evaluating(self), self.inference_in(precision), bar:
            packed, token_ids = self.packed, self.token_ids()  # here: autocast is another one in each thread

            def prepare(start: int) -> tuple[int, np.ndarray, np.ndarray, Plan]:
                ids, lengths = token_ids(texts[start : start + ENCODE_BLOCK], start, prompt)
                return start, ids, lengths, plan_chunks(lengths, batch_tokens, packed)

            for start, ids, lengths, plan in ahead(prepare, range(0, len(texts), ENCODE_BLOCK)):
                self.counts.update(texts=len(lengths), cut=int((lengths >= self.max_length).sum()))
                skip_N = None if self.settings.include_prompt or not skip else np.full_like(lengths, skip)
                placed = place(torch.from_numpy(ids), lengths, plan, self.device, skip_N)
                parts = []
                for chunk, part in zip(placed.chunks, self.embed_chunks(placed), strict=True):
                    parts.append(part)
                    bar.update(len(chunk))
                x_ND = torch.cat(parts)[placed.back_N, : self.dimensions]
                x_ND = nn.functional.normalize(x_ND, dim=-1) if normalize else x_ND
                result_ND[start : start + len(lengths)] = to_host(x_ND)  # the one wait of a block
        return result_ND

    def embed_chunks(self, placed: Placed) -> Iterator[Tensor]:
        """`embed` of each chunk; of frozen layers one chunk a thread, since the steps between products are short."""
        threads = torch.get_num_threads()
        if not self.frozen_in_use or threads == 1 or len(placed.chunks) < 2 * threads:
            yield from (self.embed(placed, chunk) for chunk in placed.chunks)
            return

        @torch.inference_mode()  # a thread has a mode of its own
        def embed(chunk: range) -> Tensor:
            return self.embed(placed, chunk)

        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
                yield from workers.map(embed, placed.chunks)
        finally:
            torch.set_num_threads(threads)  # what a thread sets is also what new ones begin with

    @contextmanager
    def inference_in(self, precision: str):
        """Within, `embed` computes in this precision, by frozen layers where they fit. UserError for int8 where not."""
        if on_cuda(self.device) or not self.packed or precision == "fp16":
            reason = "it is for packed texts on a CPU"
        else:
            reason = why_not(self.lm, precision)
        if reason is not None:
            if precision == "int8":
                raise UserError(f"precision=int8 cannot be: {reason}; choose fp32 or bf16")
            with self.computing_in(AUTOCAST[precision]):
                yield
            return
        if self.frozen is None or not self.frozen.serves(self.lm, precision):
            self.frozen = None  # first, or both would be there at once
            self.frozen = FrozenLayers(self.lm, precision, self.calibration() if precision == "int8" else None)
        self.frozen_in_use = True
        try:
            yield
        finally:
            self.frozen_in_use = False

    def calibration(self) -> tuple[Tensor, Runs]:
        """What the first layer gets of `calibration_texts`, [T, D], and the runs of their lengths."""
        ids, lengths = self.token_ids()(calibration_texts(self.tokenizer, min(self.max_length, 512)), 0, "")
        order = np.argsort(-lengths, kind="stable")
        starts = torch.from_numpy((lengths.cumsum() - lengths)[order])
        ids, positions, runs, _ = self.pack(
            torch.from_numpy(ids), starts, torch.from_numpy(lengths[order]), lengths[order]
        )
        return first_hidden(self.lm, ids, positions), runs

    @contextmanager
    def computing_in(self, dtype: torch.dtype | None):
        """Within, the language model multiplies in this type; None changes nothing.

        On a GPU by a copy of its weights: so the activations between the products are as narrow, and no cast is left.
        Elsewhere by one autocast context, which casts each weight once and keeps sums and normalisation in float32.
        """
        if dtype is None:
            yield
        elif on_cuda(self.device):
            with cast_weights(self.lm, dtype):
                yield
        else:
            with torch.autocast(self.device.type, dtype):
                yield

    def token_ids(self) -> FastIds:
        """What gives the ids of `tokenize` end to end; kept for as long as tokenizer and length stay the same."""
        if self.fast_ids is None or not self.fast_ids.serves(self.tokenizer, self.max_length):
            self.fast_ids = FastIds(self.tokenizer, self.max_length)
        return self.fast_ids

    def save(self, folder: str | Path) -> None:
        """Weights (safetensors), configuration and tokenizer, as `from_pretrained` and transformers read them."""
        transformers_logging.disable_progress_bar()
        if self.unused_pooler is not None:
            self.lm.pooler = self.unused_pooler
        self.lm.save_pretrained(folder)
        if self.unused_pooler is not None:
            self.lm.pooler = nn.Identity()
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.model_max_length = self.max_length
        tokenizer.save_pretrained(folder)


ENCODE_BLOCK = 8_192  # texts tokenised at a time

Item = TypeVar("Item")


def ahead(make: Callable[[int], Item], numbers: Sequence[int]) -> Iterator[Item]:
    """make(number) of each number in order; the next one is made in a thread while the caller works with one."""
    with ThreadPoolExecutor(1) as thread:
        coming = None
        for number, following in zip_longest(numbers, numbers[1:]):
            item = make(number) if coming is None else coming.result()
            coming = None if following is None else thread.submit(make, following)
            yield item


LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
NEW_LOCK = threading.Lock()


def lock_of(module: nn.Module) -> threading.RLock:
    """The one lock of a module, kept beside it: a lock within could be neither copied nor pickled."""
    with NEW_LOCK:
        return LOCKS.setdefault(module, threading.RLock())


@contextmanager
def cast_weights(module: nn.Module, dtype: torch.dtype):
    """Within, the floating-point parameters of a module are copies in this type; buffers stay as they are.

    The parameters themselves are put aside, not changed: gradients, an optimizer and DDP, which hangs on them, see
    nothing of it. The copies are made anew each time, so they never are those of an earlier training step.
    """
    kept = [(part, dict(part.named_parameters(recurse=False))) for part in module.modules()]
    copies = {p: nn.Parameter(p.detach().to(dtype), False) for p in module.parameters() if p.is_floating_point()}
    try:
        for part, parameters in kept:
            for name, parameter in parameters.items():
                setattr(part, name, copies.get(parameter, parameter))
        yield
    finally:
        for part, parameters in kept:
            for name, parameter in parameters.items():
                setattr(part, name, parameter)


def to_host(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()


@contextmanager
def evaluating(module: nn.Module):
    """Switches dropout off, and puts each submodule's own mode back afterwards, after an error too."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def cut_line(counts: Counter[str], max_length: int) -> str:
    """How many of the texts that `Encoder.counts` holds were cut, or end just there; nothing where none was."""
    if not counts["cut"]:
        return ""
    share = f"{counts['cut']:,} of {counts['texts']:,} texts"
    return f"{share} have {max_length:,} tokens or more: what is beyond was cut"


def mean_behind(hidden_TD: Tensor, lengths: Tensor, skip: Tensor) -> Tensor:
    """The mean of each text's rows but its first `skip`, in at least float32: [n, D]; 0 where none is left."""
    total = len(hidden_TD)
    text = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=total)
    within = torch.arange(total, device=lengths.device) - (lengths.cumsum(0) - lengths)[text]
    rows_TD = hidden_TD.to(at_least_float32(hidden_TD)) * (within >= skip[text])[:, None]
    sum_nD = rows_TD.new_zeros(len(lengths), hidden_TD.shape[1]).index_add(0, text, rows_TD)
    return sum_nD / (lengths - skip).clamp(min=1)[:, None]


def native_bf16(device_type: str) -> bool:
    """Whether bfloat16 matrix products run on this machine's own instructions, where they are 2-3x float32."""
    if device_type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_bf16_supported()
