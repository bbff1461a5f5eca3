"""The test Hub is believed only because the real client finds in it what it finds in the Hub: these are the laws both must keep."""

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.fixtures import READER, STRANGER, TOKEN
from tests.hub.server import Server

WEIGHTS = hashlib.sha256(b"weights").digest() * 40_000  # 1.28 MB


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "inner" / "empty.txt").write_text("")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Model\n")
    return folder


def client(hub: Server, token: str = TOKEN) -> HfApi:
    return HfApi(endpoint=hub.url, token=token)


def uploaded(hub: Server, folder: Path, name: str = "me/m") -> HfApi:
    api = client(hub)
    api.create_repo(name, private=True)
    api.upload_folder(repo_id=name, folder_path=folder)
    return api


@pytest.mark.parametrize("which", ["hub", "xet_hub"])
def test_what_is_uploaded_is_downloaded(which: str, request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> None:
    hub = request.getfixturevalue(which)
    api = uploaded(hub, folder)
    local = Path(snapshot_download("me/m", endpoint=hub.url, token=TOKEN, local_dir=tmp_path / "down"))
    for path in ("model.safetensors", "config.json", "inner/empty.txt", "README.md"):
        assert (local / path).read_bytes() == (folder / path).read_bytes()
    check = api.verify_repo_checksums("me/m", local_dir=folder)
    assert (check.mismatches, check.extra_paths, check.missing_paths) == ([], [], [".gitattributes"])


@pytest.mark.parametrize("which", ["hub", "xet_hub"])
def test_uploading_the_same_folder_again_makes_no_commit(which: str, request: pytest.FixtureRequest, folder: Path) -> None:
    hub = request.getfixturevalue(which)
    api = uploaded(hub, folder)
    before = api.list_repo_commits("me/m")
    api.upload_folder(repo_id="me/m", folder_path=folder)
    assert api.list_repo_commits("me/m") == before
    assert len(hub.requests("PUT", "/lfs/")) <= 1


def test_large_files_travel_in_parts_that_add_up(hub: Server, folder: Path) -> None:
    hub.multipart_above, hub.chunk_size = 1_000_000, 500_000
    uploaded(hub, folder)
    assert hub.content("me/m", "model.safetensors") == WEIGHTS
    assert [one.body_bytes for one in hub.requests("PUT", "/part/")] == [500_000, 500_000, 280_000]


def test_a_private_repository_is_not_found_by_strangers(hub: Server, folder: Path) -> None:
    api = uploaded(hub, folder)
    for token in (STRANGER, False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(endpoint=hub.url, token=token).model_info("me/m")
    api.update_repo_settings("me/m", private=False)
    assert HfApi(endpoint=hub.url, token=False).model_info("me/m").private is False


def test_a_read_token_writes_nothing(hub: Server, folder: Path) -> None:
    uploaded(hub, folder)
    api = client(hub, READER)
    assert api.whoami()["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_repo("me/other")
    assert refused.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError, match="403"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="me/m")


def test_a_wrong_token_is_unauthorised_and_no_token_is_not_accepted(hub: Server) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        client(hub, "hf_wrongwrongwrong").whoami()
    assert refused.value.response.status_code == 401
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=hub.url, token=False).create_repo("me/m")


def test_nobody_writes_in_the_namespace_of_others_but_members_do(hub: Server) -> None:
    with pytest.raises(HfHubHTTPError, match="namespace"):
        client(hub).create_repo("stranger/m")
    client(hub).create_repo("team/m")


def test_an_existing_repository_is_a_conflict_that_exist_ok_accepts(hub: Server) -> None:
    client(hub).create_repo("me/m")
    with pytest.raises(HfHubHTTPError, match="409"):
        client(hub).create_repo("me/m")
    assert client(hub).create_repo("me/m", exist_ok=True).repo_id == "me/m"


def test_a_stale_parent_is_refused(hub: Server, folder: Path) -> None:
    api = uploaded(hub, folder)
    stale = api.list_repo_commits("me/m")[-1].commit_id
    with pytest.raises(HfHubHTTPError) as refused:
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="me/m", parent_commit=stale)
    assert refused.value.response.status_code == 412


def test_references_name_commits_and_exist_once(hub: Server, folder: Path) -> None:
    api = uploaded(hub, folder)
    api.create_tag("me/m", tag="v1")
    api.create_branch("me/m", branch="work/one")
    api.upload_file(path_or_fileobj=b"new", path_in_repo="config.json", repo_id="me/m", revision="work/one")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("me/m", tag="v1")
    refs = api.list_repo_refs("me/m")
    heads = {ref.name: ref.target_commit for ref in refs.branches}
    assert refs.tags[0].target_commit == heads["main"] != heads["work/one"]
    assert Path(hf_hub_download("me/m", "config.json", revision="v1", endpoint=hub.url, token=TOKEN)).read_text() == '{"a": 1}'
    api.delete_branch("me/m", branch="work/one")
    api.delete_tag("me/m", tag="v1")
    assert [ref.name for ref in api.list_repo_refs("me/m").branches] == ["main"]


def test_a_pull_request_leaves_main_alone(hub: Server, folder: Path) -> None:
    api = uploaded(hub, folder)
    main = api.model_info("me/m").sha
    commit = api.upload_file(path_or_fileobj=b"new", path_in_repo="config.json", repo_id="me/m", create_pr=True)
    assert commit.pr_revision == "refs/pr/1"
    assert api.model_info("me/m").sha == main
    assert api.model_info("me/m", revision="refs/pr/1").sha == commit.oid


def test_missing_things_have_their_own_errors(hub: Server, folder: Path) -> None:
    api = uploaded(hub, folder)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("me/m", "none.txt", endpoint=hub.url, token=TOKEN)
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("me/m", "config.json", revision="v9", endpoint=hub.url, token=TOKEN)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("me/none")


def test_a_download_that_breaks_off_goes_on_by_range(hub: Server, folder: Path, naps: list[float]) -> None:
    large = WEIGHTS * 10
    (folder / "model.safetensors").write_bytes(large)
    uploaded(hub, folder)
    hub.fail("GET", "/cdn/", cut_response=12_000_000)
    path = hf_hub_download("me/m", "model.safetensors", endpoint=hub.url, token=TOKEN)
    assert Path(path).read_bytes() == large
    kept = 10 * 1024 * 1024  # the client writes in blocks of this size
    assert [one.headers.get("range") for one in hub.requests("GET", "/cdn/")] == [None, f"bytes={kept}-"]


def test_the_tree_is_paged_and_lists_large_files_by_their_content(hub: Server, folder: Path) -> None:
    hub.page_size = 2
    api = uploaded(hub, folder)
    entries = {entry.path: entry for entry in api.list_repo_tree("me/m", recursive=True)}
    assert set(entries) == {".gitattributes", "README.md", "config.json", "inner", "inner/empty.txt", "model.safetensors"}
    assert entries["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert [info.path for info in api.get_paths_info("me/m", ["config.json", "none"])] == ["config.json"]


def test_bytes_that_do_not_hash_to_their_name_are_refused(hub: Server) -> None:
    import httpx2

    answer = httpx2.put(f"{hub.url}/lfs/{'0' * 64}", content=b"other")
    assert answer.status_code == 400
    assert hub.objects.stored == {}


@pytest.mark.parametrize(
    "line",
    [
        '{"key":"lfsFile","value":{"path":"a.bin","algo":"sha256","oid":"' + "0" * 64 + '","size":1}}',
        '{"key":"file","value":{"path":"../a","content":"eA==","encoding":"base64"}}',
        '{"key":"file","value":{"path":"a.safetensors","content":"eA==","encoding":"base64"}}',
        '{"key":"file","value":{"path":"a","content":"?","encoding":"base64"}}',
        '{"key":"surprise","value":{"path":"a"}}',
    ],
)
def test_a_commit_that_lies_is_refused(hub: Server, line: str) -> None:
    import httpx2

    client(hub).create_repo("me/m")
    body = '{"key":"header","value":{"summary":"s"}}\n' + line
    answer = httpx2.post(f"{hub.url}/api/models/me/m/commit/main", content=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 400
    assert list(hub.repository("me/m").resolve("main").files) == [".gitattributes"]


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        ("license: mine", "licence"),
        ("license: other", "license_name"),
        ("base_model: /tmp/model", "repository id"),
        ("tags: one", "array"),
        ("a: [", "YAML"),
        ("model-index: [{name: m, results: [{task: {type: t}, metrics: []}]}]", "dataset"),
    ],
)
def test_a_card_with_wrong_metadata_is_refused_before_the_upload(hub: Server, head: str, complaint: str) -> None:
    client(hub).create_repo("me/m")
    with pytest.raises(ValueError, match=complaint):
        client(hub).upload_file(path_or_fileobj=f"---\n{head}\n---\n".encode(), path_in_repo="README.md", repo_id="me/m")
    ModelCard("---\nlicense: mit\n---\n").validate()
