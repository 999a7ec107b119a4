"""Make a testbed's model: train the tokenizer, train the model on traces, save both.

    python -m attnpo.testbed.build                            # the embedded default
    python -m attnpo.testbed.build --scale testbed-large      # that of profile small; --help shows its settings

`reproduce/testbed.sh` and `reproduce/small.sh` call this and then write the model card from measurements.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from attnpo.errors import AttnPOError
from attnpo.files import atomic_write_bytes
from attnpo.method.steps import THINK_END, THINK_START
from attnpo.testbed import EMBEDDED, MODELS, problems, traces

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
CHECKPOINT = "checkpoint.pt"
"""Name of the file in the output folder that a killed build goes on from."""
BARE = traces.Habits(work=1.0, slip=0.0, doubt=0.0, recheck=0.0, detour=0.0, recap=0.0)
"""Essential steps alone, every hard link worked out. Arithmetic on one digit and copying are learnt here, which need
little memory. Where two-digit products are to be memorised from the start, copying stays blurred, and so do heads."""
TOLD = ("Think for {n} tokens.", "Think for maximum {n} tokens.")
"""How a prompt tells a length, as in L1 (2503.04697)."""


@dataclass(frozen=True)
class Round:
    """One round of training, with an optimizer and traces of its own."""

    bare_steps: int
    """Optimizer steps on `BARE` traces."""
    steps: int
    """Optimizer steps on whole traces after that."""
    learning_rate: float
    """Its peak: linear warm-up, then cosine decay to a hundredth. Without the decay operands are miscopied at T = 1."""


@dataclass(frozen=True)
class BuildConfig:
    """Every hyperparameter of a testbed's model. The defaults are the embedded one's."""

    scale: Literal["testbed", "testbed-large"] = "testbed"
    """Its problems, one of `attnpo.testbed.problems.SCALES`."""
    out: Path = MODELS[EMBEDDED].folder
    """Folder to write tokenizer, configuration and weights to."""
    seed: int = 0
    rounds: tuple[Round, ...] = (Round(1500, 2600, 3e-3),)
    """One after the other."""
    batch_size: int = 32
    """Traces in one optimizer step."""
    save_steps: int = 500
    """Optimizer steps from one checkpoint to the next: a build that was killed goes on from there."""
    warmup_steps: int = 100
    gpu: bool = False
    """Train on a GPU in bfloat16 (autocast), if there is one. The weights stay in float32."""
    context: int = 1024
    """Tokens that prompt and response may have together."""
    vocab_size: int = 512
    """Tokens of BPE, before those that are not used are dropped."""
    vocab_examples: int = 5000
    """Examples that BPE learns phrases from."""
    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    """Fewer than `heads`, as in Qwen3: groups of query heads share keys and values."""
    head_dim: int = 32
    """Twice `hidden_size / heads`, as Qwen3 allows: with 16 it takes a third more steps to the same loss."""
    verbose_share: float = 0.15
    """Share of problems in the wording of the shifted test."""
    long_share: float = 0.10
    """Share of problems as long as the shifted test's, in the plain wording: its positions are known, its texts not."""
    varied_share: float = 0.5
    """Share of traces with fewer redundant steps. In each, the probabilities of a re-check, a detour and a recap are
    multiplied by a number drawn from 0 to 1. So the model needs no redundant steps to know where in a chain it is."""
    told_share: float = 0.08
    """Share of prompts that tell the length of the trace, for L1."""
    cut_share: float = 0.06
    """Share of traces whose thinking is cut off and still answered, for methods that force an early answer."""
    at_once_share: float = 0.03
    """Share of traces in which an answer without thinking is forced, and as many in which it is left open."""


CONFIGS = {
    EMBEDDED: BuildConfig(),
    "testbed-large": BuildConfig(
        scale="testbed-large",
        out=MODELS["testbed-large"].folder,
        rounds=(Round(4000, 8000, 1e-3),),
        batch_size=64,
        warmup_steps=400,
        gpu=True,
        context=2048,
        hidden_size=512,
        intermediate_size=1408,
        layers=8,
        heads=8,
        kv_heads=4,
        head_dim=64,
    ),
}
"""The settings of the model of each scale. Those of the large one are estimates: it has not been trained yet."""


class Example(NamedTuple):
    """One prompt and response to learn from."""

    problem: problems.ChainProblem
    trace: traces.Trace
    told: str = ""
    """One of `TOLD`, if the prompt tells the length of the trace; `{n}` is filled in once tokens are counted."""
    slack: float = 1.0
    """Told length over true length."""

    def prompt(self, tokens: int) -> str:
        """The prompt to a response of so many tokens, its end included."""
        return (
            f"{self.problem.text} {self.told.format(n=round(tokens * self.slack))}" if self.told else self.problem.text
        )


def draw(rng: random.Random, config: BuildConfig, habits: traces.Habits = traces.DEFAULT_HABITS) -> Example:
    """A random training problem and a response to it."""
    if rng.random() < config.varied_share:
        less = rng.random()
        chances = {name: less * getattr(habits, name) for name in ("recheck", "detour", "recap")}
        habits = replace(habits, **chances)
    scale, luck = problems.SCALES[config.scale], rng.random()
    longer = config.verbose_share <= luck < config.verbose_share + config.long_share
    chain = rng.choice(scale.shifted_chains if longer else scale.chains)
    wording = "verbose" if luck < config.verbose_share else "plain"
    problem = problems.sample(rng, "train", chain, wording, scale)
    kind = rng.random()
    if kind < config.told_share:
        trace, exact = traces.write_trace(problem, rng, habits), rng.random() < 0.5
        return Example(problem, trace, TOLD[0]) if exact else Example(problem, trace, TOLD[1], rng.uniform(1, 1.5))
    if (kind := kind - config.told_share) < config.cut_share:
        return Example(problem, traces.write_cut_trace(problem, rng, habits))
    if (kind := kind - config.cut_share) < config.at_once_share:
        return Example(problem, traces.answer_at_once(problem, forced=True))
    if kind < 2 * config.at_once_share:
        if rng.random() < 0.5:
            return Example(problem, traces.answer_at_once(problem, forced=False))
        return Example(problem, traces.think_by_choice(traces.write_trace(problem, rng, habits)))
    return Example(problem, traces.write_trace(problem, rng, habits))


def make_tokenizer(config: BuildConfig) -> Qwen2Tokenizer:
    """The bytes, and the phrases that byte-level BPE finds in prompts and traces; each digit and newline is a token.

    A phrase may span several words. `AutoTokenizer` gives every Qwen3 model a `Qwen2Tokenizer`, whose own pre-tokenizer
    would cut phrases into words. So the phrases become added tokens, which are matched before it, and the intermediate
    tokens of BPE are dropped.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])},
        merges=[],
        unk_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=config.context,
    )
    phrases = [THINK_START, THINK_END, *_phrases(config)]
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in phrases])
    return tokenizer


def _phrases(config: BuildConfig) -> list[str]:
    """What BPE merges in the texts of some examples, as far as it uses it there."""
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
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(config.seed)
    texts = []
    for _ in range(config.vocab_examples):
        example = draw(rng, config)
        thinking, answer = example.trace.text.split(THINK_END)
        texts += [example.prompt(100), thinking, answer]
    tokenizer.train_from_iterator(texts, trainer)
    used = sorted({i for encoding in tokenizer.encode_batch(texts) for i in encoding.ids})
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return [tokenizer.decode([i]) for i in used if tokenizer.id_to_token(i) not in alphabet]


def new_model(config: BuildConfig, tokenizer: Any) -> Qwen3ForCausalLM:
    """The untrained model, of Qwen3 architecture, in float32."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def batch_of(examples: list[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Right-padded (B, T) ids, mask and labels; the loss is on what the responses do not read as given."""
    encoded = tokenizer([e.trace.text for e in examples], add_special_tokens=False, return_offsets_mapping=True)
    responses = [[*ids, tokenizer.eos_token_id] for ids in encoded["input_ids"]]
    prompts = tokenizer.apply_chat_template(
        [
            [{"role": "user", "content": example.prompt(len(response))}]
            for example, response in zip(examples, responses, strict=True)
        ],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"]
    width = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    ids = torch.full((len(examples), width), tokenizer.pad_token_id)
    labels = torch.full((len(examples), width), -100)
    mask = torch.zeros((len(examples), width), dtype=torch.long)
    for i, (p, r, example) in enumerate(zip(prompts, responses, examples, strict=True)):
        ids[i, : len(p) + len(r)] = torch.tensor(p + r)
        labels[i, len(p) : len(p) + len(r)] = torch.tensor(r)
        mask[i, : len(p) + len(r)] = 1
        for start, end in example.trace.given:
            for k, (first, last) in enumerate(encoded["offset_mapping"][i]):
                if first < end and last > start:
                    labels[i, len(p) + k] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _pool_of_batches(rng: random.Random, config: BuildConfig, habits: traces.Habits) -> list[list[Example]]:
    """Sixteen batches in random order, each of traces of similar length, which halves padding and time."""
    size = config.batch_size
    examples = sorted((draw(rng, config, habits) for _ in range(16 * size)), key=lambda e: len(e.trace.text))
    batches = [examples[i : i + size] for i in range(0, len(examples), size)]
    rng.shuffle(batches)
    return batches


def fine_tune(model: PreTrainedModel, tokenizer: Any, config: BuildConfig, number: int = 0) -> None:
    """Round `number` of next-token training on the traces' responses. The loss is printed every 100 steps.

    Every `save_steps` steps all that is needed to go on is written into `config.out`, where it is found again.

    Raises:
        AttnPOError: what is found there is of a build with other settings.
    """
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
        return 0.01 + 0.495 * (1 + math.cos(math.pi * progress))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    model.train()
    start = time.time()
    running = 0.0
    pool: list[list[Example]] = []
    done, checkpoint = 0, config.out / CHECKPOINT
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location="cpu", weights_only=False)
        if state["config"] != config:
            raise AttnPOError(
                f"{checkpoint} is of a build with other settings; delete it, or build into another folder"
            )
        if state["number"] > number:
            return  # the round of the checkpoint loads the weights
        if state["number"] == number:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            rng.setstate(state["rng"])
            pool, done, running = state["pool"], state["done"], state["running"]
            print(f"goes on after step {done}", flush=True)
    for step in range(done + 1, steps + 1):
        if not pool or step == this.bare_steps + 1:
            pool = _pool_of_batches(rng, config, BARE if step <= this.bare_steps else traces.DEFAULT_HABITS)
        batch = batch_of(pool.pop(), tokenizer)
        ids, labels = batch["input_ids"].to(model.device), batch["labels"].to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
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
        if step % config.save_steps == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "done": step}
            state |= {
                "config": config,
                "number": number,
                "schedule": schedule.state_dict(),
                "rng": rng.getstate(),
                "pool": pool,
                "running": running,
            }
            buffer = io.BytesIO()
            torch.save(state, buffer)
            atomic_write_bytes(checkpoint, buffer.getvalue())


def build(config: BuildConfig) -> Path:
    """Make tokenizer and model and save them to `config.out`."""
    torch.manual_seed(config.seed)
    tokenizer = make_tokenizer(config)
    model = new_model(config, tokenizer)
    if config.gpu and torch.cuda.is_available():
        model.to("cuda")  # type: ignore[arg-type]
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens, on {model.device}",
        flush=True,
    )
    config.out.mkdir(parents=True, exist_ok=True)
    for number in range(len(config.rounds)):
        fine_tune(model, tokenizer, config, number)
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )
    model.save_pretrained(config.out)
    tokenizer.save_pretrained(config.out)
    (config.out / CHECKPOINT).unlink(missing_ok=True)
    return config.out


def config_of(words: Sequence[str]) -> BuildConfig:
    """The settings that a command line asks for; what it does not name is the scale's own."""
    import tyro

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--scale", choices=sorted(CONFIGS), default=EMBEDDED)
    scale = first.parse_known_args(words)[0].scale
    return tyro.cli(BuildConfig, default=CONFIGS[scale], args=words, description=__doc__)


if __name__ == "__main__":
    from attnpo.testbed import build as module  # so that a checkpoint names its classes by their module

    module.build(module.config_of(sys.argv[1:]))
