"""The encoder: a language model with mean pooling (Eqs. 1-2), run over length-sorted chunks under a token budget.

A chunk is packed, its texts end to end without padding, where `gte.attention` knows the language model to be right that
way; otherwise it is padded to its longest text, which costs a few percent since texts are sorted by length.

Shapes: N texts, T tokens of all texts end to end, L tokens of the longest text in a chunk, D width.
"""

import copy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from gte.attention import Runs, at_least_float32, first_position, use_packed_attention
from gte.chunks import Plan, plan_chunks
from gte.errors import UserError
from gte.fused import use_fused_layers
from gte.pretrained import Settings, load_pretrained, usable_positions
from gte.recompute import run_again, separate_casts

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Encoder(nn.Module):
    """E(x): mean over a text's tokens, special tokens included, of the language model's last layer (Eqs. 1-2).

    settings: what its files say of its vectors; max_length overrides theirs. padding_free: whether chunks are packed;
    None does so on a CPU where `gte.attention` knows how. compile: whether torch.compile works on the language model,
    on padded chunks unless told otherwise.
    """

    def __init__(
        self,
        lm: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        padding_free: bool | None = None,
        compile: bool = False,
        settings: Settings | None = None,
    ):
        super().__init__()
        settings = settings or Settings()
        self.settings = settings if max_length is None else replace(settings, max_length=max_length)
        positions = usable_positions(lm.config)
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
        self.padding_free = False if not packs or (compile and padding_free is None) else padding_free
        if compile:
            lm.compile(dynamic=True)
        else:
            use_fused_layers(lm)
        # BERT's pooler takes no part in mean pooling and would get no gradient; it is kept for `save` alone, since
        # other programs expect it in a BERT
        self.unused_pooler = getattr(lm, "pooler", None)
        if self.unused_pooler is not None:
            self.unused_pooler.requires_grad_(False)
            lm.pooler = None
        self.tokenizer = tokenizer
        self.width = lm.config.hidden_size
        self.pad_id = tokenizer.pad_token_id or 0

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, max_length: int = 512, trust_remote_code: bool = False, **options
    ) -> "Encoder":
        """A transformers or sentence-transformers directory, or a name on the hub; `options` as of the class.

        A directory that states a shorter length of its own keeps it: `max_length` is an upper bound.
        Raises UserError where nothing loads, and where the directory pools in another way than by the mean.
        Python files that a model brings along are run only with `trust_remote_code`.
        """
        lm, tokenizer, settings = load_pretrained(name_or_path, max_length, trust_remote_code)
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

        intermediate_size: None is BERT's 4 * hidden_size.
        """
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
    def device(self) -> torch.device:
        return next(self.lm.parameters()).device

    @property
    def packed(self) -> bool:
        """Whether chunks are packed: padding_free, or the choice that it leaves."""
        return self.device.type == "cpu" if self.padding_free is None else self.padding_free

    def plan(self, lengths_N: np.ndarray, batch_tokens: int) -> Plan:
        """The chunks that `forward` takes for texts of these lengths."""
        return plan_chunks(lengths_N, batch_tokens, self.packed)

    def forward(self, ids_T: Tensor, lengths_N: Tensor, plan: Plan, recompute_fraction: float = 0.0) -> Tensor:
        """Embeddings [N, D], at least float32, of N texts given as token ids end to end, special tokens included.

        A share `recompute_fraction` of the chunks keeps no activations and is run again in the backward pass with the
        same dropout: with 1.0 the memory is that of one chunk, with one backward and the same gradients.
        """
        starts_N = lengths_N.cumsum(0) - lengths_N
        # the longest chunks first: they hold the most activations
        again = round(recompute_fraction * len(plan.chunks)) if torch.is_grad_enabled() else 0
        chunks = list(map(torch.from_numpy, plan.chunks))

        def embed(rows: Tensor) -> Tensor:
            return self.embed(ids_T, starts_N[rows], lengths_N[rows])

        with separate_casts():
            trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
            pooled = [run_again(embed, chunks[:again], trained, self.device)] if again else []
            pooled += map(embed, chunks[again:])
        sorted_ND = torch.cat(pooled) if pooled else torch.empty(0, self.width, device=self.device)
        back = np.empty_like(plan.order)
        back[plan.order] = np.arange(len(plan.order))
        return sorted_ND[torch.from_numpy(back).to(sorted_ND.device)]

    def embed(self, ids_T: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings [n, D] of the texts of one chunk, longest first."""
        pool, arrange = (self.pool_packed, self.pack) if self.packed else (self.pool_padded, self.pad)
        return pool(*arrange(ids_T, starts, lengths))

    def pack(self, ids_T: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Runs]:
        """Token ids [1, T] of texts end to end, their positions [1, T], and the runs of equal length."""
        first = lengths.cumsum(0) - lengths
        within = torch.arange(int(lengths.sum())) - first.repeat_interleave(lengths)
        ids = ids_T[starts.repeat_interleave(lengths) + within].long()
        positions = within + first_position(self.lm.config)
        length, texts = torch.unique_consecutive(lengths, return_counts=True)
        runs = list(zip(texts.tolist(), length.tolist(), strict=True))
        return *(x[None].to(self.device, non_blocking=True) for x in (ids, positions)), runs

    def pad(self, ids_T: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Token ids [n, L], and their mask [n, L], which is None where there is no padding."""
        longest, shortest = int(lengths.max()), int(lengths.min())
        columns = torch.arange(longest)
        index = starts[:, None] + columns
        if longest == shortest:
            return ids_T[index].to(self.device, torch.int64, non_blocking=True), None
        mask = columns < lengths[:, None]
        ids = torch.where(mask, ids_T[index.clamp_(max=len(ids_T) - 1)].long(), self.pad_id)
        return ids.to(self.device, non_blocking=True), mask.to(self.device, non_blocking=True)

    def pool_packed(self, ids: Tensor, positions: Tensor, runs: Runs) -> Tensor:
        """Eq. 1, then Eq. 2, summed in float32: [n, D]."""
        hidden_TD = self.lm(input_ids=ids, position_ids=positions, runs=runs).last_hidden_state[0]
        parts = hidden_TD.split([texts * length for texts, length in runs])
        dtype = at_least_float32(hidden_TD)
        return torch.cat([part.unflatten(0, run).mean(1, dtype=dtype) for part, run in zip(parts, runs, strict=True)])

    def pool_padded(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The same over a mask."""
        hidden = self.lm(input_ids=ids, attention_mask=None if mask is None else mask.long()).last_hidden_state
        if mask is None:
            return hidden.mean(1, dtype=at_least_float32(hidden))
        sum_nD = (hidden * mask[..., None]).sum(1, dtype=at_least_float32(hidden))
        return sum_nD / mask.sum(1, keepdim=True)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids with special tokens, each text cut at `max_length`."""
        return self.tokenizer(
            texts,
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
    ) -> np.ndarray:
        """Embeddings float32 [N, D] in the caller's order; unit length where `normalize`.

        `precision` is fp32 (default), bf16 or fp16: the arithmetic of the language model; pooling stays float32.
        `batch_tokens`: tokens of a chunk, padding included; None suits the device.
        Texts are tokenised and encoded in blocks, so memory beyond the result does not grow with N.
        """
        if isinstance(texts, str):
            raise TypeError("encode takes a list of texts, got one str")
        if batch_tokens is None:  # small chunks stay in a processor's cache and pad little; a GPU wants to be filled
            batch_tokens = max(2_048 if self.device.type == "cpu" else 65_536, self.max_length)
        training = self.training
        self.eval()
        dtype = AUTOCAST[precision or "fp32"]
        # one context over all chunks: autocast then casts each weight once, not once a chunk
        autocast = torch.autocast(self.device.type, dtype) if dtype else nullcontext()
        result_ND = np.empty((len(texts), self.width), dtype=np.float32)
        with autocast, tqdm(total=len(texts), unit=" texts", disable=not progress, leave=False) as bar:
            for start in range(0, len(texts), ENCODE_BLOCK):
                ids = self.tokenize(list(texts[start : start + ENCODE_BLOCK]))
                lengths = np.fromiter(map(len, ids), np.int64, len(ids))
                flat = np.concatenate([np.asarray(i, dtype=np.int64) for i in ids])
                flat_T, lengths_N = torch.from_numpy(flat), torch.from_numpy(lengths)
                starts_N = lengths_N.cumsum(0) - lengths_N
                for rows in self.plan(lengths, batch_tokens).chunks:
                    index = torch.from_numpy(rows)
                    x = self.embed(flat_T, starts_N[index], lengths_N[index])
                    x = nn.functional.normalize(x, dim=-1) if normalize else x
                    result_ND[start + rows] = x.cpu().numpy()
                    bar.update(len(rows))
        self.train(training)
        return result_ND

    def save(self, folder: str | Path) -> None:
        """Weights (safetensors), configuration and tokenizer, as `from_pretrained` and transformers read them."""
        transformers_logging.disable_progress_bar()
        if self.unused_pooler is not None:
            self.lm.pooler = self.unused_pooler
        self.lm.save_pretrained(folder)
        if self.unused_pooler is not None:
            self.lm.pooler = None
        tokenizer = copy.deepcopy(self.tokenizer)
        tokenizer.model_max_length = self.max_length
        tokenizer.save_pretrained(folder)


ENCODE_BLOCK = 65_536  # texts tokenised at a time


def native_bf16(device_type: str) -> bool:
    """Whether bfloat16 matrix products run on this machine's own instructions, where they are 2-3x float32."""
    if device_type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.cuda.is_bf16_supported()
