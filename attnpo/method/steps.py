"""Thinking text to steps, and steps to the token ids that were sampled.

The rules and the phrase lists are those of the authors' published code (NieSYsc20/AttnPO, commit 8570952,
`verl/workers/reward_manager/segement.py`). Two deviations: one pass over the pieces instead of repeated list
slicing, so the work is linear in the text's length; and the alignment never tokenizes text again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import Enum, IntEnum
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

from attnpo.errors import AttnPOError

THINK_START = "<think>"
THINK_END = "</think>"


class StepKind(IntEnum):
    """Kind of the phrase that opens a step. DOUBT covers doubt and branch, as in the published boundaries."""

    DOUBT = 1
    FORWARD = 2
    BACKWARD = 3
    FINAL = 4


class Step(NamedTuple):
    """Characters `start:end` of the thinking; `trigger` is the phrase it opens with (None: a bare start)."""

    start: int
    end: int
    kind: int
    trigger: str | None


@dataclass(frozen=True)
class PhraseSet:
    """Trigger phrases, case-sensitive. Forward and backward ones count only right after a newline.

    Raises AttnPOError for an empty phrase, and for one that is listed twice.
    """

    doubt: tuple[str, ...] = ()
    branch: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()
    backward: tuple[str, ...] = ()
    final: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for field in fields(self):
            for phrase in getattr(self, field.name):
                if not phrase:
                    raise AttnPOError(f"empty phrase among the {field.name} phrases: remove it")
                if phrase in seen:
                    raise AttnPOError(f"phrase {phrase!r} is listed twice ({field.name}): keep one of them")
                seen.add(phrase)

    def kinds(self) -> dict[str, StepKind]:
        """Phrase -> kind of the step that it opens."""
        groups = {
            StepKind.DOUBT: self.doubt + self.branch,
            StepKind.FORWARD: self.forward,
            StepKind.BACKWARD: self.backward,
            StepKind.FINAL: self.final,
        }
        return {phrase: kind for kind, group in groups.items() for phrase in group}


# fmt: off
_DOUBT = (
    "Wait", "But", "However", "Hold on", "Looking back", "I don't see any errors",
    "Hmm, wait", "Hmm, no", "Hmm, but", "Hmm, just",
    "Hmm, let me double-check", "Hmm, let me verify", "Hmm, let me make sure", "Hmm, let me check",
    "Let me just double-check", "Let's double-check", "Let's just double-check", "Just to double-check",
    "Let me verify", "Let me just verify", "Let's verify", "Let's just verify", "Just to verify",
    "Let me confirm", "Let me just confirm", "Let's confirm", "Let's just confirm", "Just to confirm",
    "Let me check", "Let me just check", "Let's check", "Let's just check", "Just to check",
    "Let me recap", "Let me just recap", "Let's recap", "Let's just recap", "Just to recap",
    "Let me make sure", "Let me just make sure", "Let's make sure", "Just to make sure",
    "So, is", "Is it", "Is that right?", "Is there", "Right?",
)
_BRANCH = (
    "Alternatively", "Another approach", "Another way", "Another idea", "Another thought",
    "I guess another way", "I guess another approach", "Let me just think if there",
)
_FORWARD = (
    "Let me", "Let's", "I ", "We ", "Okay", "Hmm", "Now", "Alright",
    "First,", "First off,", "Second,", "Third,", "Starting", "Then", "Next", "Finally", "Similarly", "Again",
    "In this case", "Because", "Given that", "The problem gives", "To ", "Since",
)
_BACKWARD = ("So", "Therefore", "Thus", "Hence", "Hmm, so", "Okay, so", "Putting it all together")
_FINAL = ("**Final Answer",)
# fmt: on

# A comma is missing in the published list, which fuses two phrases into one that never occurs.
PHRASE_SETS: dict[str, PhraseSet] = {
    "published": PhraseSet((*_DOUBT, "No,Let me double-check"), _BRANCH, _FORWARD, _BACKWARD, _FINAL),
    "corrected": PhraseSet((*_DOUBT, "No,", "Let me double-check"), _BRANCH, _FORWARD, _BACKWARD, _FINAL),
}


def thinking_part(text: str) -> str:
    """The text before the first `</think>`; all of it where there is none (a truncated response)."""
    return text.split(THINK_END, 1)[0]


def unmerged_steps(thinking: str, phrases: str | PhraseSet = "corrected") -> list[Step]:
    """The pieces that phrases open, before short ones merge: a piece each phrase, and one for text before the first.

    Raises AttnPOError for an unknown phrase set.
    """
    pattern, kinds = _matcher(phrase_set(phrases))
    if not thinking:
        return []
    opened: list[tuple[int, StepKind, str | None]] = [(0, StepKind.FORWARD, None)]
    for match in pattern.finditer(thinking):
        start, phrase = match.start(), match.group()
        kind = kinds[phrase]
        # The start of the text is no newline: a forward or backward phrase there opens nothing.
        if kind in (StepKind.FORWARD, StepKind.BACKWARD) and not thinking.startswith("\n", start - 1 if start else 0):
            continue
        if start == 0:
            opened.clear()
        opened.append((start, kind, phrase))
    ends = [start for start, _, _ in opened[1:]] + [len(thinking)]
    return [Step(start, end, kind, phrase) for (start, kind, phrase), end in zip(opened, ends, strict=True)]


def split_steps(
    thinking: str, phrases: str | PhraseSet = "corrected", min_chars: int = 80, lone_trigger_chars: int = 15
) -> list[Step]:
    """Cut `thinking` (the text before `</think>`, tag excluded) into steps that tile it exactly.

    Every phrase opens a piece; a piece shorter than `min_chars` characters is then merged into a neighbour by
    kind, and a merged piece keeps the kind and phrase of its left part. Doubt goes right; forward goes right,
    backward left (right if at most `lone_trigger_chars` characters follow its phrase), but both go left when
    doubt, other than the last piece, follows. A final answer is never merged away, nor does anything go right
    into it. A piece that cannot go where it should stays. Text before the first phrase counts as forward.

    Returns [] for empty text. Work is linear in the text's length. Raises AttnPOError for an unknown phrase
    set. Source: the authors' published code (see the module), reproduced with phrases="published".
    """
    pieces = unmerged_steps(thinking, phrases)
    done: list[Step] = []
    waiting = iter(pieces[1:])
    left_over = len(pieces) - 1
    current = pieces[0] if pieces else None
    following = next(waiting, None)
    while current is not None:
        move = _merge_move(current, following, left_over == 1, bool(done), min_chars, lone_trigger_chars)
        if move is _Move.LEFT:
            current = done.pop()._replace(end=current.end)
            continue
        if move is _Move.RIGHT and following is not None:
            current = current._replace(end=following.end)
        else:
            done.append(current)
            current = following
        following = next(waiting, None)
        left_over -= 1
    return done


class _Move(Enum):
    STAY = 0
    LEFT = 1
    RIGHT = 2


def _merge_move(
    step: Step,
    following: Step | None,
    following_is_last: bool,
    has_left: bool,
    min_chars: int,
    lone_chars: int,
) -> _Move:
    if step.end - step.start >= min_chars or step.kind == StepKind.FINAL:
        return _Move.STAY
    right = _Move.RIGHT if following is not None and following.kind != StepKind.FINAL else _Move.STAY
    left = _Move.LEFT if has_left else _Move.STAY
    if step.kind == StepKind.DOUBT:
        return right
    # Published quirk: doubt that is the very last piece does not push its neighbour to the left.
    if following is not None and following.kind == StepKind.DOUBT and not following_is_last:
        return left
    if step.kind == StepKind.FORWARD:
        return right
    is_lone = step.end - step.start - len(step.trigger or "") <= lone_chars
    return right if is_lone and right is _Move.RIGHT else left


def phrase_set(phrases: str | PhraseSet) -> PhraseSet:
    """The phrase set of this name; one that is given as such is taken as it is.

    Raises:
        AttnPOError: there is none of this name.
    """
    if isinstance(phrases, PhraseSet):
        return phrases
    if phrases not in PHRASE_SETS:
        raise AttnPOError(f"unknown phrase set {phrases!r}: choose one of {', '.join(sorted(PHRASE_SETS))}")
    return PHRASE_SETS[phrases]


@cache
def _matcher(phrase_set: PhraseSet) -> tuple[re.Pattern[str], dict[str, StepKind]]:
    kinds = phrase_set.kinds()
    longest_first = sorted(kinds, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)"), kinds


class ThinkingAndAnswer(NamedTuple):
    """T token ids, split at their first `</think>`."""

    raw: bytes
    """The bytes that the ids stand for."""
    ends: list[int]
    """T entries, the position in `raw` after the bytes of each id."""
    tags: int
    """How many `</think>` are in `raw`."""
    tag_start: int
    """Where the first one begins, in bytes; the length of `raw` if there is none."""
    thinking: int
    """How many ids have all their bytes before the tag; without a tag, all T."""
    answer: int
    """How many ids have all their bytes after the tag; without a tag, 0."""


def split_at_think_end(ids: Sequence[int], table: Sequence[bytes]) -> ThinkingAndAnswer:
    """Find the first `</think>` in T token `ids` by the bytes that they stand for.

    `table` is `token_bytes_table(tokenizer)`; an id beyond it (a padded embedding row) stands for no bytes. Tokens
    that share a byte with the tag belong to neither part.
    """
    pieces = [table[i] if i < len(table) else b"" for i in ids]
    ends = list(accumulate(map(len, pieces)))
    raw = b"".join(pieces)
    before, tag, _ = raw.partition(THINK_END.encode())
    tag_start, tag_end = len(before), len(before) + len(tag)
    thinking = sum(end <= tag_start for end in ends)
    answer = sum(end - len(piece) >= tag_end for end, piece in zip(ends, pieces, strict=True)) if tag else 0
    return ThinkingAndAnswer(raw, ends, raw.count(THINK_END.encode()), tag_start, thinking, answer)


def step_texts(text: str, steps: Iterable[Step]) -> list[str]:
    """The text of each of the steps of `text`."""
    return [text[step.start : step.end] for step in steps]


class TokenSteps(NamedTuple):
    """Steps of one response on its T sampled token ids."""

    step_of_token: list[int]
    """T entries; index into `steps`, -1 for tokens of `</think>` and of the answer."""
    steps: list[Step]
    """Character ranges in `text`; a step may have no token at all (one token may cover several steps)."""
    thinking: tuple[int, int]
    """Token range, half open; tokens that share a byte with `</think>` are in neither part."""
    answer: tuple[int, int]
    """As `thinking`."""
    text: str
    """The decoded thinking, with one U+FFFD for every byte that is not valid UTF-8."""

    @property
    def texts(self) -> list[str]:
        """The text of each step."""
        return step_texts(self.text, self.steps)


def align_steps(
    ids: Sequence[int],
    table: Sequence[bytes],
    phrases: str | PhraseSet = "corrected",
    min_chars: int = 80,
    lone_trigger_chars: int = 15,
) -> TokenSteps | None:
    """Find the steps of the T sampled `ids` of a completion, without padding, by their bytes.

    `table` is `token_bytes_table(tokenizer)`; an id beyond it (a padded embedding row) stands for no bytes. A
    token belongs to the step that holds its LAST byte, so " Wait" goes with the step that it opens; a token
    without bytes goes with the byte before it. The answer reaches to the last id, end-of-sequence included.
    Nothing is stripped, so a `<think>` in `ids` counts as thinking.

    Returns None without exactly one `</think>`, or when no token is left for thinking or for the answer.
    Raises AttnPOError for a negative id (a label mask, not a sample). Source: paper, "Definitions".
    """
    if len(ids) and min(ids) < 0:
        raise AttnPOError(f"token id {min(ids)} is negative: pass the sampled ids without masked or padded entries")
    parts = split_at_think_end(ids, table)
    if parts.tags != 1 or not parts.thinking or not parts.answer or not parts.tag_start:
        return None

    # surrogateescape keeps one character for each invalid byte, so characters map back to bytes exactly.
    escaped = parts.raw[: parts.tag_start].decode("utf-8", "surrogateescape")
    text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", escaped)
    steps = split_steps(text, phrases, min_chars, lone_trigger_chars)
    step_ends = list(accumulate(len(escaped[s.start : s.end].encode("utf-8", "surrogateescape")) for s in steps))
    step_of_token = [-1] * len(ids)
    k = 0
    for n in range(parts.thinking):
        while step_ends[k] < parts.ends[n]:
            k += 1
        step_of_token[n] = k
    return TokenSteps(step_of_token, steps, (0, parts.thinking), (len(ids) - parts.answer, len(ids)), text)


_SURROGATES = re.compile("[\ud800-\udfff]")


def token_bytes_table(tokenizer: Any) -> list[bytes]:
    """Id -> the bytes that it stands for, for ids 0 to the largest known one (b"" for gaps).

    `tokenizer`: a fast transformers tokenizer, or a `tokenizers.Tokenizer`; byte-level BPE (Qwen, Llama 3)
    or sentencepiece pieces with byte fallback (Llama 2, Gemma). Added tokens stand for their
    content in UTF-8.

    Raises AttnPOError for any other kind (WordPiece, say, which loses the blanks of the text).
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "get_added_tokens_decoder"):
        raise AttnPOError(f"{type(tokenizer).__name__} has no fast backend: load the tokenizer with use_fast=True")
    decoders = _decoder_parts(backend)
    kinds = {part["type"] for part in decoders}
    if "ByteLevel" in kinds:
        to_bytes = _byte_level_bytes
    elif kinds & {"ByteFallback", "Metaspace"} or any(_replaces_space_mark(part) for part in decoders):
        to_bytes = _sentencepiece_bytes
    else:
        raise AttnPOError(
            f"tokenizer decoder {sorted(kinds) or None} is not supported: use byte-level BPE or sentencepiece"
        )
    vocab: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    added = backend.get_added_tokens_decoder()
    table = [b""] * (max([*vocab.values(), *added], default=-1) + 1)
    for token, i in vocab.items():
        table[i] = to_bytes(token)
    for i, token in added.items():
        # Sentencepiece vocabularies also add runs of blanks as plain tokens, spelled with the space mark.
        plain_blanks = to_bytes is _sentencepiece_bytes and not token.special
        table[i] = to_bytes(token.content) if plain_blanks else token.content.encode()
    return table


def _decoder_parts(backend: Any) -> list[dict[str, Any]]:
    if backend.decoder is None:
        return []
    flat: list[dict[str, Any]] = []
    pending = [json.loads(backend.decoder.__getstate__())]
    while pending:
        part = pending.pop()
        flat.append(part)
        pending.extend(part.get("decoders", []))
    return flat


_SPACE_MARK = "\u2581"


def _replaces_space_mark(part: dict[str, Any]) -> bool:
    return part["type"] == "Replace" and part["pattern"] == {"String": _SPACE_MARK} and part["content"] == " "


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 stands for itself, the rest for 256, 257, … in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters = {chr(b): b for b in printable}
    hidden = (b for b in range(256) if b not in printable)
    return letters | {chr(256 + n): b for n, b in enumerate(hidden)}


_BYTE_OF_LETTER = _byte_alphabet()
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level_bytes(token: str) -> bytes:
    if all(letter in _BYTE_OF_LETTER for letter in token):
        return bytes(_BYTE_OF_LETTER[letter] for letter in token)
    return token.encode()


def _sentencepiece_bytes(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes.fromhex(byte[1]) if byte else token.replace(_SPACE_MARK, " ").encode()
