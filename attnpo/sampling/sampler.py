"""Sample responses: prompt token ids in; for each response its token ids and its finish reason out, as they come.

`attnpo.sampling.transformers` and `attnpo.sampling.vllm` sample in this process, `attnpo.sampling.processes` in
several, and `attnpo.sampling.backends` chooses. `attnpo.evaluation.server` asks a server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self

from attnpo.errors import AttnPOError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Sample(NamedTuple):
    """One sampled response."""

    ids: list[int]
    """Without padding; the end token, if it was sampled, is the last one. Empty if a server gives text alone."""
    finish: Literal["stop", "length"] | None
    """`stop`: an end token was sampled; `length`: the budget of new tokens ran out first; None: a server that does not
    say so."""
    text: str | None = None
    """The text by a server's account; None: it is what the ids say."""
    usage: int | None = None
    """Number of tokens by a server's account."""


class Sampler(Protocol):
    """A model that samples. A context manager: at its end, or with `close`, the memory of the model is given back."""

    unit: int
    """Responses in a row that share one stream of random numbers, from the first on. Whoever wants one of them again
    asks for all of them."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        k: int = 1,
        temperature: float,
        top_p: float = 1.0,
        max_new_tokens: int,
        seeds: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[int, int, Sample]]:
        """Sample k responses to each of N prompts; no top-k cut is made unless `options` ask for it.

        Args:
            prompts: token ids without padding, from `prompt_ids` or with a part of the response behind them.
            k: responses to each prompt.
            temperature: 0 is greedy decoding.
            top_p: nucleus.
            max_new_tokens: budget of each response in tokens, the end token included.
            seeds: N * k of them, one for each response, those of a prompt side by side; of each `unit` responses the
                first one's seed counts. None: random numbers that nobody can draw again.
            options: more of how to decode, by the backend's own names, such as `top_k`, `min_p`, `repetition_penalty`.

        Raises:
            AttnPOError: a prompt and the budget do not fit into the model's context.

        Yields:
            number of the prompt, number of the response to it (both from 0) and the response, as they come.
        """
        ...

    def close(self) -> None:
        """Give back the memory of the model; the sampler is of no use any more."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def check_room(prompts: Iterable[Sequence[int]], max_new_tokens: int, context: int | None) -> None:
    """Check that each prompt and its response fit into a context of so many tokens; None: no limit is known.

    Raises:
        AttnPOError: they do not.
    """
    longest = max(map(len, prompts), default=0)
    if context is not None and longest + max_new_tokens > context:
        raise AttnPOError(
            f"a prompt of {longest} tokens and a budget of {max_new_tokens} exceed the model's context of {context} "
            "tokens; lower the budget, or load the model with a longer context"
        )


def prompt_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of N prompts: each text as the user's turn in the chat template, then the start of the answer."""
    conversations = [[{"role": "user", "content": text}] for text in texts]
    encoded: Any = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=True)
    return [list(ids) for ids in encoded["input_ids"]]


def text_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a response. Think tags stay, even as special tokens; end tokens and padding at its end go."""
    end = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    kept = list(ids)
    while kept and kept[-1] in end:
        kept.pop()
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def cut_at_end(row: Sequence[int], end_ids: Collection[int]) -> Sample:
    """The response in a row that is padded behind it: the ids up to and including the first of `end_ids`."""
    for position, token in enumerate(row):
        if token in end_ids:
            return Sample(list(row[: position + 1]), "stop")
    return Sample(list(row), "length")
