"""The model card of a trained model: from what, on what and how it was trained, its results, and what to cite."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

import attnpo
from attnpo.environment import git_state, package_versions
from attnpo.statistics.bootstrap import Estimate
from attnpo.training.config import AttnPOConfig

PAPER = {
    "title": "AttnPO: Attention-Guided Process Supervision for Efficient Reasoning",
    "id": "2602.09953",
    "citation": """\
@inproceedings{nie-etal-2026-attnpo,
    title     = {{AttnPO: Attention-Guided Process Supervision for Efficient Reasoning}},
    author    = {Shuaiyi Nie and Siyu Ding and Wenyuan Zhang and Linhao Yu and Tianmeng Yang and Yao Chen and
                 Weichong Yin and Yu Sun and Hua Wu and Tingwen Liu},
    booktitle = {Proceedings of the 64th Annual Meeting of the Association for Computational Linguistics
                 (Volume 1: Long Papers)},
    year      = 2026,
    url       = {https://aclanthology.org/2026.acl-long.1845/},
    eprint    = {arXiv:2602.09953},
}""",
}
"""The paper of the method, as a model card cites it."""
TRL_CITATION = """\
@software{vonwerra2020trl,
    title   = {{TRL: Transformers Reinforcement Learning}},
    author  = {von Werra, Leandro and Belkada, Younes and Tunstall, Lewis and Beeching, Edward and Thrush, Tristan and
               Lambert, Nathan and Huang, Shengyi and Rasul, Kashif and Gallouédec, Quentin},
    license = {Apache-2.0},
    url     = {https://github.com/huggingface/trl},
    year    = {2020},
}"""
"""As TRL's own cards cite it."""
NO_RESULTS = "None yet."
_TEMPLATE = Path(__file__).with_name("card.md.j2")
_RESULTS = re.compile(r"^## Results\n.*?(?=^## |\Z)", re.M | re.S)


@dataclass(frozen=True, kw_only=True)
class About:
    """What a card says of a training that the trainer's arguments do not. No name here is a path of the machine."""

    name: str
    """Of the trained model."""
    base: str
    """The untrained model: its hub id, or a name for people."""
    base_on_hub: bool
    revision: str | None = None
    """Of the untrained model, on the hub."""
    data: str
    """What it was trained on: a hub data set's id, or a name for people."""
    data_on_hub: bool = False
    data_revision: str | None = None
    method: str
    """Its name for people."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Further settings: name to value."""


def model_card(
    about: About,
    args: AttnPOConfig,
    steps: int,
    processes: int,
    links: Mapping[str, str],
    tags: Sequence[str] = (),
) -> ModelCard:
    """The card of a model after `steps` optimizer steps, without results.

    Args:
        about: names.
        args: the trainer's arguments.
        steps: optimizer steps that were taken.
        processes: of the training.
        links: name to address, of pages that show the training.
        tags: more of them.
    """
    data = ModelCardData(
        base_model=about.base if about.base_on_hub else None,
        base_model_relation="finetune" if about.base_on_hub else None,
        datasets=about.data if about.data_on_hub else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        model_name=about.name,
        tags=["generated_from_trainer", "trl", *(["attnpo"] if args.attnpo else []), *tags],
    )
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        name=about.name,
        base=_named(about.base, about.base_on_hub, about.revision, ""),
        method=about.method,
        attnpo=args.attnpo,
        paper_title=PAPER["title"],
        paper_id=PAPER["id"],
        attnpo_citation=PAPER["citation"],
        trl_citation=TRL_CITATION,
        budget=args.max_completion_length,
        settings=_settings(about, args, steps, processes),
        links=dict(links),
        no_results=NO_RESULTS,
    )


def _settings(about: About, args: AttnPOConfig, steps: int, processes: int) -> dict[str, str]:
    """What stands under Training: name to value."""
    reward_args = f" with {_code(args.length_reward_args)}" if args.length_reward_args else ""
    found = {
        "base model": _named(about.base, about.base_on_hub, about.revision, ""),
        "data": _named(about.data, about.data_on_hub, about.data_revision, "datasets/"),
        "method": about.method,
        "length reward": f"`{args.length_reward}`{reward_args}",
        "advantages": f"`{args.advantage_estimator}`",
    }
    if args.attnpo and args.step_scores == "attention":
        assert not isinstance(args.heads, str)  # a file was read when the arguments were made
        heads = [(int(layer), int(head)) for layer, head in args.heads or []]
        found["heads as (layer, head), both from 0"] = ", ".join(map(str, heads))
    elif args.attnpo:
        found["step scores, in place of attention"] = f"`{args.step_scores}`"
    if args.attnpo:
        found["credit"] = _code(asdict(args.credit_config()))
        found["steps of a thinking"] = (
            f"phrases `{args.phrases}`, at least {args.min_step_chars} characters, "
            f"a lone trigger with at most {args.lone_trigger_chars}"
        )
    of_method = {"selection": args.selection, "exits": args.exits, "answers": args.answers, "openings": args.openings}
    found |= {name: _code(value) for name, value in of_method.items() if value is not None}
    found |= about.more
    generation, group = int(args.generation_batch_size or 0), int(args.num_generations or 1)
    micro_steps = int(args.steps_per_generation or 1) * int(args.num_iterations)
    lasts = max(1, micro_steps // int(args.gradient_accumulation_steps))
    return found | {
        "optimizer steps": str(steps),
        "rollouts": f"{group} for each of {generation // group} problems, sampled anew "
        + ("every step" if lasts == 1 else f"every {lasts} steps"),
        "response budget": f"{args.max_completion_length} tokens",
        "sampling": f"temperature {args.temperature:g}, top_p {args.top_p:g}",
        "learning rate": f"{args.learning_rate:g}, {getattr(args.lr_scheduler_type, 'value', args.lr_scheduler_type)}",
        "loss": f"`{args.loss_type}`, ratio clipped by {args.epsilon:g} from below and "
        f"{args.epsilon_high or args.epsilon:g} from above, KL coefficient {args.beta:g}",
        "seed": str(args.seed),
        "processes": str(processes),
        "versions": _versions(),
    }


def _named(name: str, on_hub: bool, revision: str | None, kind: str) -> str:
    linked = f"[{name}](https://huggingface.co/{kind}{name})" if on_hub else name
    return f"{linked} at revision {revision}" if revision else linked


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


@functools.cache  # git is asked once a process, not at every checkpoint
def _versions() -> str:
    state, found = git_state(), package_versions()
    commit = f" (commit {state['commit']}{' with changes' if state['dirty'] else ''})" if state["commit"] else ""
    names = ("trl", "transformers", "torch", "datasets", "tokenizers")
    return ", ".join([f"attnpo {attnpo.__version__}{commit}", *(f"{name} {found[name]}" for name in names)])


class Result(NamedTuple):
    """What a trained model reaches on a task."""

    task: str
    conditions: str
    """How responses were sampled, for people."""
    problems: int
    responses: int
    accuracy: Estimate
    """In per cent."""
    tokens: Estimate
    """Mean of a response."""


def _shown(estimate: Estimate, digits: int) -> str:
    value, low, high = (f"{end:.{digits}f}" for end in estimate)
    return f"{value} ({low} to {high})"


def put_results(card: ModelCard, results: Sequence[Result], level: float) -> None:
    """Put results into a card, in place of those that it has; all else stays as it is, by whomever it was written.

    Args:
        card: of `model_card`, or one that was edited since.
        results: none: the card says so.
        level: of the intervals.
    """
    lines = [NO_RESULTS]
    if results:
        lines = [
            f"Mean over the responses, with {level:.0%} intervals over the problems.",
            "",
            "| task | sampled with | problems | responses | accuracy, % | tokens of a response |",
            "|---|---|---|---|---|---|",
            *(
                f"| {r.task} | {r.conditions} | {r.problems} | {r.responses} "
                f"| {_shown(r.accuracy, 1)} | {_shown(r.tokens, 0)} |"
                for r in results
            ),
        ]
    section = "## Results\n\n" + "\n".join(lines) + "\n\n"
    text = card.text
    if _RESULTS.search(text) is None:
        text = text.rstrip() + "\n\n## Results\n"
    card.text = _RESULTS.sub(lambda _: section, text, count=1).rstrip() + "\n"
    data: Any = card.data  # typed as any card's
    data.eval_results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=result.task,
            dataset_name=result.task,
            dataset_config=result.conditions,
            metric_type=kind,
            metric_name=name,
            metric_value=round(estimate.value, 2),
        )
        for result in results
        for kind, name, estimate in (
            ("accuracy", "accuracy (%)", result.accuracy),
            ("tokens", "mean tokens of a response", result.tokens),
        )
    ] or None
