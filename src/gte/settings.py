"""Settings of a model that decide its vectors besides its weights."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """Everything besides weights and tokenizer that decides a text's vector; kept by training and export.

    Args:
        max_length: tokens of a text, special tokens included; longer ones are cut.
        pooling: mean, cls or last.
        prompts: words that are put before a text, by kind (query, document, ...).
        default_prompt: the kind that is taken where none is asked for.
        include_prompt: whether the prompt's tokens are pooled.
        truncate_dim: how many of the first numbers of a vector are kept, None for all.

    >>> Settings(prompts={"query": "query: "}, default_prompt="query").pooling
    'mean'
    """

    max_length: int = 512
    pooling: str = "mean"
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
    truncate_dim: int | None = None
