"""Step Ranking Accuracy of attention heads, and the ranking that names the Key-Focus Heads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnpo.errors import AttnPOError

Head = tuple[int, int]  # (layer, head), both from 0


class StepRankingAccuracy(NamedTuple):
    """Step Ranking Accuracy (SRA) of H heads."""

    sra: Tensor  # (H,) float64, 0 to 1; 0.5 is chance
    low: Tensor  # (H,) ends of the bootstrap interval
    high: Tensor
    n_pairs: int  # (essential, redundant) pairs of steps
    n_responses: int  # responses with at least one pair


def step_ranking_accuracy(
    scores: Sequence[Tensor],
    essential: Sequence[Tensor],
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> StepRankingAccuracy:
    """How often a head scores an essential step above a redundant one of the same response (paper: SRA).

    Pooled: each (essential, redundant) pair counts once, from whichever response; a tie counts one half. The
    interval is a percentile bootstrap over responses, since pairs of one response are not independent.

    Args:
        scores: per response (H, K) step scores. A step that is NaN for all heads (no tokens) is left out.
        essential: per response (K,) bool, True for essential and False for redundant steps.
        n_resamples: bootstrap samples.
        confidence: share of the bootstrap distribution within the interval.
        seed: of the bootstrap; the same seed gives the same interval.

    Raises:
        AttnPOError: no pair at all, shapes that do not fit, or a score that is NaN for some heads only.
    """
    if len(scores) != len(essential):
        raise AttnPOError(f"{len(scores)} responses with scores, {len(essential)} with labels: give one label per step")
    if not 0 < confidence < 1 or n_resamples < 1:
        raise AttnPOError(f"confidence {confidence}, n_resamples {n_resamples}: give one in (0, 1) and at least 1")
    counted = [_wins(score, label, place) for place, (score, label) in enumerate(zip(scores, essential, strict=True))]
    counted = [(wins, n_pairs) for wins, n_pairs in counted if n_pairs]
    if not counted:
        raise AttnPOError(
            f"no response of {len(scores)} has both an essential and a redundant step: label more responses"
        )
    wins = torch.stack([w for w, _ in counted])  # (N, H)
    pairs = torch.tensor([n for _, n in counted], dtype=torch.float64)
    n = len(counted)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (n_resamples, n), generator=generator)
    times = torch.zeros(n_resamples, n, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones(1, 1, dtype=torch.float64).expand_as(drawn))
    resampled = (times @ wins) / (times @ pairs)[:, None]
    tail = (1 - confidence) / 2
    low, high = torch.quantile(resampled, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return StepRankingAccuracy(wins.sum(0) / pairs.sum(), low, high, int(pairs.sum()), n)


def ensemble_ranking_accuracy(
    scores: Sequence[Tensor], essential: Sequence[Tensor], rows: Sequence[int], **options: Any
) -> StepRankingAccuracy:
    """SRA of the mean score of several heads, as training uses them (paper: ensemble curve).

    Args:
        scores, essential, options: as in `step_ranking_accuracy`.
        rows: the heads to average, as rows of each (H, K).

    Returns:
        Tensors of length 1.

    Raises:
        AttnPOError: no rows, or a row that the scores lack.
    """
    n_heads = min((len(score) for score in scores), default=0)
    if not rows or not all(0 <= row < n_heads for row in rows):
        raise AttnPOError(f"rows {list(rows)}: give at least one from 0 to {n_heads - 1}")
    return step_ranking_accuracy([score[list(rows)].mean(0, keepdim=True) for score in scores], essential, **options)


def _wins(scores: Tensor, essential: Tensor, response: int) -> tuple[Tensor, int]:
    """Per head the number of pairs won (ties one half), (H,) float64, and the number of pairs."""
    essential = torch.as_tensor(essential, dtype=torch.bool, device=scores.device)
    if scores.ndim != 2 or essential.shape != scores.shape[1:]:
        raise AttnPOError(
            f"response {response}: labels {tuple(essential.shape)} do not fit scores {tuple(scores.shape)}: "
            "give (K,) and (H, K)"
        )
    empty = scores.isnan().all(0)
    scores, essential = scores[:, ~empty].double().cpu(), essential[~empty].cpu()
    if scores.isnan().any():
        raise AttnPOError(f"response {response}: a step score is NaN for some heads only: compute the scores again")
    high, low = scores[:, essential, None], scores[:, None, ~essential]
    wins = (high > low).double() + 0.5 * (high == low).double()
    return wins.sum((1, 2)), wins.shape[1] * wins.shape[2]


class RankedHead(NamedTuple):
    """A head with its SRA and bootstrap interval."""

    layer: int
    head: int
    sra: float
    low: float
    high: float


@dataclass(frozen=True)
class HeadRanking:
    """What a probe found: the content of heads.json. Raises AttnPOError for values that cannot be."""

    model: str
    """Model name or path."""
    revision: str | None
    """Commit or hash of the weights, None if unknown."""
    phrase_set: str
    """Phrases that the steps were cut with."""
    min_chars: int
    """Minimum step length in characters."""
    label_source: str
    """Who said which steps are essential."""
    n_responses: int
    n_pairs: int
    heads: tuple[RankedHead, ...]
    """One entry per head, in order of (layer, head)."""

    def __post_init__(self) -> None:
        seen: set[Head] = set()
        for entry in self.heads:
            if entry.layer < 0 or entry.head < 0 or (entry.layer, entry.head) in seen:
                raise AttnPOError(f"head ({entry.layer}, {entry.head}) is negative or listed twice: probe again")
            if not (0 <= entry.low <= 1 and 0 <= entry.sra <= 1 and 0 <= entry.high <= 1):
                raise AttnPOError(f"head ({entry.layer}, {entry.head}) has an SRA outside 0 to 1: probe again")
            seen.add((entry.layer, entry.head))
        if not seen:
            raise AttnPOError("the ranking lists no heads: probe again")

    @classmethod
    def of(cls, result: StepRankingAccuracy, heads: Sequence[Head], **about: Any) -> HeadRanking:
        """From SRA (H,) and its H heads; `about`: model, revision, phrase_set, min_chars, label_source."""
        columns = [column.tolist() for column in (result.sra, result.low, result.high)]
        entries = [RankedHead(*head, *values) for head, *values in zip(heads, *columns, strict=True)]
        return cls(n_responses=result.n_responses, n_pairs=result.n_pairs, heads=tuple(sorted(entries)), **about)

    def best(self, n: int) -> list[RankedHead]:
        """The n heads of highest SRA, best first; ties by layer, then head. Raises AttnPOError if too few."""
        if not 1 <= n <= len(self.heads):
            raise AttnPOError(f"top {n} heads: give 1 to {len(self.heads)}")
        return sorted(self.heads, key=lambda entry: (-entry.sra, entry.layer, entry.head))[:n]

    def top(self, n: int) -> list[Head]:
        """`best(n)` as (layer, head)."""
        return [(entry.layer, entry.head) for entry in self.best(n)]

    def matrix(self) -> Tensor:
        """(layers, heads) float64 SRA for a heat map; NaN where nothing was measured."""
        size = max(e.layer for e in self.heads) + 1, max(e.head for e in self.heads) + 1
        table = torch.full(size, torch.nan, dtype=torch.float64)
        for entry in self.heads:
            table[entry.layer, entry.head] = entry.sra
        return table

    def to_json(self) -> str:
        """Readable JSON, one head a line."""
        about = asdict(self) | {"heads": None}
        lines = ",\n".join("    " + json.dumps(entry._asdict(), allow_nan=False) for entry in self.heads)
        return json.dumps(about, indent=2).replace('"heads": null', f'"heads": [\n{lines}\n  ]') + "\n"

    @classmethod
    def from_json(cls, text: str) -> HeadRanking:
        """The inverse of `to_json`. Raises AttnPOError for anything else."""
        try:
            about = json.loads(text)
        except json.JSONDecodeError as error:
            raise AttnPOError(f"not a head ranking: {error}; write it again with `attnpo probe`") from error
        _check_keys(about, {field.name for field in fields(cls)}, "head ranking")
        if not isinstance(about["heads"], list):
            raise AttnPOError("`heads` is not a list; write the ranking again with `attnpo probe`")
        for entry in about["heads"]:
            _check_keys(entry, set(RankedHead._fields), "head")
        for owner, names, kinds in [
            (about, ("model", "phrase_set", "label_source"), (str,)),
            (about, ("revision",), (str, type(None))),
            (about, ("min_chars", "n_responses", "n_pairs"), (int,)),
            *((entry, ("layer", "head"), (int,)) for entry in about["heads"]),
            *((entry, ("sra", "low", "high"), (int, float)) for entry in about["heads"]),
        ]:
            for name in names:
                if not isinstance(owner[name], kinds) or isinstance(owner[name], bool):
                    raise AttnPOError(f"`{name}` is {owner[name]!r}; write the ranking again with `attnpo probe`")
        heads = tuple(RankedHead(**entry) for entry in about.pop("heads"))
        return cls(heads=heads, **about)

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a temporary name beside `path` and rename it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.to_json(), encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> HeadRanking:
        """Read a file that `save` wrote. Raises AttnPOError that names the file."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise AttnPOError(f"{path}: {error.strerror}; write it with `attnpo probe`") from error
        except (AttnPOError, UnicodeDecodeError) as error:
            raise AttnPOError(f"{path}: {error}") from error


def _check_keys(record: Any, names: set[str], what: str) -> None:
    if not isinstance(record, dict):
        raise AttnPOError(f"not a {what}: {record!r:.60}; write the ranking again with `attnpo probe`")
    if record.keys() != names:
        missing, unknown = sorted(names - record.keys()), sorted(record.keys() - names)
        raise AttnPOError(f"a {what} has keys missing {missing}, unknown {unknown}: write it again with `attnpo probe`")
