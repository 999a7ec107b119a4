"""How often doubt, branch and summary phrases occur in a thinking."""

from __future__ import annotations

from attnpo.method.steps import PhraseSet, phrase_set, unmerged_steps

PHRASE_KINDS = {"doubt": "doubt", "branch": "branch", "summary": "backward"}
"""Kind of phrase that is counted, and the field of `attnpo.method.steps.PhraseSet` that lists it."""


def phrase_counts(thinking: str, phrases: str | PhraseSet = "corrected") -> dict[str, int]:
    """How many doubt, branch and summary phrases the thinking holds, of those that open a step.

    Args:
        thinking: the text before `</think>`.
        phrases: as in `attnpo.method.steps.split_steps`; summary phrases count right after a newline alone.

    Raises:
        AttnPOError: an unknown phrase set.
    """
    triggers = [step.trigger for step in unmerged_steps(thinking, phrases)]
    chosen = phrase_set(phrases)
    kinds = {kind: set(getattr(chosen, field)) for kind, field in PHRASE_KINDS.items()}
    return {kind: sum(trigger in members for trigger in triggers) for kind, members in kinds.items()}
