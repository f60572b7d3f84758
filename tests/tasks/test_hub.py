"""The real hub client against a small hub of our own on this machine."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("datasets")

COMMIT = "a" * 40

#: Loads what its argument says and prints the outcome as JSON; a process of its own, since the vendor reads its
#: settings once, when it is imported.
CLIENT = """
import json, sys
from toolchain.core.errors import DataError
from toolchain.tasks import glue, sst2
for task, settings in json.loads(sys.argv[1]):
    module = {"glue": glue, "sst2": sst2}[task]
    try:
        data = module.load(module.Config(**settings))
        sizes = [len(data.train), len(data.dev), len(data.test)]
        print(json.dumps({"sizes": sizes, "labels": data.labels, "notes": data.notes, "first": data.train.texts[0]}))
    except DataError as error:
        print(json.dumps({"error": error.message}))
"""


def parquet(column: str, texts: list[str], hidden: bool = False) -> bytes:
    features = {
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
        column: {"dtype": "string", "_type": "Value"},
    }
    labels = [-1 if hidden else position % 2 for position in range(len(texts))]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    file = io.BytesIO()
    pq.write_table(pa.table({column: texts, "label": labels}).replace_schema_metadata(metadata), file)
    return file.getvalue()


def repository(column: str, train: list[str], hidden: bool = False) -> dict[str, bytes]:
    return {
        "README.md": b"---\nlicense: mit\n---\n",
        "data/train-00000-of-00001.parquet": parquet(column, train),
        "data/validation-00000-of-00001.parquet": parquet(column, ["dev one", "dev two"]),
        "data/test-00000-of-00001.parquet": parquet(column, ["brilliant ! '", "test two", "test three"], hidden),
    }


REPOSITORIES = {
    "me/tiny": repository("sentence", [f"text {number}" for number in range(40)], hidden=True),
    "SetFit/sst2": repository("text", [f"sentence {number}" for number in range(6)]),
    "stanfordnlp/sst2": repository(
        "sentence", ["brilliant", *(f"phrase {number}" for number in range(9))], hidden=True
    ),
}


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, code: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self) -> None:
        url = urllib.parse.urlparse(self.path)
        parts = urllib.parse.unquote(url.path).removeprefix("/api").strip("/").split("/")
        files = REPOSITORIES.get("/".join(parts[1:3]))
        rest = parts[3:]
        if files is None:
            self.reply(404, {"error": "not found"}, X_Error_Code="RepoNotFound")
        elif rest[:1] == ["resolve"]:
            name = "/".join(rest[2:])
            if name in files:
                self.reply(200, files[name], X_Repo_Commit=COMMIT, ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"')
            else:
                self.reply(404, {"error": "not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        elif rest[:1] == ["tree"]:
            inside = [name for name in files if name.startswith("/".join(rest[2:]))] if rest[2:] else ["README.md"]
            entries = [{"type": "file", "path": name, "oid": "0" * 40, "size": len(files[name])} for name in inside]
            folder = {"type": "directory", "path": "data", "oid": "0" * 40, "size": 0}
            self.reply(200, entries if rest[2:] else [*entries, folder])
        elif rest[:1] == ["revision"] and rest[1] not in (COMMIT, "main"):
            self.reply(404, {"error": "not found"}, X_Error_Code="RevisionNotFound")
        else:
            siblings = [{"rfilename": name} for name in files]
            self.reply(200, {"id": "/".join(parts[1:3]), "sha": COMMIT, "siblings": siblings, "tags": []})

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def client(endpoint: str, home: Path, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, json.dumps(calls)],
        env={"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_hub_data_set_then_the_cache_without_network(hub: str, tmp_path: Path) -> None:
    tiny: tuple[str, dict[str, Any]] = ("glue", {"dataset": "me/tiny"})
    online = client(hub, tmp_path, tiny)[0]
    # Hidden test labels: a tenth of each class of 20 is held out as dev, and the two validation rows judge.
    assert (online["sizes"], online["labels"], online["first"]) == ([36, 4, 2], ["neg", "pos"], ["text 0"])
    assert online["notes"][0] == f"me/tiny was read from the hub, commit {COMMIT}"
    pinned = ("glue", {"dataset": "me/tiny", "revision": COMMIT})
    other = ("glue", {"dataset": "me/tiny", "revision": "b" * 40})
    # Port 9 discards: nothing listens there, which is as good as no network.
    cached, same, wrong = client("http://127.0.0.1:9", tmp_path, tiny, pinned, other)
    assert (cached["sizes"], same["sizes"]) == ([36, 4, 2], [36, 4, 2])
    note = f"me/tiny was read from the local cache, commit {COMMIT}, since the hub cannot be reached"
    assert cached["notes"][0] == note
    assert wrong["error"].endswith(f"the cache holds commit {COMMIT}, not revision {'b' * 40}")


def test_what_the_hub_does_not_have_is_said(hub: str, tmp_path: Path) -> None:
    found = client(
        hub,
        tmp_path,
        ("glue", {"dataset": "me/none"}),
        ("glue", {"dataset": "me/tiny", "revision": "nope"}),
        ("glue", {"dataset": "me/tiny", "subset": "mrpc"}),
        ("glue", {"dataset": "not an id"}),
    )
    beginnings = (
        "me/none: the hub has no such data set, or it needs a login",
        "me/tiny: the hub has no revision 'nope' of it",
        "me/tiny (mrpc): cannot be loaded: BuilderConfig 'mrpc' not found",
        "'not an id' is neither a folder nor a hub id",
    )
    for result, beginning in zip(found, beginnings, strict=True):
        assert result["error"].startswith(beginning)


def test_sst2_sentences_and_phrases(hub: str, tmp_path: Path) -> None:
    sentences, phrases = client(hub, tmp_path, ("sst2", {}), ("sst2", {"source": "phrases"}))
    assert sentences["sizes"] == [6, 2, 3]
    assert sentences["labels"] == ["negative", "positive"]
    # Of ten phrases, "brilliant" is also a test sentence, but for its punctuation.
    assert (phrases["sizes"], phrases["first"]) == ([9, 2, 3], ["phrase 0"])
    assert phrases["notes"][2] == "1 of 3 different test texts also occurs in train: 1 training row left out"
