"""Make the embedded default: train the tokenizer, fine-tune the tiny model on traces, save both.

    python -m attnpo.testbed.build --out attnpo/testbed/model

`reproduce/testbed.sh` calls this and then writes the model card from measurements.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from attnpo.method.steps import THINK_END, THINK_START
from attnpo.testbed import MODEL_DIR, problems, traces

BOS, EOS, PAD, USER, ASSISTANT = "<|begin|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, USER, ASSISTANT, THINK_START, THINK_END)
CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' + message['content'].split('</think>')[-1] + '<|end|>' }}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)
"""As in R1, the thinking of earlier turns is dropped, and generation begins inside `<think>`."""
BARE = traces.Habits(slip=0.0, recheck=0.0, detour=0.0, recap=0.0)


@dataclass(frozen=True)
class Round:
    """One round of fine-tuning, with an optimizer of its own: linear warm-up, then cosine decay to a tenth."""

    bare_steps: int
    """Optimizer steps on traces with only essential steps, from which arithmetic is learnt faster."""
    steps: int
    """Optimizer steps on whole traces after that."""
    learning_rate: float
    """Peak of the learning rate."""


@dataclass(frozen=True)
class BuildConfig:
    """Every hyperparameter of the embedded model."""

    out: Path = MODEL_DIR
    """Folder to write tokenizer, configuration and weights to."""
    seed: int = 0
    rounds: tuple[Round, ...] = (Round(2200, 1800, 3e-3), Round(0, 1300, 2e-3), Round(0, 1000, 2e-3))
    """A step takes a third to half a second on one core."""
    batch_size: int = 32
    """Traces in one optimizer step."""
    warmup_steps: int = 100
    vocab_size: int = 512
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    """Fewer than `heads`, as in Qwen2: groups of query heads share keys and values."""
    verbose_share: float = 0.15
    """Share of problems in the wording of the shifted test, with chains of 1 to 3 links."""
    long_share: float = 0.10
    """Share of problems with 7 and 8 links in the plain wording, so that the model knows texts of such a length."""
    varied_share: float = 0.0
    """Share of traces with fewer redundant steps. In each, the probabilities of a re-check, a detour and a recap are
    multiplied by a number drawn from 0 to 1."""
    start: Path | None = None
    """Folder of a model to fine-tune further, with its tokenizer; None: a new model."""


def draw(
    rng: random.Random, config: BuildConfig, habits: traces.Habits = traces.DEFAULT_HABITS
) -> tuple[problems.ChainProblem, str]:
    """A random training problem and a trace for it."""
    if config.varied_share and rng.random() < config.varied_share:
        less = rng.random()
        chances = {name: less * getattr(habits, name) for name in ("recheck", "detour", "recap")}
        habits = replace(habits, **chances)
    luck = rng.random()
    if luck < config.verbose_share:
        problem = problems.sample(rng, "train", rng.randint(1, 3), "verbose")
    elif luck < config.verbose_share + config.long_share:
        problem = problems.sample(rng, "train", rng.randint(7, 8))
    else:
        problem = problems.sample(rng, "train", rng.choice(problems.TRAINING_CHAINS))
    return problem, traces.write_trace(problem, rng, habits)


def train_tokenizer(config: BuildConfig) -> PreTrainedTokenizerFast:
    """Byte-level BPE. A token may span several words (a whole phrase); each digit and newline is a token."""
    rng = random.Random(config.seed)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=50,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = (text for _ in range(5000) for text in _texts(rng, config))
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def _texts(rng: random.Random, config: BuildConfig) -> tuple[str, str, str]:
    problem, trace = draw(rng, config)
    thinking, answer = trace.split(THINK_END)
    return problem.text, thinking, answer


def new_model(config: BuildConfig, tokenizer: Any) -> Qwen2ForCausalLM:
    """The untrained model, of Qwen2 architecture, in float32."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def batch_of(pairs: list[tuple[problems.ChainProblem, str]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Right-padded (B, T) ids, mask and labels; the loss is on the responses only."""
    prompts = tokenizer.apply_chat_template(
        [[{"role": "user", "content": problem.text}] for problem, _ in pairs],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"]
    responses = tokenizer([trace for _, trace in pairs], add_special_tokens=False)["input_ids"]
    rows = [(p, [*r, tokenizer.eos_token_id]) for p, r in zip(prompts, responses, strict=True)]
    width = max(len(p) + len(r) for p, r in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, (p, r) in enumerate(rows):
        ids[i, : len(p) + len(r)] = torch.tensor(p + r)
        labels[i, len(p) : len(p) + len(r)] = torch.tensor(r)
        mask[i, : len(p) + len(r)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def prune_vocabulary(model: Any, tokenizer: Any, config: BuildConfig) -> Qwen2Tokenizer:
    """Make a `Qwen2Tokenizer` of the bytes and the phrases in use, and shrink the model's embedding to them in place.

    `AutoTokenizer` gives every Qwen2 model a `Qwen2Tokenizer`, whose own pre-tokenizer would cut phrases into words. So
    the phrases become added tokens, which are matched before it. The intermediate tokens of BPE are dropped.
    """
    rng = random.Random(config.seed + 2)
    used: set[int] = set()
    for _ in range(5000):
        for ids in tokenizer(list(_texts(rng, config)), add_special_tokens=False)["input_ids"]:
            used.update(ids)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    old = tokenizer.get_vocab()
    phrases = [tokenizer.decode([i]) for i in sorted(used) if tokenizer.convert_ids_to_tokens(i) not in alphabet]
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    pruned = Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        unk_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    pruned.add_tokens(
        [AddedToken(text, normalized=False, special=False) for text in [THINK_START, THINK_END, *phrases]]
    )
    rows = [old[token] for token in vocab]
    rows += [tokenizer.encode(phrase, add_special_tokens=False)[0] for phrase in phrases]
    weight = model.get_input_embeddings().weight.detach()[rows].clone()
    model.resize_token_embeddings(len(rows), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(weight)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(pruned, name))
    return pruned


def _pool_of_batches(
    rng: random.Random, config: BuildConfig, habits: traces.Habits
) -> list[list[tuple[problems.ChainProblem, str]]]:
    """Sixteen batches in random order, each of traces of similar length, which halves padding and time."""
    size = config.batch_size
    pairs = sorted((draw(rng, config, habits) for _ in range(16 * size)), key=lambda pair: len(pair[1]))
    batches = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    rng.shuffle(batches)
    return batches


def fine_tune(model: PreTrainedModel, tokenizer: Any, config: BuildConfig, number: int) -> None:
    """Round `number` of next-token training on the traces' responses. Each round draws its own traces."""
    this = config.rounds[number]
    steps, rng = this.bare_steps + this.steps, random.Random(config.seed + 1 + 10 * number)
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=this.learning_rate,
        betas=(0.9, 0.98),
    )

    def scale(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    model.train()
    start = time.time()
    running = 0.0
    pool: list[list[tuple[problems.ChainProblem, str]]] = []
    for step in range(1, steps + 1):
        if not pool or step == this.bare_steps + 1:
            pool = _pool_of_batches(rng, config, BARE if step <= this.bare_steps else traces.DEFAULT_HABITS)
        batch = batch_of(pool.pop(), tokenizer)
        ids, labels = batch["input_ids"].to(model.device), batch["labels"].to(model.device)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss  # right padding needs no mask
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        running += loss.item()
        if step % 100 == 0:
            print(f"step {step}/{steps}  loss {running / 100:.4f}  {time.time() - start:.0f} s", flush=True)
            running = 0.0


def build(config: BuildConfig) -> Path:
    """Train tokenizer and model and save them to `config.out`. The loss is printed every 100 steps."""
    torch.manual_seed(config.seed)
    model: PreTrainedModel
    tokenizer: Any
    if config.start is None:
        tokenizer = train_tokenizer(config)
        model = new_model(config, tokenizer)
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    else:
        tokenizer = AutoTokenizer.from_pretrained(config.start)
        model = AutoModelForCausalLM.from_pretrained(config.start, dtype=torch.float32)
    for number in range(len(config.rounds)):
        fine_tune(model, tokenizer, config, number)
        if number == 0 and config.start is None:
            tokenizer = prune_vocabulary(model, tokenizer, config)
    config.out.mkdir(parents=True, exist_ok=True)
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )
    model.save_pretrained(config.out)
    tokenizer.save_pretrained(config.out)
    return config.out


if __name__ == "__main__":
    import tyro

    build(tyro.cli(BuildConfig, description=__doc__))
