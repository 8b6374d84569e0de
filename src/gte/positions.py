"""Where a language model's positions begin: at 0, or behind the padding id, as RoBERTa's and those of its kin do.

One table for two uses: how many tokens a text may have, and the position ids of texts that are packed end to end.

Shapes: T tokens of all texts end to end.
"""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from gte.errors import UserError

# kinds whose first token has the position of the padding id + 1; of a table of 514 rows 512 are then usable
BEHIND_PADDING = {
    "camembert",
    "data2vec-text",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
FIXED = {"mpnet": 1}  # the padding id that a kind's code states, whatever its configuration says


def padding_id(config: PretrainedConfig) -> int:
    """The id that a kind of BEHIND_PADDING does not count, and behind which its positions begin."""
    return FIXED.get(config.model_type, config.pad_token_id)


def first_position(lm: nn.Module) -> int:
    """The position of a text's first token. Of a kind that is not in the table, its embeddings say it."""
    if lm.config.model_type in BEHIND_PADDING:
        return padding_id(lm.config) + 1
    for module in lm.modules():
        padding = getattr(module, "padding_idx", None)
        if isinstance(padding, int) and isinstance(getattr(module, "position_embeddings", None), nn.Module):
            return padding + 1
    return 0


def usable_positions(lm: nn.Module) -> int:
    """Count the tokens that a language model has positions for; 10**9 where it has no table of them."""
    positions = getattr(lm.config, "max_position_embeddings", None) or 0
    return positions - first_position(lm) if positions > 0 else 10**9  # XLNet's are -1


def check_length(max_length: int, lm: nn.Module) -> None:
    """Raises UserError for a length of texts that makes no sense, or is beyond a language model's positions."""
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 3:
        raise UserError(
            f"max_length={max_length} must be a whole number of tokens, at least 3: the special ones and one"
        )
    positions = usable_positions(lm)
    if max_length > positions:
        raise UserError(f"max_length={max_length} is more than the {positions} positions of this language model")


def position_ids(ids_T: Tensor, within_T: Tensor, config: PretrainedConfig) -> Tensor:
    """The positions [T] that transformers gives the tokens of texts end to end, each text on its own.

    within_T: the place of a token in its text, from 0. RoBERTa's kinds count the tokens that are not the padding id, so
    a text that spells `<pad>` does not move those behind it.
    """
    if config.model_type not in BEHIND_PADDING:
        return within_T
    padding = padding_id(config)
    real_T = (ids_T != padding).long()
    counted_T = real_T.cumsum(0)
    first_T = torch.arange(len(ids_T), device=ids_T.device) - within_T  # of a token's text
    return (counted_T - (counted_T - real_T)[first_T]) * real_T + padding
