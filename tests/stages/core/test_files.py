"""Files that are there whole or not at all, and digests that do not depend on where they lie."""

import hashlib
import os

import pytest

from stages.core.files import digest, digest_of, write_json, write_text


def test_a_write_that_is_cut_short_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_json(file, {"n": 1})
    before = file.stat().st_ino

    def cut(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", cut)
        with pytest.raises(OSError, match="No space left"):
            write_json(file, {"n": 2})
    assert file.read_text() == '{\n "n": 1\n}\n'
    write_json(file, {"n": 3})
    assert file.stat().st_ino != before, "put into its place whole, by renaming"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_number_that_is_none_is_refused_before_anything_is_touched(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"n": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_line_ends_stay_as_they_are(tmp_path):
    write_text(tmp_path / "a.yaml", "name: a\r\nseed: 1\n")
    assert (tmp_path / "a.yaml").read_bytes() == b"name: a\r\nseed: 1\n"


def test_one_digest_of_several_files_is_of_their_names_and_contents_alone(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_text(name * 3)
    own = {name: digest(tmp_path / name) for name in ("b", "a")}
    assert own["a"] == hashlib.sha256(b"aaa").hexdigest()
    lines = f"{own['a']} a\n{own['b']} b\n"
    assert digest_of(own) == digest_of(dict(reversed(own.items()))) == hashlib.sha256(lines.encode()).hexdigest()
    assert digest_of(own) != digest_of({"b": own["a"], "a": own["b"]})
