"""Sample from an OpenAI-compatible server through lm-eval's API models: each response is one request, many at once.

A vLLM server gives the sampled ids. Of others there is text, a finish reason and perhaps their own count of tokens.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any

from attnpo.errors import AttnPOError, first_line
from attnpo.method.steps import THINK_END
from attnpo.sampling.http import may_pass, status_of
from attnpo.sampling.sampler import Sample, Sampler

logger = logging.getLogger(__name__)

ASK_FOR_IDS = {"return_token_ids": True, "skip_special_tokens": False}
"""Fields of vLLM's server that OpenAI's does not have. Other servers ignore or refuse them; after a refusal they are
left out."""
REFUSED = (400, 422)
"""HTTP status of a request with fields that the server does not know."""
_CHAT = "/chat/completions"
_TIMEOUT = 6 * 3600  # seconds that one response may take


class ServerSampler(Sampler):
    """A sampler on an API model of lm-eval; each response is a `unit` of its own.

    Prompts are what the API model sends: token ids, text, or a chat in lm-eval's own type. A server that honours seeds
    gives other responses for other seeds.

    Args:
        lm: an instance of lm-eval's `TemplateAPI`.
        concurrent: requests at once.
    """

    unit = 1

    def __init__(self, lm: Any, concurrent: int) -> None:
        from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

        self._lm, self._concurrent = lm, concurrent
        # Hosted services are other classes, and do not know these fields.
        self._asks_for_ids = type(lm) in (LocalCompletionsAPI, LocalChatCompletion)
        self._refused = Lock()

    def sample(
        self,
        prompts: Sequence[Any],
        *,
        k: int = 1,
        temperature: float,
        top_p: float = 1.0,
        max_new_tokens: int,
        seeds: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[int, int, Sample]]:
        """See `Sampler.sample`; a response comes when the server has it.

        Raises:
            AttnPOError: the server is out of reach, or refuses.
        """
        how = {"temperature": temperature, "top_p": top_p, "max_gen_toks": max_new_tokens, "until": []}
        turns = iter(range(len(prompts) * k))
        running: dict[Future[Sample], int] = {}
        with ThreadPoolExecutor(self._concurrent) as pool:
            try:
                while True:
                    while len(running) < 2 * self._concurrent and (turn := next(turns, None)) is not None:
                        seed = {} if seeds is None else {"seed": seeds[turn]}
                        running[pool.submit(self._ask, prompts[turn // k], {**how, **seed, **(options or {})})] = turn
                    if not running:
                        return
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        turn = running.pop(done)
                        yield turn // k, turn % k, done.result()
            finally:
                for waiting in running:
                    waiting.cancel()

    def _ask(self, prompt: Any, how: dict[str, Any]) -> Sample:
        import requests

        asked = self._asks_for_ids
        try:
            return self._sample(self._call(prompt, {**ASK_FOR_IDS, **how} if asked else how))
        except requests.RequestException as error:
            if not asked or status_of(error) not in REFUSED:
                raise self._failure(error) from error
        with self._refused:  # several threads may be refused at once; it is said once
            if self._asks_for_ids:
                logger.warning("the server refuses to be asked for token ids; its usage counts the tokens")
            self._asks_for_ids = False
        try:
            return self._sample(self._call(prompt, how))
        except requests.RequestException as error:
            raise self._failure(error) from error

    def _call(self, prompt: Any, how: dict[str, Any]) -> dict[str, Any]:
        """The server's answer; asked again after an error that may pass."""
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

        again = Retrying(
            stop=stop_after_attempt(self._lm.max_retries),
            wait=wait_exponential(multiplier=0.5, min=1, max=10),
            retry=retry_if_exception(may_pass),
            reraise=True,
        )
        return again(self._lm.model_call, messages=[prompt], generate=True, gen_kwargs=how)

    def _failure(self, error: Any) -> AttnPOError:
        said = getattr(error.response, "text", "").strip() if getattr(error, "response", None) is not None else ""
        reason = f"{first_line(error)}{': ' if said else ''}{said[:300]}"
        return AttnPOError(
            f"the server at {self._lm.base_url} did not answer ({reason}); check address, model name and budget, then "
            "run the same command again: what was sampled is kept"
        )

    def _sample(self, answer: dict[str, Any]) -> Sample:
        choice = (answer.get("choices") or [{}])[0]
        message = choice.get("message") or choice
        text = message.get("content", message.get("text"))
        if text is None and not choice:  # another format, which the API model can read
            (text,) = self._lm.parse_generations(outputs=[answer])
        reasoning = message.get("reasoning") or message.get("reasoning_content")
        if reasoning:  # a server with a reasoning parser moves the thinking out of the content and drops `</think>`
            text = reasoning if text is None else f"{reasoning}{THINK_END}{text}"
        finish = choice.get("finish_reason")
        return Sample(
            list(choice.get("token_ids") or []),
            finish if finish in ("stop", "length") else None,
            text or "",
            (answer.get("usage") or {}).get("completion_tokens"),
        )

    def close(self) -> None:
        """There is nothing to give back."""


def is_chat(base_url: str) -> bool:
    """Whether an address takes chats, to which the server applies the chat template.

    Raises:
        AttnPOError: the address is neither of chat completions nor of completions.
    """
    if not base_url.startswith(("http://", "https://")) or not base_url.rstrip("/").endswith("/completions"):
        raise AttnPOError(
            f"base_url {base_url!r}: give the whole address, such as http://localhost:8000/v1/completions or "
            f"http://localhost:8000/v1{_CHAT}"
        )
    return base_url.rstrip("/").endswith(_CHAT)


def connect(base_url: str, model: str, concurrent: int) -> ServerSampler:
    """A sampler on a server.

    Args:
        base_url: see `is_chat`. Prompts of completions are token ids, those of chats are made by `chat_prompt`.
        model: the name under which the server knows the model.
        concurrent: requests at once.

    Raises:
        AttnPOError: as `is_chat`, or lm-eval's extra `api` is missing.
    """
    chat = is_chat(base_url)
    try:
        from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

        backend = LocalChatCompletion if chat else LocalCompletionsAPI
        lm = backend(base_url=base_url, model=model, tokenizer_backend=None, timeout=_TIMEOUT)
    except ModuleNotFoundError as error:
        raise AttnPOError(f"backend server needs lm-eval's API models ({error}); pip install 'attnpo[api]'") from error
    # Prompts are made here, and a response ends where the server's model ends it.
    lm.tokenized_requests, lm.eos_string = not chat, None
    return ServerSampler(lm, concurrent)


def chat_prompt(text: str) -> Any:
    """A text as the user's turn, in the form in which lm-eval's API models send chats."""
    from lm_eval.models.api_models import JsonChatStr

    return JsonChatStr(json.dumps([{"role": "user", "content": text}], ensure_ascii=False))
