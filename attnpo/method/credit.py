"""Credit: rewards of whole groups to advantages (`assign`), and those to advantages of tokens (`rescale`).

These two functions are the method; a trainer samples, calls `assign`, scores the steps with the Key-Focus Heads
(`attnpo.method.scores`) and calls `rescale`. Only correct responses are rescaled. Source: AttnPO, arXiv 2602.09953, and
its published code (NieSYsc20/AttnPO, commit 8570952).

Shapes: N responses in groups of G, one group after the other; B of them on this process; K steps and T tokens of a
response.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from attnpo.errors import AttnPOError
from attnpo.method.advantages import ESTIMATORS, as_groups, batch_whitened
from attnpo.method.selection import confidence_of_steps
from attnpo.method.steps import TokenSteps

VARIANTS = ("published", "summary")
LENGTH_CREDITS = ("all", "redundant")


@dataclass(frozen=True)
class CreditConfig:
    """Constants of the rescaling; the defaults are those of the authors' published code.

    Raises:
        AttnPOError: a value out of its range.
    """

    baseline_exponent: float = 2.0
    """Power of the group accuracy p in the baseline score."""
    attenuation_exponent: float = 2.0
    """lambda: power of p that sets the depth of positive attenuation."""
    floor: float = 0.0
    """delta, in [0, 1]: the least factor that positive attenuation gives."""
    warmup_steps: float = 1000.0
    """T: training steps over which positive attenuation sets in, by difficulty."""
    positive: bool = True
    """PA: attenuate low-score steps when the advantage is positive."""
    negative: bool = True
    """NA: spare high-score steps when the advantage is negative."""
    schedule: bool = True
    """Hold PA back by difficulty; off: PA from the first step on."""
    difficulty: bool = True
    """Off: both powers of p are taken as 1 (as if every problem were solved); the schedule is not touched."""
    variant: Literal["published", "summary"] = "published"
    """Formula and schedule of PA: as in the published code, or as a summary of the paper prints them."""
    length_credit: Literal["all", "redundant"] = "all"
    """Which tokens the length reward acts on: `all`, as published; or `redundant`, a variant of ours: steps of correct
    responses with S_k < S_base alone. All other tokens, those of wrong responses too, have the advantage that
    correctness alone would give, so that no essential step is rewarded for its shortness or punished for its length."""
    min_steps: int = 2
    """Responses with fewer steps are left alone."""

    def __post_init__(self) -> None:
        for name, known in (("variant", VARIANTS), ("length_credit", LENGTH_CREDITS)):
            if getattr(self, name) not in known:
                raise AttnPOError(f"{name} {getattr(self, name)!r} is unknown: choose one of {', '.join(known)}")
        if not 0 <= self.floor <= 1:
            raise AttnPOError(f"floor {self.floor} is outside [0, 1]: give the least factor on the advantage")
        for name in ("baseline_exponent", "attenuation_exponent", "warmup_steps", "min_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise AttnPOError(f"{name} {getattr(self, name)} must be finite and not negative")


# From rewards to advantages.


Span = tuple[int, int, float]
"""Tokens `start:end` of a response, and a number that goes with them."""


@dataclass(frozen=True)
class Shaped:
    """What a length reward makes of N responses; all but `rewards` may be left out."""

    rewards: Tensor
    """(N,) float64."""
    auxiliary: Tensor | None = None
    """(N,) float64, rewards of an auxiliary advantage. It is estimated apart (over the group's standard deviation with
    `grpo`, else leave-one-out), weighted, and added to the first."""
    auxiliary_weight: Tensor | None = None
    """(N,) float64, the weight; None: 1."""
    keep: Tensor | None = None
    """(N,) bool; groups with False are dropped: no advantage, and none of their tokens is in the loss."""
    truncate_at: Tensor | None = None
    """(N,) tokens; a longer response is truncated there: it is wrong, and the rest of it is not in the loss."""
    spans: Sequence[Sequence[Span]] | None = None
    """Of each response the ranges of tokens that earn more or less than its reward, by how much. The advantage of a
    token is then estimated over the group at its position, where a response that has ended still earns its reward."""
    discount: float = 1.0
    """What a reward is worth one token earlier, for the estimator `reinforce_pp` alone: what a range earns stands at
    its last token, the reward of a response at the last one that is left of it."""
    bonus: Sequence[Sequence[Span]] | None = None
    """Of each response the ranges of tokens to whose advantage something is added."""
    sign: Literal["wrong", "both"] | None = None
    """Advantages are held to the sign of correctness: those of wrong responses are at most 0; with `both`, those of
    correct ones at least the least positive advantage among the correct ones of their group, where there is one."""
    factors: Sequence[Sequence[Span]] | None = None
    """Of each response the ranges of tokens that keep a share of the response's advantage, and that share."""
    crops: Tensor | None = None
    """(N, 2); tokens `start:end` are taken out of a response before the loss, none where both are alike."""
    state: dict[str, Any] | None = None
    """What the reward wants to be given the next time; None leaves its state as it is."""


@dataclass(frozen=True)
class Credit:
    """The advantages of N responses, and what of the responses is in the loss."""

    advantages: Tensor
    """(N,) float64, 0 for dropped groups."""
    correct: Tensor
    """(N,) bool; a truncated response is wrong."""
    accuracy: Tensor
    """(N,) float64: p, the share of the response's group that is correct."""
    truncate_at: Tensor
    """(N,) tokens of each response that are left of it: its length unless it was truncated."""
    keep: Tensor
    """(N,) bool, False for dropped groups."""
    offsets: list[list[Span]]
    """What is added to the advantage of some tokens of each response: `spans`, `bonus` and `factors` of `Shaped`."""
    crops: Tensor | None
    """(N, 2), see `Shaped.crops`."""
    state: dict[str, Any] | None
    """The length reward's next state, see `Shaped.state`."""
    of_correctness: Tensor
    """(N,) float64: the advantages that correctness alone would have, 0 for dropped groups."""

    @property
    def loss_tokens(self) -> Tensor:
        """(N,) tokens of each response, from its first, that are in the loss."""
        return self.truncate_at * self.keep


def assign(
    shaped: Shaped,
    lengths: Tensor,
    correct: Tensor,
    group_size: int,
    estimator: str = "rloo",
    other_rewards: Tensor | None = None,
) -> Credit:
    """Turn the rewards of whole groups into advantages in float64.

    Args:
        shaped: the length reward of these responses (see `attnpo.rewards`).
        lengths: (N,) response tokens.
        correct: (N,), 0 or 1.
        group_size: G. Groups of one response have no advantage.
        estimator: one of `attnpo.method.advantages.ESTIMATORS`.
        other_rewards: (N,) that is added to `shaped.rewards`, from other reward functions.

    Raises:
        AttnPOError: an unknown estimator, shapes that do not match, a correct that is not 0 or 1, a reward that is not
            finite, spans with the estimator `batch`, which whitens whole responses, or a discount without returns.
    """
    if estimator not in ESTIMATORS:
        raise AttnPOError(f"estimator {estimator!r} is unknown: choose one of {', '.join(ESTIMATORS)}")
    truncate_at = lengths if shaped.truncate_at is None else torch.minimum(shaped.truncate_at, lengths)
    keep = torch.ones_like(correct, dtype=torch.bool) if shaped.keep is None else shaped.keep.bool()
    right = correct.bool() & (truncate_at == lengths)
    accuracy = as_groups(right.double(), group_size, "correct").mean(1).repeat_interleave(group_size)
    rewards = shaped.rewards.double() if other_rewards is None else shaped.rewards + other_rewards.double()
    if group_size == 1:  # in evaluation
        advantages = torch.zeros_like(rewards)
    else:
        advantages = ESTIMATORS[estimator](rewards, group_size)
        if shaped.auxiliary is not None:
            apart = ESTIMATORS["grpo" if estimator == "grpo" else "rloo"](shaped.auxiliary, group_size)
            advantages = advantages + apart * (1.0 if shaped.auxiliary_weight is None else shaped.auxiliary_weight)
    if estimator == "batch":
        advantages = batch_whitened(advantages, truncate_at * keep)
    spans = shaped.spans
    if estimator == "reinforce_pp" and group_size > 1:
        tokens, earned = truncate_at * keep, spans or [[] for _ in lengths]
        advantages, spans = whitened_returns(advantages, earned, tokens, shaped.discount)
    elif shaped.discount != 1 and estimator != "reinforce_pp":
        raise AttnPOError(f"estimator {estimator!r} has no returns to discount: choose 'reinforce_pp', or discount 1")
    if shaped.sign is not None:
        advantages = _held(advantages, right, group_size, shaped.sign)
    offsets: list[list[Span]] = [[] for _ in lengths]
    if estimator == "reinforce_pp" and group_size > 1:
        offsets = [list(of_row) for of_row in spans or []]
    elif shaped.spans is not None and group_size > 1:
        if estimator == "batch":
            raise AttnPOError("estimator 'batch' takes no rewards of single tokens: choose 'grpo' or 'rloo'")
        offsets = _offsets(rewards, shaped.spans, keep.tolist(), group_size, estimator)
    if shaped.bonus is not None and group_size > 1:
        for of_row, more, kept in zip(offsets, shaped.bonus, keep.tolist(), strict=True):
            of_row += more if kept else []
    if shaped.factors is not None:
        rows = zip(offsets, shaped.factors, (advantages * keep).tolist(), strict=True)
        for of_row, shares, advantage in rows:
            of_row += [(start, end, (share - 1) * advantage) for start, end, share in shares if advantage]
    alone = right.double()
    alone = torch.zeros_like(alone) if group_size == 1 else ESTIMATORS[estimator](alone, group_size)
    return Credit(
        advantages * keep, right, accuracy, truncate_at, keep, offsets, shaped.crops, shaped.state, alone * keep
    )


def whitened_returns(
    rewards: Tensor, spans: Sequence[Sequence[Span]], tokens: Tensor, discount: float = 1.0
) -> tuple[Tensor, list[list[Span]]]:
    """Returns of all tokens of a batch, less their mean, over their standard deviation: REINFORCE++ (2501.03262).

    As verl has it: sample variance over the tokens in the loss, epsilon 1e-8. Equal returns give exactly 0.

    Args:
        rewards: (N,) that each response earns at its last token.
        spans: of each response the ranges of tokens whose last one earns something, by how much; the tokens before it
            have it in their return.
        tokens: (N,) that are in the loss; responses with 0 have no advantage.
        discount: what a reward is worth one token earlier.

    Returns:
        (N,) advantages, as if the reward were the return, and the ranges with what is added to the advantage there.
    """
    rows = zip(rewards.tolist(), spans, tokens.tolist(), strict=True)
    pieces = [_returns(reward, of_row, int(n), discount) for reward, of_row, n in rows]
    of_all = [piece for of_row in pieces for piece in of_row]
    there = torch.tensor([value for _, _, value in of_all], dtype=torch.float64)
    weight = torch.tensor([end - start for start, end, _ in of_all], dtype=torch.float64)
    total = float(weight.sum())
    if total < 2 or bool((there == there[0]).all()):
        return torch.zeros_like(rewards), [[] for _ in spans]
    mean = float((there * weight).sum() / total)
    scale = float(((weight * (there - mean) ** 2).sum() / (total - 1) + 1e-8).rsqrt())
    advantages = ((rewards - mean) * scale).where(tokens > 0, 0.0)
    return advantages, [
        [(start, end, (value - reward) * scale) for start, end, value in of_row if value != reward]
        for of_row, reward in zip(pieces, rewards.tolist(), strict=True)
    ]


def _returns(reward: float, spans: Sequence[Span], n: int, discount: float) -> list[Span]:
    """The returns of the n tokens of a response that are in the loss, by ranges."""
    if discount == 1:
        cuts = sorted({0, n, *(min(place, n) for start, end, _ in spans for place in (start, end))})
        return [
            (start, end, reward + sum(value for a, b, value in spans if a <= start < b))
            for start, end in itertools.pairwise(cuts)
        ]
    powers = discount ** torch.arange(max([n, *(end for _, end, _ in spans)]), dtype=torch.float64)
    there = reward * powers[:n].flip(0)
    for start, end, value in spans:
        there[start:end] += value * powers[: end - start].flip(0)[: max(n - start, 0)]
    return [(place, place + 1, value) for place, value in enumerate(there.tolist())]


def _held(advantages: Tensor, right: Tensor, group_size: int, sign: str) -> Tensor:
    """Advantages (N,) held to the sign of correctness (N,), see `Shaped.sign`."""
    advantage_PG = advantages.view(-1, group_size)
    right_PG = right.view(-1, group_size)
    held_PG = torch.where(right_PG, advantage_PG, advantage_PG.clamp(max=0.0))
    if sign == "both":
        some_PG = advantage_PG.where(right_PG & (advantage_PG > 0), math.inf)
        least_P1 = some_PG.amin(1, keepdim=True)
        raised_PG = torch.maximum(held_PG, least_P1)
        held_PG = torch.where(right_PG & least_P1.isfinite(), raised_PG, held_PG)
    return held_PG.flatten()


def _offsets(
    rewards: Tensor, spans: Sequence[Sequence[Span]], keep: Sequence[bool], group_size: int, estimator: str
) -> list[list[Span]]:
    """By how much the advantage at some positions differs from that of the response, for N responses."""
    offsets: list[list[Span]] = [[] for _ in spans]
    for first in range(0, len(spans), group_size):
        members = range(first, first + group_size)
        group = rewards[first : first + group_size]
        cuts = sorted({place for member in members for start, end, _ in spans[member] for place in (start, end)})
        if not keep[first] or not cuts:
            continue
        whole = ESTIMATORS[estimator](group, group_size)
        for start, end in itertools.pairwise(cuts):
            more = [sum(value for a, b, value in spans[member] if a <= start < b) for member in members]
            there = ESTIMATORS[estimator](group + torch.tensor(more, dtype=torch.float64).to(group), group_size) - whole
            for member, offset in zip(members, there.tolist(), strict=True):
                if offset:
                    offsets[member].append((start, end, offset))
    return offsets


def token_offsets(offsets: Sequence[Sequence[Span]], width: int) -> Tensor:
    """(B, T) float64 from the ranges of B responses; T is `width`."""
    result = torch.zeros(len(offsets), width, dtype=torch.float64)
    for row, of_row in enumerate(offsets):
        for start, end, offset in of_row:
            result[row, start:end] += offset
    return result


# From advantages of responses to advantages of tokens.


class ScoredSteps(NamedTuple):
    """The steps of a correct response and how much the answer looks at them."""

    steps: TokenSteps
    scores: Tensor
    """(K,) step scores, the mean over the Key-Focus Heads; NaN for steps without tokens."""
    prompt_tokens: int


class Rescaled(NamedTuple):
    """Advantages of tokens."""

    advantages: Tensor
    """(B, T) float64: gamma * A, or what `CreditConfig.length_credit` puts in its place."""
    gammas: Tensor
    """(B, T) float64, each in [0, 1]."""
    baselines: list[float]
    """S_base of each response that was looked at."""


def rescale(
    advantages: Tensor,
    accuracy: Tensor,
    scored: Mapping[int, ScoredSteps],
    width: int,
    global_step: int,
    config: CreditConfig | None = None,
    offsets: Tensor | None = None,
    of_correctness: Tensor | None = None,
) -> Rescaled:
    """Rescale advantages step by step: token t of response b gets `gamma[b, t] * (A[b] + offsets[b, t])`.

    Args:
        advantages: (B,).
        accuracy: (B,): p of each response's group.
        scored: row -> its steps and scores, for the correct responses that have an advantage; gamma is 1 in all other
            rows, and for `</think>`, answer and padding.
        width: T.
        global_step: the optimizer step that is prepared, the first is 1 (as in verl).
        config: constants of the rule. The sign of A[b] alone decides between PA and NA.
        offsets: (B, T), see `token_offsets`; None: 0.
        of_correctness: (B,), see `Credit`; needed where `config.length_credit` is `redundant`.

    Raises:
        AttnPOError: scores or advantages that are not finite, as `step_gammas`, or no `of_correctness` where it is
            needed.
    """
    config = config or CreditConfig()
    alone = None  # what tokens have on which length does not act
    if config.length_credit == "redundant":
        if of_correctness is None:
            raise AttnPOError("length_credit 'redundant' needs of_correctness, see `assign`")
        alone = of_correctness.double().unsqueeze(1)
    redundant = torch.zeros(len(advantages), width, dtype=torch.bool, device=advantages.device)
    gammas = torch.ones(len(advantages), width, dtype=torch.float64, device=advantages.device)
    baselines = []
    for row, (steps, scores, prompt_tokens) in scored.items():
        step_of_token = torch.tensor(steps.step_of_token, device=advantages.device)
        has_tokens = torch.zeros(len(steps.steps), dtype=torch.bool, device=advantages.device)
        has_tokens[step_of_token[step_of_token >= 0]] = True
        p = float(accuracy[row])
        answer_tokens = steps.answer[1] - steps.answer[0]
        total_tokens = prompt_tokens + len(step_of_token)
        baselines.append(_baseline(p, answer_tokens, total_tokens, config))
        per_step = step_gammas(
            scores.to(advantages.device),
            float(advantages[row]),
            p,
            answer_tokens,
            total_tokens,
            global_step,
            config,
            has_tokens,
        )
        gammas[row, : len(step_of_token)] = token_gammas(per_step, step_of_token)
        if alone is not None:  # a step without tokens marks none
            spared = scores.to(gammas) >= baselines[-1]
            redundant[row, : len(step_of_token)] = token_gammas(spared.double(), step_of_token) == 0
    of_tokens = advantages.double().unsqueeze(1)
    if offsets is not None:
        of_tokens = of_tokens + offsets.to(of_tokens)
    if alone is not None:
        gammas = gammas.where(redundant, 1.0)
        return Rescaled(torch.where(redundant, of_tokens * gammas, alone), gammas, baselines)
    return Rescaled(of_tokens * gammas, gammas, baselines)


def baseline_score(group_accuracy: float, answer_tokens: int, total_tokens: int, exponent: float = 2.0) -> float:
    """S_base = p**exponent * |F| / total_tokens: a uniform head's step score, lowered on hard problems.

    group_accuracy: p in [0, 1]; answer_tokens: |F|; total_tokens: |q| + |o| in the published code, |o| alone
    in a summary of the paper (the caller's choice). Source: published code.

    Raises:
        AttnPOError: one of them is out of range.
    """
    if not 0 <= group_accuracy <= 1:
        raise AttnPOError(f"group_accuracy {group_accuracy} is outside [0, 1]: pass correct responses / group size")
    if not 0 < answer_tokens <= total_tokens:
        raise AttnPOError(f"answer_tokens {answer_tokens} must be at least 1 and at most total_tokens {total_tokens}")
    # The quotient first, as published: a score equal to the baseline must compare as equal.
    return group_accuracy**exponent * (answer_tokens / total_tokens)


def _baseline(group_accuracy: float, answer_tokens: int, total_tokens: int, config: CreditConfig) -> float:
    exponent = config.baseline_exponent if config.difficulty else 0.0
    return baseline_score(group_accuracy, answer_tokens, total_tokens, exponent)


def step_gammas(
    step_scores: Tensor,
    advantage: float,
    group_accuracy: float,
    answer_tokens: int,
    total_tokens: int,
    global_step: int,
    config: CreditConfig | None = None,
    has_tokens: Tensor | None = None,
) -> Tensor:
    """Factors gamma (K,) in float64, each in [0, 1], for the K steps of one correct response.

    With d = p**attenuation_exponent and S_k the step's score:

    - PA (A > 0, S_k < S_base): published `(1 - floor) * (d * S_k / S_base + 1 - d) + floor`, once
      `global_step > warmup_steps * (1 - p)`; summary `(1 - floor) * d * S_k / S_base + floor`, once
      `global_step > warmup_steps * p`.
    - NA (A < 0, S_k > S_base): 0, without schedule.
    - otherwise 1.

    Args:
        step_scores: (K,), not negative.
        advantage: A.
        group_accuracy, answer_tokens, total_tokens: as in `baseline_score`.
        global_step: optimizer steps, as the caller counts them.
        config: constants of the rule.
        has_tokens: (K,) bool, False for steps without tokens, whose score (0/0) is not looked at and whose factor is
            1; default all True.

    Raises:
        AttnPOError: scores that are not finite or negative, or an advantage that is not finite.

    Source: published code (the default variant); a third-party summary of the paper (the other).
    """
    config = config or CreditConfig()
    if step_scores.dim() != 1:
        raise AttnPOError(f"step_scores has shape {tuple(step_scores.shape)}: pass one response, shape (K,)")
    advantage = float(advantage)
    if not math.isfinite(advantage):
        raise AttnPOError(f"advantage {advantage} is not finite: check the rewards of this group")
    scores = step_scores.detach().double()
    if has_tokens is not None:
        if has_tokens.shape != scores.shape:
            raise AttnPOError(f"has_tokens {tuple(has_tokens.shape)} must match step_scores {tuple(scores.shape)}")
        counted = has_tokens.to(device=scores.device, dtype=torch.bool)
    else:
        counted = torch.ones_like(scores, dtype=torch.bool)
    bad = counted & ~(scores.isfinite() & (scores >= 0))
    if bad.any():
        k = int(bad.nonzero()[0])
        raise AttnPOError(
            f"step score {scores[k].item()} of step {k} is not a finite number >= 0: "
            "pass has_tokens for steps without tokens, else check the attention scores"
        )
    base = _baseline(group_accuracy, answer_tokens, total_tokens, config)
    gammas = torch.ones_like(scores)
    if len(scores) < config.min_steps:
        return gammas
    if advantage > 0 and config.positive and _schedule_open(group_accuracy, global_step, config):
        depth = group_accuracy**config.attenuation_exponent if config.difficulty else 1.0
        ratio = scores / base
        # Both variants are written as 1 minus a product, which rounding cannot push out of [0, 1].
        relative_loss = depth * (1 - ratio) if config.variant == "published" else 1 - depth * ratio
        return torch.where(counted & (scores < base), 1 - (1 - config.floor) * relative_loss, gammas)
    if advantage < 0 and config.negative:
        return gammas.masked_fill(counted & (scores > base), 0.0)
    return gammas


def oracle_scores(essential: Sequence[bool]) -> Tensor:
    """Step scores (K,) that labels would give: 1 for an essential step, 0 for a redundant one. An upper bound.

    `step_gammas` reads them as attention scores: 0 < S_base < 1 for every response with p > 0 and a thinking token. So
    under PA an essential step keeps its advantage, and a redundant one is attenuated as far as difficulty, schedule and
    floor let it (published: `1 - (1 - floor) * p**attenuation_exponent`); under NA an essential step is spared, and a
    redundant one takes the whole negative advantage.
    """
    return torch.tensor(list(essential), dtype=torch.float64)


def confidence_scores(
    logps: Tensor, step_of_token: Tensor, n_steps: int, answer_tokens: int, total_tokens: int
) -> Tensor:
    """Step scores (K,) from the model's confidence, in place of attention: an ablation of ours.

    `S_k = |F| / total_tokens * exp(c_k - c)`, c_k the mean log-probability of the step's tokens, c that of all steps'
    tokens. So at p = 1 a step that is as confident as the whole has the baseline score, and less confident ones are
    attenuated: SAS's signal (2604.24003) in AttnPO's formula. NaN for steps without tokens.

    Args:
        logps: (T,) log-probabilities of the sampled tokens.
        step_of_token: (T,), -1 for tokens of no step.
        n_steps: K.
        answer_tokens, total_tokens: as in `baseline_score`.

    Raises:
        AttnPOError: a log-probability in a step that is not finite.
    """
    of_step = confidence_of_steps(logps, step_of_token, n_steps)
    return answer_tokens / total_tokens * torch.exp(of_step - logps[step_of_token >= 0].double().mean())


GAIN = 0.2
"""Gain of accuracy with which a step is kept whole: one right answer more of five."""


def gain_scores(accuracies: Sequence[float], answer_tokens: int, total_tokens: int, enough: float = GAIN) -> Tensor:
    """Step scores (K,) from what each step adds to the accuracy, in place of attention: an ablation of ours.

    `S_k = |F| / total_tokens * max(acc_k - acc_{k-1}, 0) / enough`, acc_k the accuracy of answers behind the first k
    steps. So at p = 1 a step that gains `enough` has the baseline score, and one that gains less is attenuated: VSRM's
    signal (2508.10293) in AttnPO's formula. Where the answer is right without any thinking, all steps are.

    Args:
        accuracies: K + 1 of them, the first that of answers without thinking.
        answer_tokens, total_tokens: as in `baseline_score`.
        enough: see above, greater than 0.
    """
    behind = torch.tensor(list(accuracies), dtype=torch.float64)
    return answer_tokens / total_tokens * behind.diff().clamp(min=0) / enough


def _schedule_open(group_accuracy: float, global_step: int, config: CreditConfig) -> bool:
    if not config.schedule:
        return True
    delay = 1 - group_accuracy if config.variant == "published" else group_accuracy
    return global_step > config.warmup_steps * delay


def token_gammas(gammas: Tensor, step_of_token: Tensor) -> Tensor:
    """Factors (T,) per token from factors (K,) per step.

    1 where step_of_token (T,) is -1: `</think>`, answer, padding.

    Raises:
        AttnPOError: step_of_token names a step outside -1 .. K - 1.
    """
    k = gammas.shape[0]
    wrong = (step_of_token < -1) | (step_of_token >= k)
    if wrong.any():
        raise AttnPOError(
            f"step index {int(step_of_token[wrong][0])} is outside -1 .. {k - 1}: pass align_steps' indices"
        )
    padded = torch.cat([gammas, gammas.new_ones(1)])
    return padded[step_of_token.long().to(gammas.device)]
