"""Exact generated-token counts inside lm-eval, from the sampled ids.

lm-eval 0.4.13 hands tasks text alone: end-of-sequence and special tokens are gone, and tokenizing the text
again gives other counts. `install` wraps the Hugging Face backend (calling through to it) so that the
responses to our tasks are `Generation`s, strings that carry the sampled ids and the finish reason. Other
people's tasks are left as they are.

Counts include the end-of-sequence token, as the completion lengths in training do.
"""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from attnpo.errors import AttnPOError
from attnpo.steps import THINK_END, token_bytes_table

logger = logging.getLogger(__name__)

TASK_PREFIX = "attnpo_"
"""Tasks whose name starts so get exact counts. The field "text" of their documents is the bare prompt."""


class TokenCounts(NamedTuple):
    """Tokens of a response. `total` is thinking, `</think>` and answer; the end of sequence is answer."""

    total: int
    thinking: int
    answer: int


def count_tokens(ids: Sequence[int], table: Sequence[bytes]) -> TokenCounts:
    """Split T sampled ids at their first `</think>`, found by the bytes they stand for.

    Tokens that share a byte with the tag are in neither part. Without a tag all is thinking.

    Args:
        ids: the sampled ids, end-of-sequence included, without prompt and padding.
        table: `attnpo.steps.token_bytes_table(tokenizer)`; an id beyond it stands for no bytes.
    """
    pieces = [table[i] if i < len(table) else b"" for i in ids]
    tag_start = b"".join(pieces).find(THINK_END.encode())
    if tag_start < 0:
        return TokenCounts(len(pieces), len(pieces), 0)
    tag_end = tag_start + len(THINK_END)
    ends = list(accumulate(map(len, pieces)))
    thinking = sum(end <= tag_start for end in ends)
    answer = sum(end - len(piece) >= tag_end for end, piece in zip(ends, pieces, strict=True))
    return TokenCounts(len(pieces), thinking, answer)


def cut_at_end(row: Sequence[int], end_ids: Collection[int]) -> tuple[list[int], str]:
    """What was sampled of a padded row: ids up to and with the first of `end_ids`, and "stop" or "length"."""
    for position, token in enumerate(row):
        if token in end_ids:
            return list(row[: position + 1]), "stop"
    return list(row), "length"


class Generation(str):
    """A response's text, with what lm-eval drops. Behaves as the plain string everywhere else."""

    ids: np.ndarray
    """(T,) int32, the sampled ids, end-of-sequence included."""
    finish: str
    """"stop": ended by itself; "length": cut off by the token budget."""
    counts: TokenCounts

    @classmethod
    def make(cls, text: str, ids: Sequence[int], finish: str, counts: TokenCounts) -> Generation:
        """Attach ids (T,), finish reason and counts to `text`."""
        generation = cls(text)
        generation.ids = np.asarray(ids, dtype=np.int32)
        generation.finish = finish
        generation.counts = counts
        return generation


def install() -> None:
    """Make lm-eval's Hugging Face backend return `Generation`s for our tasks; safe to call again.

    Requests whose `until` names stop strings stay plain text, since lm-eval cuts that text and the ids
    would not match. A prompt that lacks the model's chat template gets it: without the flag
    `--apply_chat_template` a reasoning model would be asked in a form that it was never trained on.
    """
    from lm_eval.models.huggingface import HFLM

    original = HFLM.generate_until
    if getattr(original, "_attnpo_counts", False):
        return

    @functools.wraps(original)
    def generate_until(self: Any, requests: list[Any], *args: Any, **kwargs: Any) -> list[str]:
        ours = [request for request in requests if _is_ours(request)]
        if not ours or self.backend != "causal":
            return original(self, requests, *args, **kwargs)
        _apply_missing_chat_template(self, ours)
        with _recording(self) as recorded:
            texts = original(self, requests, *args, **kwargs)
        return _attach(self, requests, texts, recorded)

    generate_until._attnpo_counts = True  # type: ignore[attr-defined]
    HFLM.generate_until = generate_until


def _is_ours(request: Any) -> bool:
    return (request.task_name or "").startswith(TASK_PREFIX)


def _apply_missing_chat_template(lm: Any, requests: list[Any]) -> None:
    if not getattr(lm.tokenizer, "chat_template", None):
        return
    bare = [request for request in requests if request.args[0] == request.doc["text"]]
    if bare:
        logger.warning("the prompts lack the model's chat template; it is applied, as by --apply_chat_template")
    # A request stands in the list once for each repeat.
    for request in {id(request): request for request in bare}.values():
        prompt = lm.apply_chat_template([{"role": "user", "content": request.doc["text"]}])
        request.arguments = (prompt, *request.args[1:])


class _Recorded(NamedTuple):
    rows: list[list[int]]
    """Ids after the prompt, with padding, in the order of generation."""
    keys: list[tuple[str, str]]
    """(prompt, text as lm-eval returns it), in the same order."""


@contextmanager
def _recording(lm: Any) -> Iterator[_Recorded]:
    """Note what `lm` generates; its cache hook hears of each prompt and text in the order of generation."""
    recorded = _Recorded([], [])
    before = {name: vars(lm)[name] for name in ("_model_generate", "cache_hook") if name in vars(lm)}
    generate, hook = lm._model_generate, lm.cache_hook

    def recording_generate(context: Any, *args: Any, **kwargs: Any) -> Any:
        output = generate(context, *args, **kwargs)
        recorded.rows.extend(output[:, context.shape[1] :].tolist())
        return output

    class Hook:
        @staticmethod
        def add_partial(attr: str, request: Any, text: str) -> None:
            recorded.keys.append((request[0], text))
            hook.add_partial(attr, request, text)

    lm._model_generate, lm.cache_hook = recording_generate, Hook
    try:
        yield recorded
    finally:
        del lm._model_generate, lm.cache_hook
        vars(lm).update(before)


def _attach(lm: Any, requests: list[Any], texts: list[str], recorded: _Recorded) -> list[str]:
    """Give each text its ids. Equal prompts with equal texts are exchangeable, so the pair is key enough."""
    if len(recorded.rows) != len(recorded.keys):
        raise AttnPOError(
            f"lm-eval generated {len(recorded.rows)} rows, told of {len(recorded.keys)}; install lm-eval==0.4.13"
        )
    rows: dict[tuple[str, str], list[list[int]]] = defaultdict(list)
    for key, row in zip(recorded.keys, recorded.rows, strict=True):
        rows[key].append(row)
    table = token_bytes_table(lm.tokenizer)
    end_ids = _end_ids(lm)
    attached: list[str] = []
    for request, text in zip(requests, texts, strict=True):
        row = rows[request.args[0], text].pop()
        if not _is_ours(request) or request.args[1].get("until"):
            attached.append(text)
            continue
        ids, finish = cut_at_end(row, end_ids)
        # Decoded anew because lm-eval skips special tokens, and to some tokenizers `</think>` is one.
        whole = lm.tokenizer.decode(
            ids[:-1] if finish == "stop" else ids,
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        attached.append(Generation.make(whole, ids, finish, count_tokens(ids, table)))
    return attached


def _end_ids(lm: Any) -> set[int]:
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {token for token in [*ends, lm.eot_token_id] if token is not None}
