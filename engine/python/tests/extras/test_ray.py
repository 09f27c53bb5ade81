"""Ray: two workers on one machine, of which one is killed; texts are those of one process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy
import pytest

import brooklet

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")

PROMPTS = ["Once upon a time", "The sea was", "In the year", "He said", "A ship", "The captain"]
ROWS = 96


@pytest.fixture(scope="module")
def rows() -> list:
    return [{"id": i, "prompt": f"{PROMPTS[i % 6]} {i}"} for i in range(ROWS)]


@pytest.fixture(scope="module")
def expected(rows) -> list:
    """The texts of one process."""
    model = brooklet.Model.open()
    batch = model.generate_batch((row["prompt"] for row in rows), 48, seed=11, parallel=16)
    return [done.text for done in batch]


def write(path: Path, rows: list) -> None:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist(rows, pyarrow.schema([("id", pyarrow.int16()), ("prompt", pyarrow.string())]))
        pyarrow.parquet.write_table(table, path, row_group_size=20)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> list:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(source: Path, target: Path, *more: str) -> list:
    return [sys.executable, "-m", "brooklet.ray", str(source), str(target), "--tokens", "48", "--seed", "11",
            "--block", "8", *more]


def workers() -> list:
    """The processes of Ray that write texts."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if line.startswith("ray::") and "IDLE" not in line and ("Map" in line or "Worker" in line):
            found.append(process.info["pid"])
    return found


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_one_of_two_workers_is_killed(tmp_path, rows, expected, kind):
    source, target = tmp_path / f"in{kind}", tmp_path / f"out{kind}"
    write(source, rows)
    parts = tmp_path / f"out{kind}.parts"
    process = subprocess.Popen(command(source, target, "--workers", "2"))
    killed = None
    while process.poll() is None:
        done = len(list(parts.glob(f"0*{kind}"))) if parts.exists() else 0
        if killed is None and done >= 2:
            for pid in workers()[:1]:
                os.kill(pid, signal.SIGKILL)
                killed = pid
        time.sleep(0.02)
    assert process.returncode == 0 and killed is not None
    result = read(target)
    assert [row["id"] for row in result] == list(range(ROWS))
    assert [row["text"] for row in result] == expected
    assert [row["seed"] for row in result] == [11 + i for i in range(ROWS)]
    assert not parts.exists()
    if kind == ".parquet":
        import pyarrow.parquet

        types = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(target)}
        assert types == {"id": "int16", "prompt": "string", "text": "string", "reason": "string", "seed": "uint64",
                         "tokens": "int64", "error": "string"}


def test_a_job_goes_on(tmp_path, rows, expected):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write(source, rows)
    parts = tmp_path / "out.jsonl.parts"
    process = subprocess.Popen(command(source, target))
    while len(list(parts.glob("0*.jsonl")) if parts.exists() else []) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    subprocess.run([str(Path(sys.executable).with_name("ray")), "stop", "--force"], capture_output=True)
    there = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.jsonl")}
    assert 2 <= len(there) < ROWS // 8 and not target.exists()
    other = subprocess.run(command(source, target, "--temperature", "0"), capture_output=True, text=True)
    assert other.returncode == 1 and "another job" in other.stderr
    watch: dict = {}
    stop = threading.Event()

    def look():
        while not stop.is_set():
            for path in parts.glob("0*.jsonl"):
                watch[path.name] = path.stat().st_mtime_ns
            time.sleep(0.005)

    thread = threading.Thread(target=look)
    thread.start()
    done = subprocess.run(command(source, target, "--workers", "2"), capture_output=True, text=True)
    stop.set()
    thread.join()
    assert done.returncode == 0, done.stderr
    assert all(watch.get(name, time) == time for name, time in there.items()), "parts were written again"
    assert [row["text"] for row in read(target)] == expected
    again = subprocess.run(command(source, target), capture_output=True, text=True)
    assert again.returncode == 1 and "it is there" in again.stderr


def test_map_batches(rows, expected):
    import ray.data

    import brooklet.ray

    ray.init(ignore_reinit_error=True, log_to_driver=False, num_cpus=2)
    numbered = [{**row, "seed": 11 + row["id"]} for row in rows]
    done = ray.data.from_items(numbered).map_batches(
        brooklet.ray.Generate, concurrency=2, batch_size=20, fn_constructor_kwargs={"tokens": 48}
    )
    result = sorted(done.take_all(), key=lambda row: row["id"])
    assert [row["text"] for row in result] == expected
    texts = ray.data.from_items([{"text": f"the {word}"} for word in ["sea", "moon", "ship"]])
    labels = texts.map_batches(
        brooklet.ray.Score, concurrency=1, fn_constructor_kwargs={"endings": [" is", " were"], "template": "{text}"}
    ).take_all()
    model = brooklet.Model.open()
    for row in labels:
        scores = [score.logprob for score in model.score(row["text"], [" is", " were"])]
        assert row["label"] == int(numpy.argmax(scores)) and 0.5 <= row["share"] <= 1
    vectors = texts.map_batches(brooklet.ray.Embed, concurrency=1).take_all()
    assert numpy.linalg.norm(vectors[0]["embedding"]) == pytest.approx(1, abs=1e-5)
    ray.shutdown()


@pytest.mark.parametrize(
    ("text", "more", "words"),
    [
        ('{"prompt": "a"}\n', ["--block", "0"], "expected 1 at least"),
        ('{"prompt": "a"}\n', ["--model", "/nothing.brk"], "nothing.brk"),
    ],
)
def test_what_cannot_be_done(tmp_path, text, more, words):
    source = tmp_path / "in.jsonl"
    source.write_text(text)
    done = subprocess.run(command(source, tmp_path / "out.jsonl", *more), capture_output=True, text=True)
    assert done.returncode != 0 and words in done.stderr + done.stdout
    assert not (tmp_path / "out.jsonl").exists()
    onto = subprocess.run(command(source, source), capture_output=True, text=True)
    assert onto.returncode == 2 and "must not be overwritten" in onto.stderr and source.read_text() == text
