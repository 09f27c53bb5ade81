"""The model of `brooklet.lm_eval`, and its command."""

import itertools
import json
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from tqdm import tqdm

import brooklet

Pair = tuple[Any, list[int], list[int]]
"""A request: its texts, the ids of the context, those of the continuation."""


@register_model("brooklet")
class BrookletLM(TemplateLM):
    """A model of brooklet's for the harness.

    `path` is a .brk file or a checkpoint (the demo model by default); `dtype`, `state`, `device`,
    `threads`, `context`, `window` are those of `brooklet.Model.open`; the device that the command
    `lm_eval` names where nobody names one, cuda:0, means the processor where there is no card that
    takes the model. `max_length` cuts contexts from
    the left and long documents into windows, as the harness' own class `hf` does: 2048 unless
    said otherwise, 0 for no bound (a recurrent model has none).
    """

    def __init__(
        self,
        path: Optional[str] = None,
        *,
        dtype: Optional[str] = None,
        state: str = "f32",
        device: Optional[str] = None,
        threads: int = 0,
        context: Optional[int] = None,
        window: Optional[int] = None,
        batch_size: Union[int, str, None] = 8,
        max_batch_size: Optional[int] = None,
        max_length: int = 2048,
        max_gen_toks: int = 256,
        prefix_token_id: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.path = path
        self.model = brooklet.Model.open(
            path,
            dtype=dtype,
            state=state,
            device=_device(device),
            threads=int(threads),
            context=context,
            window=window,
        )
        self.words = self.model.tokenizer
        self.max_length = int(max_length)
        self.max_gen_toks = int(max_gen_toks)
        named = str(batch_size or 8)
        self.batch_size = int(named) if named.isdigit() else max_batch_size or 8
        self.prefix = prefix_token_id

    @property
    def eot_token_id(self) -> int:
        """The token that ends texts."""
        if not self.words.ends:
            raise brooklet.TokenError("the model names no token that ends texts: give prefix_token_id")
        return self.words.ends[0]

    @property
    def prefix_token_id(self) -> int:
        """The token before texts without a context."""
        if self.prefix is not None:
            return int(self.prefix)
        return self.eot_token_id if self.words.begin is None else self.words.begin

    @property
    def tokenizer_name(self) -> str:
        """Tells the harness' caches which tokenizer and template this is."""
        return f"brooklet-{self.model.fingerprint:016x}"

    def chat_template(self, chat_template: Union[bool, str] = False) -> Optional[str]:
        """The model's template, if the harness is to use one."""
        return self.model.metadata.get("chat_template") or "" if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the model's text."""
        ids = self.model.encode_chat(chat_history, add_generation_prompt=add_generation_prompt)
        return self.words.decode(ids)

    def tok_encode(
        self, string: str, add_special_tokens: Optional[bool] = None, **kwargs: Any
    ) -> list[int]:
        """The ids of a text, behind the token that the model wants before texts."""
        ids = self.words.encode(string)
        begin = self.words.begin
        if begin is not None and add_special_tokens is not False and ids[:1] != [begin]:
            ids.insert(0, begin)
        return ids

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        # In the order of their tokens, contexts that begin alike stand beside each other.
        cut = [self._cut(context, continuation) for _, context, continuation in requests]
        order = sorted(range(len(cut)), key=lambda i: cut[i])
        found: dict[int, tuple[float, bool]] = {}
        bar = tqdm(total=len(cut), disable=disable_tqdm, desc="Running loglikelihood requests")
        for context, group in itertools.groupby(order, key=lambda i: cut[i][0]):
            members = list(group)
            scores = self.model.score(context, [cut[i][1] for i in members])
            for i, score in zip(members, scores):
                found[i] = (score.logprob, score.is_greedy)
                if requests[i][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], found[i])
            bar.update(len(members))
        bar.close()
        return [found[i] for i in range(len(cut))]

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Both, the context without what is too long of it."""
        if self.max_length and len(context) + len(continuation) > self.max_length + 1:
            room = self.max_length + 1 - len(continuation)
            if room < 1:
                raise brooklet.ContextError(
                    f"a continuation of {len(continuation)} tokens: max_length is {self.max_length}"
                )
            context = context[-room:]
        return list(context), list(continuation)

    def loglikelihood_rolling(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probabilities of whole texts, in windows of `max_length` tokens."""
        windows: list[Pair] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            parts = utils.get_rolling_token_windows(
                token_list=ids,
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length or max(len(ids), 1),
                context_len=1,
            )
            for context, continuation in map(utils.make_disjoint_window, parts):
                windows.append((None, context, continuation))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (logprob, _) in zip(
            owners, self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        ):
            sums[number] += logprob
        for request, logprob in zip(requests, sums):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, logprob)
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts behind contexts, many at a time."""
        texts: dict[int, str] = {}
        bar = tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests")
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        for members in groups.values():
            wish = normalize_gen_kwargs(dict(requests[members[0]].args[1]), self.max_gen_toks)
            until = handle_stop_sequences(wish.get("until"), eos=self.words.decode([self.eot_token_id]))
            tokens = int(wish["max_gen_toks"])
            prompts = [self.tok_encode(requests[i].args[0]) for i in members]
            if self.max_length:
                prompts = [prompt[-max(self.max_length - tokens, 1) :] for prompt in prompts]
            batch = self.model.generate_batch(
                (prompt or [self.prefix_token_id] for prompt in prompts),
                tokens,
                stop=[stop for stop in until if stop],
                parallel=self.batch_size,
                **_sampling(wish),
            )
            for i, completion in zip(members, batch):
                texts[i] = completion.text
                self.cache_hook.add_partial("generate_until", requests[i].args, completion.text)
                bar.update()
        bar.close()
        return [texts[i] for i in range(len(requests))]

    def get_model_info(self) -> dict[str, Any]:
        """What the harness notes of the model beside its results."""
        return {
            "model_path": str(self.model.path or "demo"),
            "model_architecture": self.model.architecture,
            "model_fingerprint": f"{self.model.fingerprint:016x}",
            "brooklet_version": brooklet.__version__,
        }


def _sampling(wish: dict[str, Any]) -> dict[str, Any]:
    """Options of the harness as keywords of `generate_batch`: greedy unless it asks for more."""
    temperature = float(wish.get("temperature") or 0.0)
    if not wish.get("do_sample") or temperature == 0.0:
        return {"temperature": 0.0, "seed": 0}
    known: dict[str, Any] = {name: wish[name] for name in ("top_k", "top_p", "min_p", "seed") if name in wish}
    # As transformers does it: the temperature before the cuts.
    steps = ["temperature", "top-k", "top-p", "min-p"]
    return {"temperature": temperature, "top_p": 1.0, "steps": steps, "seed": 0, **known}


def _device(asked: Optional[str]) -> str:
    """A device by the harness' words, whose command always names one."""
    return "auto" if asked == "cuda:0" else asked or "cpu"


HOOK = '''"""Lets lm-evaluation-harness know the model `brooklet` (python -m brooklet.lm_eval --unregister)."""

import importlib.abc
import importlib.util
import sys


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "lm_eval.models":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None and importlib.util.find_spec("brooklet"):
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                from lm_eval.api.registry import model_registry

                model_registry.register("brooklet", target="brooklet._harness:BrookletLM")

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
'''


def _register(on: bool) -> None:
    folder = Path(sysconfig.get_paths()["purelib"])
    hook, start = folder / "_brooklet_harness.py", folder / "_brooklet_harness.pth"
    if on:
        hook.write_text(HOOK, encoding="utf-8")
        start.write_text("import _brooklet_harness\n", encoding="utf-8")
        print(f"lm_eval --model brooklet works now in {sys.prefix}")
    else:
        start.unlink(missing_ok=True)
        hook.unlink(missing_ok=True)


def main() -> None:
    """The harness' own command, which knows this model."""
    if sys.argv[1:] in (["--register"], ["--unregister"]):
        _register(sys.argv[1] == "--register")
        return
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()

