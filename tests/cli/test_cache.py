"""``thawline cache``: what the verbs print, remove and exit with."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from thawline.cli.cache import run
from thawline.errors import UsageError
from thawline.store.store import ArraySpec, EntrySpec, Store


def spec(name, title=""):
    return EntrySpec({"name": name}, (ArraySpec("x", (1000,), "uint8"),), 100, title)


def produce(rows):
    return (np.repeat(rows[:, None], 1000, 1).astype(np.uint8),)


LINE, IMAGES = spec("line", "thaw line at layer3"), spec("images")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "cache")
    for entry, when in ((LINE, 1_700_000_000), (IMAGES, 1_700_003_600)):
        store.build(entry, produce, 50).close()
        os.utime(store.folder / entry.identity / "used", (when, when))
    return store


@pytest.fixture
def cache(store, capsys):
    """Run a verb on the store; its exit status and what it printed."""

    def run_verb(*arguments):
        status = run([*arguments, "--dir", str(store.folder)])
        return status, capsys.readouterr().out

    return run_verb


def damage(store, entry):
    with (store.folder / entry.identity / "0.bin").open("r+b") as stream:
        stream.write(b"\xff")


def identities(store):
    return {status.identity for status in store.entries()}


def test_list_names_what_is_stored_last_used_first(cache):
    status, out = cache("list")
    lines = out.splitlines()
    assert status == 0
    rows = [line for line in lines if LINE.identity in line or IMAGES.identity in line]
    assert [IMAGES.identity in rows[0], LINE.identity in rows[1]] == [True, True]
    assert all(word in rows[0] for word in ("name=images", "100", "kB", "2023-11-1", "whole"))
    assert "thaw line at layer3" in rows[1]
    assert lines[-1].endswith("in 2 entries")


def test_list_as_json(cache, store):
    status, out = cache("list", "--json")
    first, second = json.loads(out)
    assert status == 0
    assert first["last_used"].startswith("2023-11-1")
    assert {key: second[key] for key in ("identity", "title", "key", "samples", "state", "problem")} == {
        "identity": LINE.identity,
        "title": "thaw line at layer3",
        "key": {"name": "line"},
        "samples": 100,
        "state": "whole",
        "problem": "",
    }
    assert 100_000 < second["bytes"] <= LINE.total_bytes


def test_an_empty_store_is_no_error(tmp_path, capsys):
    for verb in ("list", "verify", "prune"):
        assert run([verb, "--dir", str(tmp_path / "none")]) == 0
        assert "nothing" in capsys.readouterr().out
        assert run([verb, "--json", "--dir", str(tmp_path / "none")]) == 0
        assert json.loads(capsys.readouterr().out) == []
    assert not (tmp_path / "none").exists()


def test_verify_finds_nothing_wrong(cache):
    status, out = cache("verify")
    assert status == 0
    assert out.count("whole") == 2


def test_verify_names_the_damaged(cache, store):
    damage(store, LINE)
    # Listing compares no checksums.
    assert cache("list")[1].count("whole") == 2
    status, out = cache("verify")
    assert status == 1
    (row,) = [line for line in out.splitlines() if LINE.identity in line]
    assert "damaged: 0.bin: chunk 0 has a wrong checksum" in row
    assert "1 of 2 entries are damaged: --repair removes them" in out
    assert identities(store) == {LINE.identity, IMAGES.identity}
    assert cache("verify", "--json")[0] == 1


def test_repair_removes_the_damaged_and_nothing_else(cache, store):
    damage(store, LINE)
    status, out = cache("verify", "--repair")
    assert status == 0
    assert "1 of 2 entries are damaged: removed" in out
    assert identities(store) == {IMAGES.identity}
    assert cache("verify")[0] == 0


def test_prune_keeps_the_last_used_within_the_bytes(cache, store):
    status, out = cache("prune", "--max-bytes", "150kB")
    assert status == 0
    assert LINE.identity in out
    assert IMAGES.identity not in out
    assert identities(store) == {IMAGES.identity}


def test_prune_keeps_everything_within_the_default_budget(cache, store):
    assert cache("prune")[0] == 0
    assert len(store.entries()) == 2


def test_prune_all_keeps_what_is_in_use(cache, store):
    with store.open(LINE):
        assert cache("prune", "--all")[0] == 0
        assert identities(store) == {LINE.identity}
    assert cache("prune", "--all")[0] == 0
    assert identities(store) == set()


@pytest.mark.parametrize(
    ("text", "kept"), [("0", 0), ("0.1001MB", 0), ("0.11MB", 1), ("107KiB", 1), ("1 GB", 2), ("1g", 2), ("2TiB", 2)]
)
def test_bytes_can_be_said_in_units(cache, store, text, kept):
    assert cache("prune", "--max-bytes", text)[0] == 0
    assert len(store.entries()) == kept


def test_units_of_bytes(tmp_path, monkeypatch):
    given = {"7": 7, "500MB": 500_000_000, "1.5 KiB": 1536, "2GiB": 2 * 1024**3, "3 gb": 3_000_000_000, "1TiB": 1024**4}
    asked = []
    monkeypatch.setattr(Store, "prune", lambda store, max_bytes: asked.append(max_bytes) or [])
    for text in given:
        assert run(["prune", "--dir", str(tmp_path), "--max-bytes", text]) == 0
    assert asked == list(given.values())


@pytest.mark.parametrize(
    "line", ["prune --max-bytes much", "prune --max-bytes -5", "prune --all --max-bytes 5", "ls", ""]
)
def test_what_is_not_understood_exits_with_2(line, capsys):
    with pytest.raises(SystemExit) as ended:
        run(line.split())
    assert ended.value.code == 2
    assert "thawline cache" in capsys.readouterr().err


def test_a_file_is_not_a_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--dir: .*file is not a folder"):
        run(["list", "--dir", str(tmp_path / "file")])


def test_the_folder_comes_from_the_environment_or_lies_beside_the_outputs(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("THAWLINE_CACHE", str(store.folder))
    run(["list", "--json"])
    assert len(json.loads(capsys.readouterr().out)) == 2
    monkeypatch.delenv("THAWLINE_CACHE")
    (tmp_path / "outputs").mkdir()
    store.folder.rename(tmp_path / "outputs" / "cache")
    monkeypatch.chdir(tmp_path)
    run(["list", "--json"])
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_hostile_titles_are_shown_and_not_obeyed(store, cache):
    hostile = spec("hostile", "[red]bold[/red] \x1b[2J\r\n</script>")
    store.build(hostile, produce, 50).close()
    _, out = cache("list")
    assert "[red]bold[/red] ?[2J??</script>" in out
    assert "\x1b" not in out


def test_the_command_needs_no_torch(store):
    script = "import sys; from thawline.cli.cache import run; run(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    command = [sys.executable, "-c", script, "verify", "--dir", str(store.folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
