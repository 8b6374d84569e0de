"""The encoder: a language model with pooling (Eqs. 1-2: the mean), run over length-sorted chunks under a token budget.

A chunk is packed, its texts end to end without padding, where `gte.attention` knows the language model to be right that
way; otherwise it is padded to its longest text, which costs a few percent since texts are sorted by length.

Shapes: N texts, T tokens of all texts end to end, L tokens of the longest text in a chunk, D width.
"""

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from gte.attention import Runs, flash_fits, no_mask, takes_mask_as_it_is, use_packed_attention
from gte.chunks import Placed, Plan, place, plan_chunks
from gte.errors import UserError
from gte.inputs import pack, pad
from gte.models.encoding import encode
from gte.models.fast_ids import FastIds
from gte.models.frozen import FrozenLayers, first_hidden
from gte.models.fused import use_fused_layers
from gte.models.pretrained import POOLINGS, load_pretrained
from gte.pooling import pool_packed, pool_padded
from gte.positions import check_length
from gte.prompts import find_prompt
from gte.recompute import run_again, separate_casts
from gte.settings import Settings


class Encoder(nn.Module):
    """Embed texts by a language model and a pooling of its last layer, the mean over all tokens in the paper.

    Args:
        lm: a transformers model without a head, such as BertModel.
        tokenizer: its fast tokenizer.
        max_length: tokens of a text, special tokens included; None is that of `settings`.
        padding_free: whether chunks are packed, texts end to end without padding; None packs them where `gte.attention`
            supports the model, on a GPU in half precision only.
        compile: whether torch.compile runs the language model; chunks are then padded, since packed ones would be
            compiled again for each mix of lengths.
        settings: the model's own length, pooling and prompts; `Settings()` by default.
        pooling: mean, cls (a text's first token) or last (its last token); None is that of `settings`.
    Raises: UserError for an unknown pooling, for a max_length beyond the model's positions, and where padding_free is
        not known to be right for this kind of model.
    Source: Eqs. 1 and 2, Section 3.1.

    >>> from gte.data.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer(["text embeddings", "contrastive learning"], vocab_size=64)
    >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    >>> model.encode(["a text", "another text", "learning"]).shape
    (3, 16)
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
        check_length(self.max_length, lm)
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
        """Of a copy, or a pickle: without what is quickly made again, and is no one else's to change."""
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
        """Load a transformers or sentence-transformers directory, or a model of the hub by its name.

        The model's files are obeyed (pooling, prompts, length, truncation); see
        `gte.models.pretrained.load_pretrained`.

        Args:
            name_or_path: a local directory, or owner/name on the hub.
            max_length: upper bound of the tokens of a text, special tokens included; None is the model's own.
            trust_remote_code: whether Python files that the model brings along are run.
            revision: branch, tag or commit on the hub; None is the newest.
            options: `padding_free`, `compile` and `pooling`, as of the class.
        Returns: the encoder, in eval mode, on the CPU.
        Raises: UserError where nothing loads, and where the vectors would not be the model's own.

        >>> import tempfile
        >>> from gte.data.tokenizer import train_tokenizer
        >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
        >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(folder)
        ...     loaded = Encoder.from_pretrained(folder)
        >>> bool((loaded.encode(["text"]) == model.encode(["text"])).all())
        True
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
        """Make a BERT with random weights, drawn from torch's global generator, over a tokenizer's vocabulary.

        Args:
            tokenizer: its vocabulary decides the size of the embedding table.
            hidden_size: D, width of the vectors.
            num_hidden_layers: layers of the language model.
            num_attention_heads: attention heads a layer; they must divide hidden_size.
            intermediate_size: width of the feed-forward layers; None is BERT's 4 * hidden_size.
            max_length: tokens of a text, and positions of the model.
            dropout: of hidden states and of attention, from 0 to less than 1.
            options: `padding_free`, `compile`, `settings` and `pooling`, as of the class.
        Raises: UserError where the heads do not divide the width.

        >>> from gte.data.tokenizer import train_tokenizer
        >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
        >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
        >>> model.dimensions, model.max_length, model.settings.pooling
        (16, 512, 'mean')
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
        """The device that the language model's weights are on."""
        return next(self.lm.parameters()).device

    @property
    def computing_dtype(self) -> torch.dtype:
        """The type that the language model multiplies in now: autocast's, else that of its weights."""
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
        where = (placed.ids_T, placed.starts_N[rows], lengths, placed.host_lengths_N[rows])
        if placed.packed:
            ids, positions, runs, offsets = pack(*where, self.lm.config)
            hidden_TD = self.hidden_packed(ids, positions, runs, offsets)
            return pool_packed(hidden_TD, runs, lengths, skip, self.settings.pooling)
        ids, mask = pad(*where, self.pad_id)
        return pool_padded(self.hidden_padded(ids, mask), mask, lengths, skip, self.settings.pooling)

    def hidden_packed(self, ids: Tensor, positions: Tensor, runs: Runs, offsets: Tensor | None) -> Tensor:
        """Eq. 1: the last layer's hidden states [T, D] of texts end to end."""
        if self.frozen_in_use:
            return self.frozen(first_hidden(self.lm, ids, positions), runs)
        mask = no_mask(self.lm.config)
        output = self.lm(input_ids=ids, attention_mask=mask, position_ids=positions, runs=runs, offsets=offsets)
        return output.last_hidden_state[0]

    def hidden_padded(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """The same over a mask: [n, L, D]."""
        if mask is None:
            attention_mask = None
        elif takes_mask_as_it_is(self.lm):  # of [n, L] transformers asks the device whether it masks anything at all
            attention_mask = mask[:, None, None]
        else:
            attention_mask = mask.long()
        return self.lm(input_ids=ids, attention_mask=attention_mask).last_hidden_state

    def tokenize(self, texts: list[str], prompt: str = "") -> list[list[int]]:
        """Tokenize texts with special tokens, each text cut at `max_length`, its prompt counted.

        Args:
            texts: N texts.
            prompt: words that are put before each text.
        Returns: a list of token ids a text.

        >>> from gte.data.tokenizer import train_tokenizer
        >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
        >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = Encoder.from_scratch(tokenizer, **sizes, max_length=4)
        >>> [tokenizer.convert_ids_to_tokens(ids) for ids in model.tokenize(["text", "t x t"])]
        [['[CLS]', 'text', '[SEP]'], ['[CLS]', 't', 'x', '[SEP]']]
        """
        return self.tokenizer(
            [prompt + text for text in texts] if prompt else texts,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]

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
        """Embed texts, without gradient and without dropout, in the caller's order.

        Texts are tokenised and encoded in blocks, so memory beyond the result does not grow with N; the next block is
        tokenised while one is encoded. Calls from several threads wait for each other: the mode of the modules, which
        is put back at the end, is one for all.

        Args:
            texts: N texts.
            batch_tokens: tokens of a chunk, padding included; None suits the device.
            normalize: whether the vectors get unit length, so that inner products are cosines.
            precision: arithmetic of the language model: fp32 (default), bf16, fp16 or int8; pooling stays float32. On a
                CPU a BERT's layers are laid out once for it (`gte.models.frozen`) and kept so for the next call, which
                takes the memory of their weights again; int8 is for these models alone.
            progress: whether a progress bar is shown.
            prompt_name: name of the model's prompt that is put before each text; None is its default one, as in
                sentence-transformers.
            prompt: words before each text in place of a named prompt; "" is none.
        Returns: float32 [N, D], D = `dimensions`.
        Raises: TypeError for what is no text; UserError for an unknown precision, for int8 where the model does not
            allow it, and for a prompt_name that the model does not have.

        >>> from gte.data.tokenizer import train_tokenizer
        >>> tokenizer = train_tokenizer(["text embeddings", "contrastive learning"], vocab_size=64)
        >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> x_ND = model.encode(["text", "learning", "text"])
        >>> cosines_NN = x_ND @ x_ND.T
        >>> bool(cosines_NN[0, 2] > 0.999 > cosines_NN[0, 1])
        True
        """
        return encode(
            self,
            texts,
            batch_tokens=batch_tokens,
            normalize=normalize,
            precision=precision or "fp32",
            progress=progress,
            prompt=find_prompt(self.settings, prompt_name, prompt),
        )

    def token_ids(self) -> FastIds:
        """The object that gives the ids of `tokenize` end to end; kept while tokenizer and length stay the same."""
        if self.fast_ids is None or not self.fast_ids.serves(self.tokenizer, self.max_length):
            self.fast_ids = FastIds(self.tokenizer, self.max_length)
        return self.fast_ids

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors), configuration and tokenizer, as `from_pretrained` and transformers read them.

        Args:
            folder: the directory, made where it is not there.

        >>> import tempfile
        >>> from pathlib import Path
        >>> from gte.data.tokenizer import train_tokenizer
        >>> tokenizer = train_tokenizer(["text embeddings"], vocab_size=64)
        >>> model = Encoder.from_scratch(tokenizer, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(folder)
        ...     (Path(folder) / "model.safetensors").exists()
        True
        """
        transformers_logging.disable_progress_bar()
        if self.unused_pooler is not None:
            self.lm.pooler = self.unused_pooler
        self.lm.save_pretrained(folder)
        if self.unused_pooler is not None:
            self.lm.pooler = nn.Identity()
        tokenizer = copy.copy(self.tokenizer)  # a deep copy reads its rules as JSON, and scores of words inexactly
        tokenizer.model_max_length = self.max_length
        tokenizer.save_pretrained(folder)
