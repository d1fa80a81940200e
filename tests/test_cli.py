"""The command line, run as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lapwing

GOLDEN = Path(__file__).parent / "golden"
EN_DE = "lapwing/tiny-en-de"
SHAKESPEARE = "lapwing/tiny-shakespeare"


def run(*words: str, text: str = "", code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-m", "lapwing", *words],
        input=text,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return result


@contextmanager
def killed_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Waits for a process with a timeout, and kills it on any error."""
    with process:
        try:
            yield
        finally:
            process.kill()


def lines(result: subprocess.CompletedProcess[str]) -> list[Any]:
    return [json.loads(line) for line in result.stdout.split("\n") if line]


def test_translate_reads_arguments_files_and_standard_input(tmp_path: Path) -> None:
    texts = ["A dog runs.", "A man is riding a bicycle down the street."]
    wanted = [r.text for r in lapwing.load(EN_DE).translate(texts)]
    assert run("translate", EN_DE, *texts).stdout.splitlines() == wanted
    path = tmp_path / "texts"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    assert run("translate", EN_DE, "--file", str(path)).stdout.splitlines() == wanted
    found = lines(run("translate", EN_DE, "--json", "--to", "de", text="\n".join(texts)))
    assert [entry["text"] for entry in found] == wanted
    assert [entry["source"] for entry in found] == texts
    several = run("translate", EN_DE, "--beams", "4", "--num-hypotheses", "2", texts[0]).stdout
    assert len(several.splitlines()) == 2


def test_generate_streams_or_writes_json() -> None:
    own = lapwing.load(SHAKESPEARE)
    wanted = own.generate("ROMEO:\n", max_tokens=12, temperature=0)
    options = ["--max-tokens", "12", "--temperature", "0"]
    assert run("generate", SHAKESPEARE, *options, "ROMEO:\n").stdout == wanted.text + "\n"
    assert run("generate", SHAKESPEARE, "--no-stream", *options, text="ROMEO:\n\n").stdout == wanted.text + "\n"
    entry = lines(run("generate", SHAKESPEARE, "--json", *options, "ROMEO:\n", "JULIET:\n"))[0]
    assert (entry["prompt"], entry["text"], entry["ids"]) == (
        "ROMEO:\n",
        wanted.text,
        list(wanted.ids),
    )
    stopped = run("generate", SHAKESPEARE, *options, "--stop", "man", "ROMEO:\n").stdout
    assert stopped == wanted.text[: wanted.text.index("man")] + "\n"


def test_embed_writes_numbers_json_and_arrays(tmp_path: Path) -> None:
    folder = str(GOLDEN / "bert-sentence")
    texts = ["Hello, world!", "The dog sleeps."]
    wanted = lapwing.load(folder).embed(texts)
    rows = [[float(v) for v in line.split()] for line in run("embed", folder, *texts).stdout.splitlines()]
    np.testing.assert_allclose(rows, wanted, rtol=1e-5, atol=1e-7)
    found = lines(run("embed", folder, "--json", *texts))
    assert np.array_equal(np.float32([entry["embedding"] for entry in found]), wanted)
    path = tmp_path / "vectors.npy"
    run("embed", folder, "--output", str(path), text="\n".join(texts))
    assert np.array_equal(np.load(path), wanted)


def test_tasks_of_encoders() -> None:
    text = "The quick brown fox isn't over the lazy dog."
    label, score, shown = run("classify", str(GOLDEN / "bert-seqcls"), text).stdout.strip().split("\t")
    found = lapwing.load(GOLDEN / "bert-seqcls").classify(text)
    assert (label, shown) == (found.label, text)
    assert float(score) == pytest.approx(found.score, abs=1e-4)
    tags = lines(run("tag", str(GOLDEN / "bert-tokcls"), "--json", text))[0]["tags"]
    assert all(tag["text"] == text[tag["start"] : tag["end"]] for tag in tags)
    assert run("tag", str(GOLDEN / "bert-tokcls"), text).stdout.count("\n") == len(tags)
    answer = lines(run("answer", str(GOLDEN / "bert-qa"), "What is it?", text, "--json", "--top-k", "2"))[0]
    assert answer["text"] == text[answer["start"] : answer["end"]]
    assert len(answer["alternatives"]) == 1
    fills = run("fill-mask", str(GOLDEN / "bert-mlm"), "--top-k", "3", "A [MASK] fox.").stdout
    assert len(fills.splitlines()) == 3
    ranked = lines(run("rank", str(GOLDEN / "bert-sentence"), "a dog", "--json", text="one\ntwo\nthree\n"))
    assert [r["score"] for r in ranked] == sorted((r["score"] for r in ranked), reverse=True)
    assert {r["text"] for r in ranked} == {"one", "two", "three"}


def test_options_of_tasks_reach_the_model() -> None:
    """Every option of a command has the effect of the method's option."""
    folder, text = str(GOLDEN / "bert-seqcls"), "The quick brown fox."
    own = lapwing.load(folder)
    rows = [line.split("\t")[0] for line in run("classify", folder, "--top-k", "2", text).stdout.splitlines()]
    assert rows == [label.label for label in own.classify(text).labels[:2]]
    pair = lines(run("classify", folder, "--pairs", "--json", "--scores", "sigmoid", text="one\ttwo\n"))[0]
    assert pair["text"] == ["one", "two"]
    assert pair["score"] == own.classify(("one", "two"), scores="sigmoid").score
    assert len(pair["labels"]) == len(own.classify("one").labels)
    assert "tab" in run("classify", folder, "--pairs", text, code=1).stderr
    folder = str(GOLDEN / "bert-tokcls")
    tags = lines(run("tag", folder, "--json", "--aggregation", "none", "--ignore-label", "B-PER", text))[0]["tags"]
    found = lapwing.load(folder).tag(text, aggregation="none", ignore_labels=["B-PER"])
    assert [tag["label"] for tag in tags] == [tag.label for tag in found]
    folder, context = str(GOLDEN / "bert-qa"), "The quick brown fox jumps over the lazy dog. " * 3
    options = {"max_answer_tokens": 2, "window": 24, "stride": 4}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    entry = lines(run("answer", folder, "Who?", context, "--json", *words))[0]
    assert (entry["text"], entry["score"]) == (
        (found := lapwing.load(folder).answer("Who?", context, **options)).text,
        found.score,
    )
    folder = str(GOLDEN / "bert-mlm")
    fills = run("fill-mask", folder, "A [MASK] fox.", "--target", "dog", "--target", "the").stdout.splitlines()
    assert {line.split("\t")[1] for line in fills} == {"dog", "the"}
    folder = str(GOLDEN / "bert-sentence")
    own = lapwing.load(folder)
    ranked = lines(run("rank", folder, "q", "one", "two", "--json", "--query-prompt", "query: "))
    assert [entry["score"] for entry in ranked] == [
        one.score for one in own.rank("q", ["one", "two"], query_prompt="query: ")
    ]
    vector = lines(run("embed", folder, "--json", "--max-tokens", "4", "--truncate", text))[0]["embedding"]
    assert np.array_equal(np.float32(vector), own.embed(text, max_tokens=4, truncate=True))
    assert "tokens" in run("embed", folder, "--max-tokens", "4", "--no-truncate", text, code=1).stderr
    folder = str(GOLDEN / "xlm-roberta-rerank")
    ranked = lines(run("rank", folder, "q", "one", "two", "--json", "--scores", "none"))
    assert [entry["score"] for entry in ranked] == [
        one.score for one in lapwing.load(folder).rank("q", ["one", "two"], scores="none")
    ]


def test_any_option_of_generation_can_be_given() -> None:
    own = lapwing.load(SHAKESPEARE)
    words = ["generate", SHAKESPEARE, "ROMEO:", "--max-tokens", "12", "--seed", "1"]
    for options, given in (
        ({"temperature": 0, "bad_words": ["KING"]}, ["-o", "temperature=0", "-o", 'bad_words=["KING"]']),
        ({"temperature": 1.0, "top_h": 0.4}, ["--temperature", "1", "--option", "top-h=0.4"]),
        ({"temperature": 0, "stop": "KING"}, ["--temperature", "0", "-o", "stop=KING"]),
    ):
        assert run(*words, *given).stdout == own.generate("ROMEO:", max_tokens=12, seed=1, **options).text + "\n"
    assert "nonsense" in run(*words, "-o", "nonsense=1", code=1).stderr
    assert "NAME=VALUE" in run(*words, "-o", "nonsense", code=2).stderr
    beams = own.generate("ROMEO:", max_tokens=12, beams=3, num_hypotheses=2)
    words = ["generate", SHAKESPEARE, "ROMEO:", "--max-tokens", "12", "--beams", "3", "--num-hypotheses", "2"]
    assert run(*words).stdout == f"{beams.text}\n{beams.alternatives[0].text}\n"


def test_beams_of_the_checkpoint_are_shown_when_complete(tmp_path: Path) -> None:
    """They are neither refused by a stream nor ignored by greedy decoding."""
    source = Path(lapwing.__file__).parent / "builtin" / "tiny-shakespeare"
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = {"num_beams": 4, "max_new_tokens": 9, "bos_token_id": 0, "eos_token_id": 0}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert run("generate", str(tmp_path), "ROMEO:").stdout == lapwing.load(tmp_path).generate("ROMEO:").text + "\n"
    text = "People are waiting for the train at a station in the evening."
    translator = lapwing.load(EN_DE)
    assert run("generate", EN_DE, text).stdout == translator.generate(text).text + "\n"
    found = run("generate", EN_DE, text, "--beams", "3", "--num-hypotheses", "2").stdout.splitlines()
    assert found == [one.text for one in translator.generate(text, beams=3, num_hypotheses=2).hypotheses]


def test_chat_passes_tools_documents_and_variables(tmp_path: Path) -> None:
    folder = str(GOLDEN / "qwen3")
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    (tmp_path / "documents.json").write_text(json.dumps([{"title": "T", "text": "x"}]))
    words = ["chat", folder, "--max-tokens", "8", "--temperature", "0", "--json"]
    own = lapwing.load(folder)
    message = [{"role": "user", "content": "Hello"}]
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
    for given, more in (
        (["--tools", str(tmp_path / "tools.json")], {"tools": tools}),
        (["--set", "enable_thinking=false"], {"template_variables": {"enable_thinking": False}}),
        (
            [
                "--documents",
                str(tmp_path / "documents.json"),
                "--template",
                "{{ documents[0].title }}{{ messages[-1].content }}",
            ],
            {
                "documents": [{"title": "T", "text": "x"}],
                "chat_template": "{{ documents[0].title }}{{ messages[-1].content }}",
            },
        ),
    ):
        assert lines(run(*words, *given, text="Hello\n"))[0]["text"] == own.chat(message, **more, **options).text
    (tmp_path / "tools.json").write_text("{}")
    assert "expected a list" in run(*words, "--tools", str(tmp_path / "tools.json"), text="x\n", code=1).stderr


def test_score_info_and_version() -> None:
    fields = run("score", SHAKESPEARE, "ROMEO:\nI am a man").stdout.rstrip("\n").split("\t")
    named = dict(field.split("=") for field in fields)
    found = lapwing.load(SHAKESPEARE).score("ROMEO:\nI am a man")
    assert list(named) == ["logprob", "perplexity", "tokens"]
    assert int(named["tokens"]) == len(found.logprobs)
    assert float(named["logprob"]) == pytest.approx(found.total, abs=1e-3)
    assert float(named["perplexity"]) == pytest.approx(found.perplexity, abs=1e-3)
    entry = lines(run("score", SHAKESPEARE, "--json", "ROMEO:\nI am a man"))[0]
    assert (entry["logprob"], entry["perplexity"]) == (found.total, found.perplexity)
    assert entry["tokens"] == len(entry["logprobs"]) == len(found.logprobs)
    facts = lines(run("info", EN_DE, "--json"))[0]
    assert facts["parameters"] == lapwing.load(EN_DE).info().parameters
    assert "tiny-en-de" in run("info").stdout
    assert lapwing.__version__ in run("--version").stdout


def test_chat_answers_each_line_of_a_pipe() -> None:
    folder = str(GOLDEN / "qwen3")
    chat = lapwing.Chat(lapwing.load(folder), system="Be brief.", max_tokens=8, temperature=0)
    wanted = [chat.send("Hello").text, chat.send("What is it?").text]
    words = [
        "chat",
        folder,
        "--system",
        "Be brief.",
        "--max-tokens",
        "8",
        "--temperature",
        "0",
        "--json",
    ]
    found = lines(run(*words, text="Hello\nWhat is it?\n"))
    assert [entry["text"] for entry in found] == wanted


def test_errors_are_one_line_and_have_codes(tmp_path: Path) -> None:
    for words, code, what in (
        (["translate", "./nowhere", "x"], 1, "nowhere"),
        (["translate", SHAKESPEARE, "x"], 1, "translate"),
        (["generate", SHAKESPEARE, "x", "--top-p", "7"], 1, "top_p"),
        (["translate", EN_DE, "--to", "fr", "x"], 1, "target_lang"),
        (["embed", EN_DE, "x"], 1, "embed"),
        (["translate", EN_DE, "--file", str(tmp_path / "none")], 1, "none"),
        (["translate", EN_DE], 1, "empty"),
        (["nonsense"], 2, "invalid choice"),
        (["translate", EN_DE, "x", "--nonsense"], 2, "--nonsense"),
        (["translate", EN_DE, "x", "--threads", "0"], 2, "threads"),
        ([], 2, "translate"),
    ):
        result = run(*words, code=code)
        assert what in result.stderr
        if code == 1:
            assert result.stderr.count("\n") == 1
            assert result.stderr.startswith("lapwing: error: ")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell of Unix")
@pytest.mark.parametrize(
    ("streams", "words", "code", "error"),
    [
        ("<&-", ["generate", SHAKESPEARE], 1, "no text: the input is empty"),
        ("<&-", ["chat", str(GOLDEN / "qwen3")], 0, ""),
        (">&-", ["generate", SHAKESPEARE, "ROMEO:", "--max-tokens", "3"], 0, ""),
        ("2>&-", ["generate", SHAKESPEARE, "ROMEO:", "--top-p", "7"], 1, ""),
        ("<&- >&-", ["translate", EN_DE, "A dog."], 0, ""),
    ],
)
def test_standard_streams_may_be_closed(streams: str, words: list[str], code: int, error: str) -> None:
    shell = ["sh", "-c", f'exec "$0" -m lapwing "$@" {streams}', sys.executable, *words]
    found = subprocess.run(shell, capture_output=True, text=True, encoding="utf-8", timeout=240)
    assert found.returncode == code
    assert found.stderr.strip() == (f"lapwing: error: {error}" if error else "")


def test_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "lapwing",
            "generate",
            SHAKESPEARE,
            "ROMEO:\n",
            "--max-tokens",
            "300",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with killed_at_the_end(process):
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(timeout=120) in (0, 141)
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_stops_with_130(talker: Path) -> None:
    options = ["--max-tokens", "4000", "--ignore-eos", "--temperature", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "lapwing", "generate", str(talker), "Hello", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pipesize=4096,  # smaller than the text, so that the process cannot finish before it is read
    )
    with killed_at_the_end(process):
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, (out, err)
        assert b"Traceback" not in err


def test_import_is_light() -> None:
    code = "import sys, lapwing; print(sorted({'numpy', 'tokenizers', 'huggingface_hub'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_demo_runs() -> None:
    shown = run("demo").stdout
    assert "Ein Mann fährt auf einem Fahrrad" in shown
    assert "Similarity of sentences" in shown


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parent.parent / "examples").glob("*.py")),
    ids=lambda path: path.stem,
)
def test_examples_run(path: Path) -> None:
    result = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, encoding="utf-8", timeout=240)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


# -- the hub -------------------------------------------------------------------------------------------


def cache_of(root: Path, folder: Path, repository: str, revision: str) -> Path:
    """A hub cache with a folder, in the layout of huggingface_hub."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    base = root / f"models--{repository.replace('/', '--')}"
    snapshot = base / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / revision).write_text(commit, encoding="utf-8")
    for path in folder.iterdir():
        if path.is_file():
            (snapshot / path.name).write_bytes(path.read_bytes())
    return snapshot


def test_hub_id_is_found_in_the_local_cache(tmp_path: Path) -> None:
    cache_of(tmp_path, GOLDEN / "bert-model", "someone/some-model", "main")
    environment = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    facts = lines(run("info", "someone/some-model", "--json", "--offline", **environment))[0]
    assert facts["id"] == "someone/some-model"
    result = run("info", "someone/some-model", "--revision", "v2", "--offline", code=1, **environment)
    assert "v2" in result.stderr
    result = run("info", "someone/other", code=1, **environment)
    assert "someone/other" in result.stderr


class Hub(BaseHTTPRequestHandler):
    """The parts of the hub that a download needs."""

    folder = GOLDEN / "bert-model"
    commit = "89abcdef0123456789abcdef0123456789abcdef"

    def log_message(self, format: str, *values: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _send(self, code: int, body: bytes, kind: str, head: dict[str, str], show: bool) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()
        if show:
            self.wfile.write(body)

    def _answer(self, show: bool) -> None:
        path = self.path.split("?")[0]
        parts = path.strip("/").split("/")
        names = sorted(p.name for p in self.folder.iterdir() if p.is_file())
        if parts[-2:-1] == ["revision"] and parts[-1] not in ("main", "v2", self.commit):
            head = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"}
            self._send(404, b'{"error":"no such revision"}', "application/json", head, show)
        elif path.startswith("/api/models/someone/hosted"):
            info = {
                "id": "someone/hosted",
                "modelId": "someone/hosted",
                "sha": self.commit,
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": name} for name in [*names, "pytorch_model.bin"]],
            }
            if "/tree/" in path:
                tree = [
                    {
                        "type": "file",
                        "path": n,
                        "size": (self.folder / n).stat().st_size,
                        "oid": "0" * 40,
                    }
                    for n in names
                ]
                self._send(200, json.dumps(tree).encode(), "application/json", {}, show)
            else:
                self._send(200, json.dumps(info).encode(), "application/json", {}, show)
        elif parts[:3] == ["someone", "hosted", "resolve"] and parts[-1] in names:
            body = (self.folder / parts[-1]).read_bytes()
            head = {
                "X-Repo-Commit": self.commit,
                "ETag": f'"{parts[-1]}"',
                "X-Linked-Size": str(len(body)),
            }
            self._send(200, body, "application/octet-stream", head, show)
        else:
            head = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self._send(404, b'{"error":"Repository not found"}', "application/json", head, show)


def test_hub_id_is_downloaded_once(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HUB_CACHE": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    try:
        facts = lines(run("info", "someone/hosted", "--json", **environment))[0]
        assert facts["architecture"] == "bert"
        result = run("info", "someone/missing", code=1, **environment)
        assert "no such repository" in result.stderr
        result = run("info", "someone/hosted", "--revision", "v2", "--offline", code=1, **environment)
        assert "someone/hosted at v2 is not in the local cache" in result.stderr
        assert lines(run("info", "someone/hosted", "--revision", "v2", "--json", **environment))[0] == facts
        result = run("info", "someone/hosted", "--revision", "v3", code=1, **environment)
        assert "no revision 'v3' of someone/hosted" in result.stderr
    finally:
        server.shutdown()
        server.server_close()
    snapshot = tmp_path / "models--someone--hosted" / "snapshots" / Hub.commit
    assert (snapshot / "model.safetensors").is_file()
    assert not (snapshot / "pytorch_model.bin").exists()
    assert (tmp_path / "models--someone--hosted" / "refs" / "v2").read_text() == Hub.commit
    for revision in ([], ["--revision", "v2"], ["--revision", Hub.commit]):
        assert lines(run("info", "someone/hosted", "--json", "--offline", *revision, **environment))[0] == facts


def test_ctrl_c_in_python_leaves_the_model_usable() -> None:
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        pytest.skip("signals reach the main thread only")
    own = lapwing.load(SHAKESPEARE)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        while time.monotonic() - start < 60:
            own.generate(["ROMEO:\n"] * 8, max_tokens=400, temperature=0, ignore_eos=True)
    timer.join()
    assert time.monotonic() - start < 10
    assert own.generate("ROMEO:\n", max_tokens=2, temperature=0).finish_reason == "length"


@pytest.mark.parametrize(
    ("model", "bound"),
    [
        (
            SHAKESPEARE,
            {"prefill 8": "peak", "decode 1 x 4 after 16": "read", "decode 1 x 4 after 40": "read"},
        ),
        (EN_DE, {"1 beams, 1 sources": "read peak", "4 beams, 2 sources": "read peak"}),
        (str(GOLDEN / "bert-model"), {"encode 32 x 16": "peak"}),
        (str(GOLDEN / "bert-sentence"), {"encode 32 x 16": "peak", "embed 32 x 16": "peak"}),
    ],
)
def test_bench_measures_every_shape(model: str, bound: dict[str, str]) -> None:
    options = ["--rounds", "1", "--batch", "2", "--quiet"]
    if not model.startswith(str(GOLDEN)):
        options += ["--tokens", "4"]
    if model == SHAKESPEARE:
        options += ["--prompt", "8", "--context", "40"]
    rows = lines(run("bench", model, *options, "--json"))
    assert len(rows) >= 2 and len({row["work"] for row in rows}) == len(rows)
    for row in rows:
        assert 0 < row["minimum"] <= row["median"] <= row["maximum"]
        assert all(row[name] is None or row[name] > 0 for name in ("of_read", "of_peak"))
    found = {row["work"]: [name for name in ("read", "peak") if row[f"of_{name}"]] for row in rows}
    assert {work: found.get(work) for work in bound} == {work: names.split() for work, names in bound.items()}
    assert "threads, reads" in run("bench", model, *options).stdout


def test_bench_of_a_short_model_takes_a_prompt_that_fits() -> None:
    rows = lines(run("bench", SHAKESPEARE, "--rounds", "1", "--tokens", "4", "--batch", "1", "--quiet", "--json"))
    assert rows[0]["work"] == "prefill 511"


def test_options_of_the_bench_are_honoured_or_refused() -> None:
    short = ("--rounds", "1", "--batch", "1", "--quiet", "--json")
    rows = lines(run("bench", SHAKESPEARE, *short, "--prompt", "8", "--tokens", "4", "--context", "3"))
    assert [row["work"] for row in rows] == ["prefill 8", "decode 1 x 4 after 16", "decode 1 x 4 after 3"]
    # 511 tokens of context and new tokens; the first token is one more.
    rows = lines(run("bench", SHAKESPEARE, *short, "--prompt", "8", "--tokens", "11", "--context", "500"))
    assert rows[-1]["work"] == "decode 1 x 11 after 500"
    refused("bench", SHAKESPEARE, *short, "--tokens", "12", "--context", "500", says="do not fit into 512")
    for option in ("--prompt", "--context"):
        refused("bench", EN_DE, *short, option, "8", says=f"{option} is 8, which the bench of this encoder-decoder")
    for option in ("--prompt", "--tokens", "--context"):
        refused("bench", str(GOLDEN / "bert-model"), *short, option, "8", says=f"{option} is 8, which the bench")


def test_warnings_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    words = ("translate", EN_DE, "--weights", "q8", "--packed-cache", "A dog runs.")
    result = run(*words, LAPWING_CACHE=str(file / "below"))
    assert result.stdout == run(*words, LAPWING_CACHE=str(tmp_path)).stdout
    assert result.stderr.startswith("lapwing: warning: packed weights are not cached"), result.stderr
    assert result.stderr.count("\n") == 1


def refused(*words: str, text: str = "", says: str, **environment: str) -> None:
    result = run(*words, text=text, code=1, **environment)
    assert says in result.stderr and result.stderr.startswith("lapwing: error: "), result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_inputs_that_are_no_text_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "latin"
    path.write_bytes(b"caf\xe9\n")
    refused("translate", EN_DE, "-f", str(path), says=f"{path}, line 1 is not UTF-8: byte 4 is 0xe9")
    refused("translate", EN_DE, "-f", str(tmp_path / "none"), says=f"{tmp_path / 'none'}: No such file or directory")
    refused("translate", EN_DE, "-f", str(tmp_path), says=f"{tmp_path}: Is a directory")
    for errors in ("strict", "surrogateescape"):
        command = [sys.executable, "-m", "lapwing", "translate", EN_DE]
        environment = {**os.environ, "PYTHONIOENCODING": f"utf-8:{errors}"}
        result = subprocess.run(command, input=path.read_bytes(), capture_output=True, env=environment, timeout=240)
        assert result.returncode == 1
        assert "standard input, line 1 is not UTF-8: byte 4 is 0xe9" in result.stderr.decode()


@pytest.mark.skipif(os.name != "posix", reason="arguments are bytes on POSIX alone")
def test_arguments_that_are_no_text_are_refused() -> None:
    command = [os.fsencode(sys.executable), b"-m", b"lapwing", b"translate", EN_DE.encode(), b"caf\xe9"]
    result = subprocess.run(command, capture_output=True, timeout=240)
    assert result.returncode == 1
    assert b"an argument is not UTF-8: byte 4 is 0xe9" in result.stderr


def test_lines_are_what_ends_in_a_line_feed(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_bytes("\ufeffA dog.\r\nTwo\u2028men.\x0cA cat.\n\n".encode())
    found = lines(run("translate", EN_DE, "--json", "--max-tokens", "2", "-f", str(path)))
    assert [entry["source"] for entry in found] == ["A dog.", "Two\u2028men.\x0cA cat.", ""]
    again = lines(run("translate", EN_DE, "--json", "--max-tokens", "2", text="\ufeffA dog."))
    assert again == found[:1]


def test_a_blank_line_keeps_its_place(tmp_path: Path) -> None:
    """One line out for each line in."""
    text = "A dog runs.\n\nA girl runs.\n  \n"
    dog, girl = (one.text for one in lapwing.load(EN_DE).translate(["A dog runs.", "A girl runs."]))
    assert run("translate", EN_DE, text=text).stdout == f"{dog}\n\n{girl}\n\n"
    entries = lines(run("translate", EN_DE, "--json", text=text))
    assert [entry["source"] for entry in entries] == text.split("\n")[:-1]
    assert [entry["text"] for entry in entries] == [dog, "", girl, ""]
    folder = str(GOLDEN / "bert-sentence")
    rows = run("embed", folder, text=text).stdout.split("\n")[:-1]
    assert [bool(row) for row in rows] == [True, False, True, False]
    assert [entry["embedding"] is None for entry in lines(run("embed", folder, "--json", text=text))] == [
        False,
        True,
        False,
        True,
    ]
    saved = run("embed", folder, "--output", str(tmp_path / "x.npy"), text=text)
    array = np.load(tmp_path / "x.npy")
    assert list(np.isnan(array).all(axis=1)) == [False, True, False, True]
    assert "2 of NaN for blank lines" in saved.stderr
    for command, name in (("classify", "bert-seqcls"), ("fill-mask", "bert-mlm"), ("score", "qwen3")):
        line = "a [MASK]" if command == "fill-mask" else "one"
        options = ["--lines"] if command == "score" else ["--top-k", "1"]
        found = run(command, str(GOLDEN / name), *options, text=f"{line}\n\n{line}\n").stdout.split("\n")
        assert found[0] == found[2] != found[1] == "" and len(found) == 4
    ranked = lines(run("rank", folder, "a dog", "--json", text="one\n\ntwo\n"))
    assert {entry["index"]: entry["text"] for entry in ranked} == {0: "one", 2: "two"}


def test_text_is_utf_8_in_any_locale() -> None:
    text = "Two men in Zürich.\n"
    own = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    own["PYTHONPATH"] = os.pathsep.join(sys.path)
    want = run("translate", EN_DE, text=text).stdout
    command = [sys.executable, "-m", "lapwing", "translate", EN_DE]
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for environment, encoding in (
        (ascii_locale, "utf-8"),
        ({"PYTHONUTF8": "1"}, "utf-8"),
        ({"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}, "cp1252"),
    ):
        found = subprocess.run(command, input=text.encode(), capture_output=True, env={**own, **environment})
        assert found.stdout.decode(encoding).replace("\r\n", "\n") == want, found.stderr
    if os.name == "posix":
        found = subprocess.run([*command, text.strip()], capture_output=True, env={**own, **ascii_locale})
        assert found.stdout.decode() == want
    latin = {**own, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    found = subprocess.run(command, input=text.encode("cp1252"), capture_output=True, env=latin)
    assert found.stdout.decode("cp1252").replace("\r\n", "\n") == want


def test_results_before_a_broken_line_are_printed() -> None:
    command = [sys.executable, "-m", "lapwing", "classify", str(GOLDEN / "bert-seqcls")]
    found = subprocess.run(command, input=b"one\ntwo\ncaf\xe9\nfour\n", capture_output=True, timeout=240)
    assert found.returncode == 1
    assert found.stderr.startswith(b"lapwing: error: standard input, line 3 is not UTF-8: byte 4 is 0xe9")
    assert found.stdout.count(b"\n") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are asked whether they are ready on POSIX alone")
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["embed"], "bert-sentence"),
        (["classify"], "bert-seqcls"),
        (["answer", "who?", "--lines"], "bert-qa"),
        (["generate", "--lines", "--max-tokens", "3"], "qwen3"),
    ],
)
def test_results_come_while_the_producer_goes_on(words: list[str], name: str) -> None:
    """A line's result comes before the next line, and a pipe's reader sees it."""
    command = [sys.executable, "-m", "lapwing", words[0], str(GOLDEN / name), *words[1:]]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with killed_at_the_end(process):
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        for line in (b"The dog sleeps.\n", b"\n", b"A cat.\nA fox.\n"):
            process.stdin.write(line)
            process.stdin.flush()
            if line != b"\n":
                for _ in range(line.count(b"\n")):
                    assert process.stdout.readline().endswith(b"\n")
                if line.startswith(b"A"):
                    continue
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, (out, err)
        assert (out == b"" or out.endswith(b"\n")) and b"Traceback" not in err


def test_what_a_command_would_leave_unsaid_is_refused(tmp_path: Path) -> None:
    short = ("--max-tokens", "2")
    refused("generate", SHAKESPEARE, *short, "-o", "max_tokens=3", "x", says="max_tokens is given twice, as 2 and as 3")
    refused("generate", SHAKESPEARE, "-o", "top_k=1", "-o", "top_k=2", "x", says="top_k is given twice, as 1 and as 2")
    refused("generate", SHAKESPEARE, *short, "--logprobs", "2", "x", says="logprobs is set without --json")
    embed = ("embed", str(GOLDEN / "bert-sentence"), "x", "--output")
    refused(*embed, str(tmp_path / "x.npy"), "--json", says="--output and --json exclude each other")
    refused(
        *embed, str(tmp_path / "none" / "x.npy"), says=f"the folder {tmp_path / 'none'} does not exist: create it first"
    )
    assert not (tmp_path / "x.npy").exists()
    refused("info", "no-such-model", says="there is no folder 'no-such-model'", HF_HUB_OFFLINE="1")
