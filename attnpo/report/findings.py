"""What follows from the estimates, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from attnpo.report.selection import Selection
from attnpo.report.table import Cell, signed
from attnpo.runs.profile import Profile
from attnpo.runs.settings import BASE
from attnpo.statistics.measures import REDUNDANT_SHARE

_MOSTLY = 0.9  # share of the cut steps that must be redundant to call the cut redundant


def many_with_attnpo(profile: Profile) -> bool:
    """Whether sentences on each method with AttnPO would be too long to read."""
    return sum(method.attnpo for method in profile.methods.values()) > 2


def findings(profile: Profile, estimates: Selection, task: str, labels: Mapping[str, str]) -> list[str]:
    """Sentences on one task.

    Each method with AttnPO is compared with the first of the same reward without it, the report's reference with each
    of them. Where there are more than two methods with AttnPO, there are sentences on the reference alone.

    Args:
        profile: methods, reference, margin.
        estimates: of the profile's methods.
        task: of the sentences.
        labels: of the methods.
    """
    sentences = []
    many = many_with_attnpo(profile)
    run = set(estimates.methods(task))
    for name, method in profile.methods.items():
        if not method.attnpo or (many and name != profile.report.reference):
            continue
        plain = profile.without_attnpo(name)
        for other in plain if name == profile.report.reference else plain[:1]:
            missing = [labels[m] for m in (name, other) if m not in run]
            if missing:
                if len(missing) == 1:
                    sentences.append(
                        f"{labels[name]} against {labels[other]}: {missing[0]} not run, nothing can be said."
                    )
                continue
            found = estimates.differences(task, name, other)
            sentences.append(_length_and_accuracy(found, labels[name], labels[other], profile.report.accuracy_margin))
            pairs = [(name, other), (name, BASE), (other, BASE)]
            for one, against in pairs[:1] if many else pairs:
                found = estimates.differences(task, one, against)
                if {"redundant_steps", "essential_steps"} <= set(found):
                    sentences.append(_what_was_cut(found, labels[one], labels[against]))
    return sentences


def _length_and_accuracy(found: Mapping[str, Cell], name: str, other: str, margin: float) -> str:
    tokens, accuracy = found["tokens"], found["accuracy"]
    shorter, longer = tokens.high < 0, tokens.low > 0
    better = accuracy.low > 0
    equal, worse = accuracy.low > -margin, accuracy.high < 0
    if shorter and better:
        verdict = f"{name} is shorter than {other} and more accurate."
    elif shorter and equal:
        verdict = f"{name} is shorter than {other} at equal accuracy."
    elif shorter and worse:
        verdict = f"{name} is shorter than {other}, but less accurate."
    elif shorter:
        verdict = f"{name} is shorter than {other}; that its accuracy is equal is not shown."
    elif longer:
        verdict = f"{name} is longer than {other}."
    else:
        verdict = f"That {name} is shorter than {other} is not shown."
    share = f"{found['tokens_relative'].value:+.1%}".replace("-", "−")
    return f"{verdict} Tokens {signed(tokens)}, that is {share}; accuracy {signed(accuracy, 100)} points."


def _what_was_cut(found: Mapping[str, Cell], name: str, other: str) -> str:
    redundant, essential = found["redundant_steps"], found["essential_steps"]
    against = (
        f"{name} against {other}, steps a response: redundant {signed(redundant, digits=2)}, "
        f"essential {signed(essential, digits=2)}."
    )
    if redundant.high >= 0:
        return f"{against} That it cut redundant steps is not shown."
    if essential.low > 0:
        return f"{against} It cut redundant steps, while essential steps rose."
    if essential.high >= 0:
        lost = f"{max(0.0, -essential.low):.2f}"
        verdict = f"It cut redundant steps; that essential steps changed is not shown (at most {lost} of them lost)."
        return f"{against} {verdict}"
    share = found[REDUNDANT_SHARE.name]
    if share.low > _MOSTLY:
        verdict = "What it cut was redundant"
    elif share.low > 0.5:
        verdict = "What it cut was mostly redundant"
    elif share.high < 0.5:
        verdict = "What it cut was mostly essential"
    else:
        verdict = "That what it cut was mostly redundant is not shown"
    interval = f"{share.low:.0%} to {share.high:.0%}"
    return f"{against} Both fell. {verdict}: {share.value:.0%} ({interval}) of the steps cut were redundant ones."
