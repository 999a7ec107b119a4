"""Whether a response repeats itself: the rule of LASER-DE (arXiv 2505.15612)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence


def repeats_itself(ids: Sequence[int], n: int = 4, times: int = 3) -> bool:
    """Whether some n-gram of tokens occurs `times` times in a row, each less than a third of the text after the last.

    n-grams of one token again and again do not count. Source: the rule that the published code applies to responses
    of 200 tokens and more [C]. Deviation: it has smaller n and counts for shorter texts, which would call
    nearly every short trace a repetition; here one rule holds for all.
    """
    near: dict[tuple[int, ...], deque[int]] = defaultdict(lambda: deque(maxlen=times))
    for start in range(len(ids) - n + 1):
        gram = tuple(ids[start : start + n])
        if len(set(gram)) == 1:
            continue
        places = near[gram]
        if places and start - places[-1] >= len(ids) / 3:
            places.clear()
        places.append(start)
        if len(places) == times:
            return True
    return False
