"""lm-evaluation-harness: results beside those of its own class `hf`, on a trained model in f32."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

pytest.importorskip("lm_eval")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import brooklet
import brooklet.lm_eval
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

TEXTS = [
    "The old captain looked at the sea for a long time, and said nothing at all.",
    "It was a dark night when the ship came into the harbour; nobody had seen her lights.",
    "Once upon a time there lived a miller who had three sons and a donkey.",
    "She took the letter from the table, read it twice, and put it into the fire.",
    "In the year of the great storm the church lost its tower, and the village its bell.",
]


@pytest.fixture(scope="module", params=["mamba1-demo", "mamba2-demo"])
def folder(request, shared, tmp_path_factory) -> Path:
    """A trained model as transformers opens it."""
    source, target = shared / "models" / request.param, tmp_path_factory.mktemp(request.param)
    for name in ["config.json", "model.safetensors", "tokenizer.json"]:
        shutil.copy(source / name, target / name)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return target


@pytest.fixture(scope="module")
def both(folder, tmp_path_factory):
    """The model as brooklet's and as the harness' own, both in f32."""
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(2)
    own = brooklet.Model.open(folder, dtype="f32", cache=tmp_path_factory.mktemp("cache"))
    ours = brooklet.lm_eval.BrookletLM(own.path, max_gen_toks=24)
    # Its shortcut for contexts that begin alike takes the longest continuation's logits for all.
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1, logits_cache=False)
    return ours, theirs


def requests(kind: str, arguments: list) -> list:
    return [Instance(kind, {}, argument, i) for i, argument in enumerate(arguments)]


def pairs() -> list:
    found = []
    for text in TEXTS:
        words = text.split(" ")
        for at in [0, 1, 4, 8]:
            context, rest = " ".join(words[:at]), " ".join(words[at:])
            found += [(context, " " + rest if context else rest), (context, " " + words[-1]), (context + " " if context else "", rest)]
    return found


def test_log_likelihoods_are_those_of_transformers(both, folder):
    # Without its kernels for cards, transformers reads Mamba-1 token by token.
    asked = pairs()[:: 7 if folder.name.startswith("mamba1") else 1]
    ours, theirs = (lm.loglikelihood(requests("loglikelihood", asked)) for lm in both)
    assert len(ours) == len(theirs) == len(asked)
    print("log-likelihood: greatest difference", max(abs(own - other) for (own, _), (other, _) in zip(ours, theirs)))
    assert numpy.allclose([own for own, _ in ours], [other for other, _ in theirs], rtol=1e-4, atol=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_whole_texts(both):
    long = [(" ".join(TEXTS * n),) for n in [1, 4]] + [(text,) for text in TEXTS]
    ours, theirs = (lm.loglikelihood_rolling(requests("loglikelihood_rolling", long)) for lm in both)
    print("rolling:", ours, theirs)
    assert numpy.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_windows(both):
    """Documents longer than max_length are cut as `hf` cuts them."""
    ours, theirs = both
    before = ours.max_length, theirs._max_length
    ours.max_length = theirs._max_length = 16
    try:
        found = [lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(" ".join(TEXTS),)])) for lm in both]
        cut = [lm.loglikelihood(requests("loglikelihood", [(" ".join(TEXTS), " and so on")])) for lm in both]
    finally:
        ours.max_length, theirs._max_length = before
    assert numpy.allclose(*found, rtol=1e-4, atol=1e-4)
    assert numpy.allclose(cut[0][0][0], cut[1][0][0], rtol=1e-4, atol=1e-4)


def test_texts(both):
    wish = {"until": ["\n\n", " and"], "max_gen_toks": 24, "do_sample": False}
    arguments = [(text[: len(text) // 2].rsplit(" ", 1)[0], dict(wish)) for text in TEXTS]
    ours, theirs = (lm.generate_until(requests("generate_until", arguments)) for lm in both)
    assert ours == theirs and any(ours)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Local tasks of each kind."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = []
    for i, text in enumerate(TEXTS):
        words = text.split(" ")
        wrong = [other.split(" ")[-1] for other in TEXTS if other != text][:2]
        rows.append({"text": text, "begin": " ".join(words[:-1]), "choices": [words[-1], *wrong], "answer": 0, "next": words[5]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / 'rows.jsonl'}\ntest_split: test\n"
    (folder / "choice.yaml").write_text(
        "task: local_choice\noutput_type: multiple_choice\n" + common
        + 'doc_to_text: "{{begin}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: answer\n'
        "metric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )
    (folder / "rolling.yaml").write_text(
        "task: local_rolling\noutput_type: loglikelihood_rolling\n" + common
        + 'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list:\n  - metric: word_perplexity\n  - metric: bits_per_byte\n'
    )
    (folder / "until.yaml").write_text(
        "task: local_until\noutput_type: generate_until\n" + common
        + 'doc_to_text: "{{begin}}"\ndoc_to_target: "{{next}}"\ngeneration_kwargs:\n  until:\n    - "."\n  max_gen_toks: 12\n'
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )
    return folder


def test_local_tasks(both, tasks):
    names = ["local_choice", "local_rolling", "local_until"]
    found = []
    for lm in both:
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        found.append(simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0)["results"])
    for name in names:
        for metric, value in found[1][name].items():
            if isinstance(value, float):
                print(name, metric, found[0][name][metric], value)
                assert found[0][name][metric] == pytest.approx(value, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("way", ["module", "registered"])
def test_the_command(tasks, tmp_path, way):
    """`lm_eval --model brooklet`, where this environment was told of it, and without."""
    program = [sys.executable, "-m", "brooklet.lm_eval"]
    arguments = ["--model", "brooklet", "--model_args", "threads=1", "--tasks", "local_choice",
                 "--include_path", str(tasks), "--output_path", str(tmp_path)]
    if way == "registered":
        subprocess.run([*program, "--register"], check=True)
        command = [str(Path(sys.executable).with_name("lm_eval"))]
    else:
        command = program
    try:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    finally:
        subprocess.run([*program, "--unregister"], check=True)
    assert done.returncode == 0, done.stderr
    assert "local_choice" in done.stdout and "acc" in done.stdout
    (results,) = tmp_path.rglob("results*.json")
    assert json.loads(results.read_text())["results"]["local_choice"]["acc,none"] >= 0
