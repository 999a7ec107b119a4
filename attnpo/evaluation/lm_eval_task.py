"""The class of our lm-eval tasks, which sample k responses to each problem. Their YAML files name it under `class`.

In an ordinary YAML task of lm-eval, no option can change k (`repeats`), `process_results` does not get the model's
tokenizer, and all responses are lost if the process is killed. This class changes that, with settings from the metadata
that lm-eval passes to tasks.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any

from lm_eval.api.registry import metric_registry
from lm_eval.api.task import ConfigurableTask

from attnpo.errors import AttnPOError
from attnpo.evaluation.lm_eval_models import REQUEST_TYPE, Plan, add_method

add_method()

OPTIONS = (
    *("samples", "resume", "thinking", "source", "data_dir", "file"),
    *("start_date", "end_date", "release", "isolation", "image", "workers"),
)
"""Keys of the metadata that are a user's to set, without those that a model's arguments have too."""


def errors_in_one_line() -> None:
    """Let lm-eval's command line end with the line of an AttnPOError in place of a traceback; its exit code stays 1.

    It catches nothing, so what a task raises reaches Python's hook for uncaught exceptions. That hook is replaced for
    errors of ours, and only where the command line runs, which alone imports `lm_eval._cli`. An error that is a
    SystemExit too would need no hook, but would take the traceback from programs that call lm-eval as well.
    """
    if "lm_eval._cli" not in sys.modules:
        return
    theirs = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, AttnPOError):
            print(f"lm_eval: {error}", file=sys.stderr)
        else:
            theirs(kind, error, traceback)

    sys.excepthook = hook


errors_in_one_line()


class SampledTask(ConfigurableTask):
    """A YAML task with settable k, exact token counts and stored responses.

    - `--metadata '{"samples": 2}'` sets k.
    - `--metadata '{"resume": "folder"}'`, or the environment variable `ATTNPO_RESUME`, stores responses in that folder
      as they come, and the same command then asks only for those that are missing. Sampling is seeded in any case, see
      `attnpo.evaluation.questions`.
    - The YAML's `process_results` is called with a third argument, a function that returns the model's tokenizer.
    - With `--predict_only` responses are sampled and stored, and nothing is graded or run.

    Raises:
        AttnPOError: samples is no whole number of at least 1, resume is no name, or a key is nearly one of `OPTIONS`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        config = {key: value for key, value in config.items() if key != "class"}
        check_keys(config.get("metadata") or {})
        samples = (config.get("metadata") or {}).get("samples")
        if samples is not None:
            if type(samples) is not int or samples < 1:
                raise AttnPOError(f"samples is {samples!r} in the metadata; give a whole number, at least 1")
            config["repeats"] = samples
        # lm-eval looks up metrics that its registry lacks in the Evaluate library, which takes seconds and fails.
        for metric in config.get("metric_list") or []:
            if metric["metric"] not in metric_registry:
                metric_registry.register(metric["metric"], target=_of_process_results)
        super().__init__(config=config)
        self._plan = Plan.of(self.config.task, self.config.metadata or {})

    def build_all_requests(self, **options: Any) -> None:
        """Make the requests, to be answered by `attnpo.evaluation.lm_eval_models`.

        lm-eval's `--cache_requests` is ignored: it would restore the generation arguments and the k of another run.

        Raises:
            AttnPOError: a system instruction without the chat template that gives it its place.
        """
        templated = bool(options.get("apply_chat_template"))
        if options.get("system_instruction") and not templated:
            raise AttnPOError("--system_instruction needs the model's chat template; add --apply_chat_template")
        super().build_all_requests(**{**options, "cache_requests": False})
        for request in self.instances:
            request.request_type = REQUEST_TYPE
            request.attnpo_plan = self._plan._replace(templated=templated)

    def prepare(self, answered: Sequence[tuple[dict[str, Any], Sequence[str]]]) -> None:
        """Do at once what can be done for many problems and their responses; `process_results` follows for each."""

    @property
    def predicts_only(self) -> bool:
        """Whether nothing is graded: for `--predict_only`, lm-eval puts a name in place of the YAML's function."""
        return isinstance(self.config.process_results, str)

    def process_results(self, doc: dict[str, Any], results: list[list[str]]) -> dict[str, Any]:
        """Metrics of one problem from its k responses, by the YAML's function."""
        if self.predicts_only:
            return {"bypass": 0}
        return self.config.process_results(doc, results, lambda: self.tokenizer)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer with which responses without ids are counted.

        lm-eval merges the model's arguments into the metadata; the first of `tokenizer`, `pretrained` and `model` there
        names the tokenizer.

        Raises:
            AttnPOError: the metadata has none of them.
        """
        from transformers import AutoTokenizer

        metadata = self.config.metadata or {}
        named = [metadata[key] for key in ("tokenizer", "pretrained", "model") if metadata.get(key)]
        if not named:
            raise AttnPOError(
                f"{self.config.task}: the responses came without token ids and no tokenizer is named to count them; "
                """give --metadata '{"tokenizer": "<name or folder>"}'"""
            )
        return AutoTokenizer.from_pretrained(named[0])


def check_keys(metadata: Iterable[str]) -> None:
    """Refuse misspelt options. Other keys pass: lm-eval merges the model's arguments into the metadata.

    Raises:
        AttnPOError: a key that is nearly one of `OPTIONS`.
    """
    for key in metadata:
        near = difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.8)  # .78: num_workers, some model's, and workers
        if near and key not in OPTIONS:
            raise AttnPOError(f"the metadata has no option {key!r}, did you mean {near[0]!r}?")


def _of_process_results(*_: Any, **__: Any) -> Any:
    """Placeholder in lm-eval's registry for metrics that `process_results` computes."""
    raise AttnPOError("this metric comes from a task's process_results and cannot be computed alone")
