"""Time of AttnPO's training step against TLMRE's, rollouts included, on the testbed; all in one run.

python benchmarks/step.py                       # ten minutes on one core
python benchmarks/step.py --generations 100 --rollouts 64

Three comparisons: `on policy`, where AttnPO scores in a pass of its own; and `old log-probabilities`, where the
rollouts serve two steps, so TRL computes these log-probabilities anyway, with the heads read in that pass (`shared`)
and in a pass of their own (`own`). A generation is all that happens from one sampling to the next. The learning rate
is 0 and the seeds are the same, so all sample the very same responses and differ in what is done with them alone. They
take turns, a generation each, so that a busy machine slows all; time is the processor time of the method's one thread.
The first generation warms up. Prints JSON: the median of the ratios of the same generation, and their quartiles; and
the share of a generation spent on aligning, scoring passes and attention rows, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import datasets
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from attnpo.method import attention
from attnpo.testbed import MODEL_DIR, problems
from attnpo.training.trainer import AttnPOConfig, AttnPOTrainer

HEADS = [[2, 1], [3, 0], [3, 5]]
METHODS: dict[str, dict[str, Any]] = {
    "tlmre, on policy": {"attnpo": False},
    "attnpo, on policy": {},
    "tlmre, old log-probabilities": {"attnpo": False, "num_iterations": 2},
    "attnpo, old log-probabilities, own": {"num_iterations": 2},
    "attnpo, old log-probabilities, shared": {"num_iterations": 2},
}
AGAINST = {
    "on policy": ("attnpo, on policy", "tlmre, on policy"),
    "old log-probabilities, own": ("attnpo, old log-probabilities, own", "tlmre, old log-probabilities"),
    "old log-probabilities, shared": ("attnpo, old log-probabilities, shared", "tlmre, old log-probabilities"),
}


SCORING = [
    (AttnPOTrainer, "_aligned"),
    (AttnPOTrainer, "_attention_scores"),
    (attention._Reader, "_read"),
]
"""What aligns and scores: the last within TRL's pass, and within `_attention_scores`, where it is not counted again."""


class OwnPass(AttnPOTrainer):
    """Scores in a pass of its own, also where TRL's could be read."""

    def _shares_pass(self) -> bool:
        return False


class Scoring:
    """Processor seconds of each thread in the functions that align and score."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.depth: dict[str, int] = {}

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted unless it runs inside another one that is."""

        @functools.wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            thread = threading.current_thread().name
            depth = self.depth.get(thread, 0)
            self.depth[thread], start = depth + 1, time.thread_time()
            result = function(*arguments, **options)
            self.depth[thread] = depth
            if depth == 0:
                self.seconds[thread] = self.seconds.get(thread, 0.0) + time.thread_time() - start
            return result

        return wrapper


class Turns(TrainerCallback):
    """Lets the trainers of several threads work one at a time, a generation each, and times each turn.

    `turn` holds the number of turns that all of them have had.
    """

    def __init__(
        self, number: int, turn: list[int], changed: threading.Condition, start: threading.Barrier, steps: int
    ) -> None:
        self.number, self.turn, self.changed, self.all_there, self.steps = number, turn, changed, start, steps
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Wait for the turn at the first step of a generation."""
        if state.global_step % self.steps:
            return
        generation, methods = state.global_step // self.steps, self.all_there.parties
        # In an order of chance, as the turn after an own one finds the caches warm.
        place = random.Random(generation).sample(range(methods), methods)[self.number]
        if state.global_step == 0:
            self.all_there.wait(600)  # what a start draws at random is drawn before the first turn
        with self.changed:
            while self.turn[0] != generation * methods + place:
                if not self.changed.wait(600):
                    raise TimeoutError("another trainer does not give up its turn")
        torch.manual_seed(generation)
        self.start = time.thread_time()

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        """Hand the turn on after the last step of a generation."""
        if state.global_step % self.steps:
            return
        self.seconds.append(time.thread_time() - self.start)
        with self.changed:
            self.turn[0] += 1
            self.changed.notify_all()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=81, help="generations of each method, the first not counted")
    parser.add_argument("--rollouts", type=int, default=16, help="responses of a generation, in groups of 8")
    args = parser.parse_args()
    torch.set_num_threads(1)
    changed, turn, start = threading.Condition(), [0], threading.Barrier(len(METHODS))
    with tempfile.TemporaryDirectory() as folder:
        trainers = [trainer(name, folder, args) for name in METHODS]
        turns = []
        for number, made in enumerate(trainers):
            turns.append(Turns(number, turn, changed, start, made.num_iterations))
            made.remove_callback(PrinterCallback)
            made.add_callback(turns[-1])
        scoring = Scoring()
        with ExitStack() as patches:
            for owner, name in SCORING:
                patches.enter_context(mock.patch.object(owner, name, scoring.timed(getattr(owner, name))))
            threads = [
                threading.Thread(target=made.train, name=name) for name, made in zip(METHODS, trainers, strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    tokens = {made.state.num_input_tokens_seen for made in trainers}
    assert len(tokens) == 1, f"the methods sampled different responses: {tokens} tokens"
    for name, made in zip(METHODS, trainers, strict=True):
        assert (made._read is not None) == name.endswith("shared"), name
    seconds = {name: timed.seconds[1:] for name, timed in zip(METHODS, turns, strict=True)}
    report = {
        "ratios": {title: spread(seconds[ours], seconds[theirs]) for title, (ours, theirs) in AGAINST.items()},
        "seconds_a_generation": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "scoring_share": {
            name: round(spent / sum(timed.seconds), 4)
            for name, timed in zip(METHODS, turns, strict=True)
            if (spent := scoring.seconds.get(name))
        },
        "tokens_a_generation": round(tokens.pop() / args.generations),
        "arguments": vars(args),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
    }
    print(json.dumps(report, indent=2))


def correctness(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
    """Whether a response ends with the boxed gold answer; the grader's processes would blur the time."""
    texts = [completion[0]["content"] for completion in completions]
    return [float(text.endswith(f"\\boxed{{{gold}}}")) for text, gold in zip(texts, answer, strict=True)]


def trainer(name: str, folder: str, args: argparse.Namespace) -> AttnPOTrainer:
    """The trainer of one method."""
    changes = METHODS[name]
    config = AttnPOConfig(
        output_dir=folder,
        max_steps=args.generations * changes.get("num_iterations", 1),
        num_generations=8,
        per_device_train_batch_size=args.rollouts,
        gradient_accumulation_steps=1,
        max_completion_length=160,
        learning_rate=0.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        heads=HEADS,
        min_step_chars=1,
        lone_trigger_chars=1,
        credit={"warmup_steps": 0},
        **changes,
    )
    rows = [{"prompt": [{"role": "user", "content": p.text}], "answer": p.answer} for p in problems.load("train")[:400]]
    return (OwnPass if name.endswith("own") else AttnPOTrainer)(
        model=AutoModelForCausalLM.from_pretrained(MODEL_DIR),
        reward_funcs=correctness,
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
    )


def spread(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of the same generation."""
    low, middle, high = statistics.quantiles([one / other for one, other in zip(ours, theirs, strict=True)], n=4)
    return {"median": round(middle, 4), "quarter_below": round(low, 4), "quarter_above": round(high, 4)}


if __name__ == "__main__":
    main()
