"""Makes lm-eval's backends give exact token counts for our tasks.

lm-eval 0.4.13 passes only text to tasks: end-of-sequence and special tokens are removed, and tokenizing the text again
gives other counts. `install` wraps the Hugging Face, vLLM and OpenAI-compatible backends, which are still called, so
that the responses to our tasks are `Generation`s with the sampled ids and the finish reason. Other tasks' responses are
left as they are.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from attnpo.errors import AttnPOError
from attnpo.evaluation.lengths import Generation, bytes_table, count_tokens
from attnpo.method.steps import THINK_END
from attnpo.sampling.sampler import cut_at_end

logger = logging.getLogger(__name__)

TASK_PREFIX = "attnpo_"
"""Tasks whose names start with this get exact counts. The field "text" of their documents is the bare prompt."""


def install() -> None:
    """Make lm-eval's backends return `Generation`s for our tasks. It is safe to call this again.

    Only backends that are imported already are wrapped, because importing vLLM takes long. So call this after the
    model is loaded.

    Responses to requests with stop strings (`until`) stay plain text, since lm-eval cuts that text and the ids would
    not match. A prompt that lacks the model's chat template gets it: without the flag `--apply_chat_template` a
    reasoning model would be asked in a form that it was never trained on.

    The wrapped backends raise an `AttnPOError` if prompt and budget exceed the model's context, because lm-eval would
    cut the prompt.
    """
    for module, name, generate in (
        ("lm_eval.models.huggingface", "HFLM", _generate_locally),
        ("lm_eval.models.vllm_causallms", "VLLM", _generate_locally),
        ("lm_eval.models.openai_completions", "LocalCompletionsAPI", _generate_on_server),
    ):
        backend = getattr(sys.modules.get(module), name, None)
        if backend is not None and not getattr(backend.generate_until, "_attnpo_counts", False):
            backend.generate_until = _counting(backend.generate_until, generate)


def _counting(original: Any, generate: Any) -> Any:
    @functools.wraps(original)
    def generate_until(self: Any, requests: list[Any], *args: Any, **kwargs: Any) -> list[str]:
        ours = [request for request in requests if _is_ours(request)]
        if not ours or self.backend != "causal":
            return original(self, requests, *args, **kwargs)
        _apply_missing_chat_template(self, ours)
        _refuse_cut_prompts(self, ours)
        return generate(self, requests, lambda changed: original(self, changed, *args, **kwargs))

    generate_until._attnpo_counts = True  # type: ignore[attr-defined]
    return generate_until


def _is_ours(request: Any) -> bool:
    return (request.task_name or "").startswith(TASK_PREFIX)


def _keeps_ids(request: Any) -> bool:
    return _is_ours(request) and not request.args[1].get("until")


def _apply_missing_chat_template(lm: Any, requests: list[Any]) -> None:
    if not (getattr(lm.tokenizer, "chat_template", None) or _is_chat_server(lm)):
        return
    bare = [request for request in requests if request.args[0] == request.doc["text"]]
    if bare:
        logger.warning("the prompts lack the model's chat template; it is applied, as by --apply_chat_template")
    # A request is in the list once for each repeat.
    for request in {id(request): request for request in bare}.values():
        prompt = lm.apply_chat_template([{"role": "user", "content": request.doc["text"]}])
        request.arguments = (prompt, *request.args[1:])


def _refuse_cut_prompts(lm: Any, requests: list[Any]) -> None:
    if getattr(lm, "tokenized_requests", True) is False:
        return  # a server that is sent text refuses such prompts itself
    budgets: dict[str, int] = {}
    for request in requests:
        prompt, options = request.args[:2]
        if isinstance(prompt, str):
            budgets[prompt] = max(budgets.get(prompt, 0), int(options.get("max_gen_toks", 0)))
    for prompt, budget in budgets.items():
        tokens = len(lm.tok_encode(prompt))
        if tokens + budget > lm.max_length:
            raise AttnPOError(
                f"a prompt of {tokens} tokens and a budget of {budget} exceed the {lm.max_length} tokens that the "
                "model is loaded with, and lm-eval would cut the prompt; give --gen_kwargs max_gen_toks=... or "
                "--model_args max_length=..."
            )


# Backends that run the model in this process.


class _Recorded(NamedTuple):
    sampled: list[tuple[list[int], str | None]]
    """Ids and finish reason, in the order of generation."""
    keys: list[tuple[str, str]]
    """(prompt, text as lm-eval returns it), in the same order."""


def _generate_locally(lm: Any, requests: list[Any], original: Callable[[list[Any]], list[str]]) -> list[str]:
    with _recording(lm) as recorded:
        texts = original(requests)
    return _attach(lm, requests, texts, recorded)


@contextmanager
def _recording(lm: Any) -> Iterator[_Recorded]:
    """Record what `lm` generates. Its cache hook is called with each prompt and text in the order of generation."""
    recorded = _Recorded([], [])
    before = {name: vars(lm)[name] for name in ("_model_generate", "cache_hook") if name in vars(lm)}
    generate, hook = lm._model_generate, lm.cache_hook

    def recording_generate(*args: Any, **kwargs: Any) -> Any:
        output = generate(*args, **kwargs)
        if isinstance(output, list):  # vLLM's RequestOutput
            recorded.sampled.extend((list(o.outputs[0].token_ids), _finish(o.outputs[0].finish_reason)) for o in output)
        else:  # (B, prompt and response) ids
            context = kwargs["context"] if "context" in kwargs else args[0]
            end_ids = _end_ids(lm)
            rows = output[:, context.shape[1] :].tolist()
            recorded.sampled.extend(cut_at_end(row, end_ids) for row in rows)
        return output

    class Hook:
        @staticmethod
        def add_partial(attr: str, request: Any, text: str) -> None:
            recorded.keys.append((request[0], text))
            hook.add_partial(attr, request, text)

    lm._model_generate, lm.cache_hook = recording_generate, Hook
    try:
        yield recorded
    finally:
        del lm._model_generate, lm.cache_hook
        vars(lm).update(before)


def _attach(lm: Any, requests: list[Any], texts: list[str], recorded: _Recorded) -> list[str]:
    """Give each text its ids, found by prompt and text. Responses that share both may be exchanged."""
    if len(recorded.sampled) != len(recorded.keys):
        raise AttnPOError(
            f"lm-eval generated {len(recorded.sampled)} rows, told of {len(recorded.keys)}; install lm-eval==0.4.13"
        )
    found: dict[tuple[str, str], deque[tuple[list[int], str | None]]] = defaultdict(deque)
    for key, sampled in zip(recorded.keys, recorded.sampled, strict=True):
        found[key].append(sampled)
    table = bytes_table(lm.tokenizer)
    attached: list[str] = []
    for request, text in zip(requests, texts, strict=True):
        ids, finish = found[request.args[0], text].popleft()
        if _keeps_ids(request):
            text = Generation.make(_decode(lm.tokenizer, ids, finish), ids, finish, count_tokens(ids, table))
        attached.append(text)
    return attached


def _decode(tokenizer: Any, ids: list[int], finish: str | None) -> str:
    """The text with special tokens. lm-eval removes them, and some tokenizers count `</think>` as one."""
    ids = ids[:-1] if finish == "stop" else ids
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _finish(reason: Any) -> str | None:
    return reason if reason in ("stop", "length") else None


def _end_ids(lm: Any) -> set[int]:
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {token for token in [*ends, lm.eot_token_id] if token is not None}


# OpenAI-compatible servers.

ASK_FOR_IDS = {"return_token_ids": True, "skip_special_tokens": False}
"""Fields of vLLM's server that OpenAI's does not have. Other servers ignore or refuse them; after a refusal they are
left out."""
REFUSED = (400, 422)
"""HTTP status of a request with fields that the server does not know."""


class _Answer(str):
    """Text as lm-eval parses it, with the server's choice from which it came."""

    choice: dict[str, Any]
    usage: int | None


def _generate_on_server(lm: Any, requests: list[Any], original: Callable[[list[Any]], list[str]]) -> list[str]:
    # In two calls, since the fields that ours add would change the texts of others.
    kept = [request for request in requests if _keeps_ids(request)]
    others = [request for request in requests if not _keeps_ids(request)]
    with _listening(lm):
        answers = iter(original(kept) if kept else [])
    texts = iter(original(others) if others else [])
    responses = []
    for request in requests:
        answer = next(answers if _keeps_ids(request) else texts)
        responses.append(_from_choice(answer) if isinstance(answer, _Answer) else answer)
    return responses


def _is_chat_server(lm: Any) -> bool:
    module = sys.modules.get("lm_eval.models.openai_completions")
    return module is not None and isinstance(lm, module.LocalChatCompletion)


@contextmanager
def _listening(lm: Any) -> Iterator[None]:
    """Ask the server for ids and keep its choices, of which lm-eval keeps only the texts."""
    from lm_eval.models import api_models, openai_completions

    create, parse, call, acall = lm._create_payload, lm.parse_generations, lm.model_call, lm.amodel_call
    # Hosted services are other classes, and do not know these fields.
    local = type(lm) in (openai_completions.LocalCompletionsAPI, openai_completions.LocalChatCompletion)
    asking = local and not getattr(lm, "attnpo_ids_refused", False)

    def create_payload(*args: Any, **kwargs: Any) -> dict[str, Any]:
        payload = create(*args, **kwargs)
        return {**ASK_FOR_IDS, **payload} if asking else payload

    def parse_generations(outputs: Any, **kwargs: Any) -> list[Any]:
        texts = parse(outputs=outputs, **kwargs)
        choices = [
            pair for output in (outputs if isinstance(outputs, list) else [outputs]) for pair in _choices(output)
        ]
        if len(choices) != len(texts):
            return texts
        answers = []
        for text, (choice, usage) in zip(texts, choices, strict=True):
            answer = _Answer(api_models.LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER if text is None else text)
            answer.choice, answer.usage = choice, usage
            answers.append(answer)
        return answers

    def refused(status: int | None, asked: bool) -> bool:
        nonlocal asking
        if not (asked and status in REFUSED):
            return False
        if asking:
            logger.warning("the server refuses to be asked for token ids; its usage counts the tokens")
        asking, lm.attnpo_ids_refused = False, True
        return True

    def model_call(*args: Any, **kwargs: Any) -> Any:
        asked = asking
        try:
            return call(*args, **kwargs)
        except api_models.requests.HTTPError as error:
            if not refused(getattr(error.response, "status_code", None), asked):
                raise
        return call(*args, **kwargs)

    async def amodel_call(*args: Any, **kwargs: Any) -> Any:
        from aiohttp import ClientResponseError

        asked = asking
        try:
            return await acall(*args, **kwargs)
        except ClientResponseError as error:
            if not refused(error.status, asked):
                raise
        return await acall(*args, **kwargs)

    before = dict(vars(lm))
    vars(lm).update(
        _create_payload=create_payload,
        parse_generations=parse_generations,
        model_call=model_call,
        amodel_call=amodel_call,
    )
    try:
        yield
    finally:
        for name in ("_create_payload", "parse_generations", "model_call", "amodel_call"):
            del vars(lm)[name]
            if name in before:
                vars(lm)[name] = before[name]


def _choices(output: Any) -> list[tuple[dict[str, Any], int | None]]:
    """A response's choices in order, each with its number of tokens, which `usage` gives only for a single choice."""
    choices = sorted((output or {}).get("choices") or [], key=lambda choice: choice["index"])
    usage = (output.get("usage") or {}).get("completion_tokens") if len(choices) == 1 else None
    return [(choice, usage) for choice in choices]


def _from_choice(answer: _Answer) -> Generation:
    message = answer.choice.get("message") or {}
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    text = str(answer)
    if reasoning:  # a server with a reasoning parser moves the thinking out of the content and drops `</think>`
        text = reasoning if message.get("content") is None else f"{reasoning}{THINK_END}{text}"
    return Generation.make(
        text, answer.choice.get("token_ids"), _finish(answer.choice.get("finish_reason")), None, answer.usage
    )
