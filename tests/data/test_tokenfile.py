"""Documents on disk: what is written comes back, in the smallest type, and damage is seen."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.tokenfile import ABOUT, TokenFile, Written, is_whole, write_tokens


def write(folder: Path, documents: list[Written], vocabulary: int = 1000, *, masked: bool = False) -> TokenFile:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).write_text(json.dumps(write_tokens(folder, documents, vocabulary=vocabulary, masked=masked)))
    return TokenFile(folder)


@given(st.lists(st.lists(st.integers(0, 69_999), max_size=9), max_size=9), st.sampled_from([65_536, 70_000]))
def test_documents_come_back(tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocabulary: int) -> None:
    documents = [[number % vocabulary for number in document] for document in documents]
    tokens = write(tmp_path_factory.mktemp("t"), [Written(np.array(ids, np.int32)) for ids in documents], vocabulary)
    assert [ids.tolist() for ids in tokens] == documents
    assert tokens.lengths.tolist() == [len(ids) for ids in documents]
    assert tokens.ids.dtype == (np.uint16 if vocabulary == 65_536 else np.uint32)


def test_masks_and_what_is_known_of_a_document_come_back(tmp_path: Path) -> None:
    mask = np.array([False, True, True])
    tokens = write(
        tmp_path,
        [Written(np.array([1, 2, 3]), 1, 5, 0.25, 2.5, mask), Written(np.zeros(0, np.int32), 2, learn=np.zeros(0, bool))],
        masked=True,
    )
    assert tokens.learn is not None
    assert tokens.learn.tolist() == mask.tolist()
    assert tokens.documents[["source", "size", "place", "nats"]][0].tolist() == (1, 5, 0.25, 2.5)
    assert np.isnan(tokens.documents["nats"][1])


def test_an_id_outside_the_vocabulary_is_refused_and_not_wrapped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="document 2 holds token 65536"):
        write(tmp_path, [Written(np.array([65_535])), Written(np.array([65_536]))], 65_536)


def test_every_damaged_byte_is_seen(tmp_path: Path) -> None:
    write(tmp_path, [Written(np.array([1, 2, 3]))])
    assert is_whole(tmp_path)
    for name in ("ids.bin", "documents.bin", ABOUT):
        good = (tmp_path / name).read_bytes()
        for bad in (good[:-1], bytes([good[0] ^ 1]) + good[1:]):
            (tmp_path / name).write_bytes(bad)
            assert not is_whole(tmp_path), name
        (tmp_path / name).write_bytes(good)
    assert is_whole(tmp_path)
