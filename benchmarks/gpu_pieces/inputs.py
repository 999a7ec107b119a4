"""What the pieces are measured on: random models, a tokenizer, responses, all made here; and the memory it takes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from scoring import QWEN2_1_5B, TINY, qwen2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from attnpo.method.steps import PHRASE_SETS, THINK_END
from attnpo.sampling.models import free_memory

Rows = Iterator[tuple[str, Callable[[], dict[str, Any]]]]
"""Names of rows and what measures them."""

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
TOKENS = 500
"""Tokens that the tokenizer knows: no more than the smallest model's vocabulary has."""
WHOLE = [THINK_END, *PHRASE_SETS["corrected"].doubt[:8]]
"""Tokens of their own, so that what a random model samples has steps too."""
SMALL_SHARPER = 8.0
"""Enlarges queries and keys of small models; their logits would be near 0 otherwise."""
ANSWER_SHARE = 0.1
"""Tokens of the answer, F, over all of a response."""


@dataclass(frozen=True)
class Setting:
    """Where and how large: `small` is a miniature that a CPU gets through in seconds."""

    device: str
    """`cuda` or `cpu`."""
    small: bool
    scratch: Path
    """Folder for what the pieces write; they share it."""

    @property
    def cuda(self) -> bool:
        """Whether the pieces run on a GPU."""
        return self.device == "cuda"

    def config(self, **changed: int) -> PreTrainedConfig:
        """DeepSeek-R1-Distill-Qwen-1.5B's shape or a miniature, with other sizes where they are given.

        The miniature's heads are as wide as vLLM's kernels for CPUs want them, 32.
        """
        config = qwen2(**{**({**TINY, "heads": 4} if self.small else QWEN2_1_5B), **changed})
        tokens = tokenizer()
        config.bos_token_id, config.eos_token_id = tokens.bos_token_id, tokens.eos_token_id
        config.pad_token_id = tokens.pad_token_id
        return config

    @property
    def sharper(self) -> float:
        """How far queries and keys are enlarged, see `random_model`."""
        return SMALL_SHARPER if self.small else 2.0

    def model(self, dtype: torch.dtype, **changed: int) -> PreTrainedModel:
        """A random model of `config`."""
        return random_model(self.config(**changed), dtype, self.device, self.sharper)


def random_model(
    config: PreTrainedConfig, dtype: torch.dtype, device: str, sharper: float, attention: str = "sdpa"
) -> PreTrainedModel:
    """A model of random weights, the same ones each time, in evaluation mode.

    Queries and keys are `sharper` times as large as they are initialised: attention that is nearly uniform, as after
    the initialisation, has step scores that are nearly right whatever one does.
    """
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".q_proj." in name or ".k_proj." in name:
                parameter.mul_(sharper)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = (
        config.eos_token_id,
        config.pad_token_id,
    )
    return model.eval()


def saved_model(setting: Setting, name: str, **changed: int) -> Path:
    """The folder of a random model in bfloat16 (float32 on a CPU) and its tokenizer, made once."""
    folder = setting.scratch / name
    if not (folder / "tokenizer_config.json").is_file():  # written last
        dtype = torch.bfloat16 if setting.cuda else torch.float32
        model = setting.model(dtype, **changed)
        model.save_pretrained(folder)
        del model
        free_memory()
        tokenizer().save_pretrained(folder)
    return folder


# text


def steps_of_text(count: int) -> list[str]:
    """Invented steps: a phrase that opens one, then words that mean nothing."""
    rng = random.Random(0)
    phrases = sorted(PHRASE_SETS["corrected"].kinds())
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 8))) for _ in range(300)]
    return [f"\n\n{rng.choice(phrases)} {' '.join(rng.choices(words, k=rng.randint(10, 40)))}." for _ in range(count)]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template, trained on invented text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS - len(WHOLE),
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(steps_of_text(500), trainer)
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
    )
    tokens.add_tokens(WHOLE)
    return tokens


@cache
def _tokenized_steps() -> list[list[int]]:
    return tokenizer()(steps_of_text(200), add_special_tokens=False)["input_ids"]


def response_ids(lengths: Sequence[int]) -> list[list[int]]:
    """Responses of these many tokens: steps, `</think>`, an answer and the end token."""
    rng, steps = random.Random(1), _tokenized_steps()
    think_end = tokenizer().convert_tokens_to_ids(THINK_END)

    def text(length: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < length:
            ids += rng.choice(steps)
        return ids[:length]

    responses = []
    for length in lengths:
        answer = max(1, int(length * ANSWER_SHARE) - 1)
        responses.append([*text(length - answer - 2), think_end, *text(answer), tokenizer().eos_token_id])
    return responses


# time and memory


def synchronize(setting: Setting) -> None:
    """Wait until the GPU has done what it was given."""
    if setting.cuda:
        torch.cuda.synchronize()


def reset_peak(setting: Setting) -> None:
    """Let go of what nothing refers to, and count the peak of the memory from here."""
    free_memory()
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats()


def peak_gib(setting: Setting) -> float | None:
    """The most memory that torch's tensors have taken at once, in GiB; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if setting.cuda else None
