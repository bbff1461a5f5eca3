"""What goes wrong on the way is tried again or explained, and a rerun goes on: every fault of the plan, through the real client."""

import random
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from pipeline.publish import PublishError
from tests.hub.fixtures import TOKEN
from tests.hub.server import Server
from tests.pipeline.publish.runs import family, publish

BIG = 300_000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return family(tmp_path / "runs", BIG)


def sent(hub: Server, run: Path, **how: Any) -> Any:
    return publish(run, ["chat"], api=HfApi(endpoint=hub.url, token=TOKEN), **how)[0]


def weights(run: Path) -> bytes:
    return (run / "chat" / "artifact" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("POST", "/commit/", status) for status in (408, 429, 500, 502, 503, 504)),
        ("POST", "/repos/create", 500),
        ("GET", "/whoami", 429),
        ("GET", "/tree/", 503),
        ("POST", "/validate-yaml", 502),
    ],
)
def test_a_passing_failure_is_tried_again(hub: Server, run: Path, naps: list[float], method: str, path: str, status: int) -> None:
    hub.fail(method, path, status, times=2)
    done = sent(hub, run)
    assert hub.content("me/demo-chat", "model.safetensors") == weights(run)
    assert hub.repository("me/demo-chat").branches["main"] == done.commit
    assert len(naps) >= 2


@pytest.mark.parametrize("headers", [{"Retry-After": "17"}, {"ratelimit": '"api";r=0;t=17'}])
def test_the_server_says_how_long_to_wait(hub: Server, run: Path, naps: list[float], headers: dict[str, str]) -> None:
    hub.fail("POST", "/commit/", 429, headers=headers)
    lines: list[str] = []
    sent(hub, run, say=lines.append)
    assert naps == [17.0]
    assert any("again in 17 s" in line for line in lines)


def test_nobody_waits_an_hour(hub: Server, run: Path, naps: list[float]) -> None:
    hub.fail("POST", "/commit/", 429, headers={"Retry-After": "3600"})
    with pytest.raises(PublishError, match="too many requests"):
        sent(hub, run)
    assert naps == []


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/commit/", 401, "does not accept the token"),
        ("POST", "/commit/", 403, "may not write under me"),
        ("POST", "/commit/", 409, "another change"),
        ("POST", "/commit/", 412, "somebody else changed"),
        ("POST", "/commit/", 413, "larger than the Hub takes"),
        ("POST", "/preupload/", 403, "may not write under me"),
        ("POST", "/repos/create", 403, "may not write under me"),
        ("POST", "/objects/batch", 401, "does not accept the token"),
    ],
)
def test_a_lasting_failure_is_explained_at_once(
    hub: Server, run: Path, naps: list[float], method: str, path: str, status: int, says: str
) -> None:
    hub.fail(method, path, status, times=99)
    with pytest.raises(PublishError, match=says) as refused:
        sent(hub, run)
    assert TOKEN not in str(refused.value)
    assert naps == []
    hub.faults.clear()
    sent(hub, run)
    assert hub.content("me/demo-chat", "model.safetensors") == weights(run)


def test_a_server_that_stays_down_is_given_up_and_a_rerun_goes_on(hub: Server, run: Path, naps: list[float]) -> None:
    hub.fail("POST", "/commit/", 503, times=99)
    with pytest.raises(PublishError, match=r"the Hub answered 503, 4 times.*publish again"):
        sent(hub, run)
    puts = len(hub.requests("PUT", "/lfs/"))
    hub.faults.clear()
    sent(hub, run)
    assert puts == len(hub.requests("PUT", "/lfs/")) == 1, "what lies there already is not sent again"


@pytest.mark.parametrize("seed", range(4))
def test_cut_at_any_byte_the_upload_ends_the_same(hub: Server, run: Path, naps: list[float], seed: int) -> None:
    dice = random.Random(seed)
    hub.fail("PUT", "/lfs/", cut_request=dice.randrange(BIG), times=dice.choice((1, 2)))
    hub.fail("POST", "/commit/", cut_request=dice.randrange(2000))
    sent(hub, run)
    assert hub.content("me/demo-chat", "model.safetensors") == weights(run)


def test_cut_for_good_the_repository_shows_nothing_and_a_rerun_completes_it(hub: Server, run: Path, naps: list[float]) -> None:
    hub.fail("PUT", "/lfs/", cut_request=1000, times=99)
    with pytest.raises(PublishError, match="no connection"):
        sent(hub, run)
    assert list(hub.repository("me/demo-chat").resolve("main").files) == [".gitattributes"]
    hub.faults.clear()
    sent(hub, run)
    assert hub.content("me/demo-chat", "model.safetensors") == weights(run)


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: Server, run: Path, naps: list[float]) -> None:
    hub.fail("POST", "/commit/", cut_response=5)
    done = sent(hub, run)
    repository = hub.repository("me/demo-chat")
    assert len(repository.commits) == 2, "the Hub's first one and ours"
    assert repository.branches["main"] == done.commit


def test_a_token_revoked_half_way_stops_with_a_word_and_a_new_one_goes_on(hub: Server, run: Path, naps: list[float]) -> None:
    accounts = dict(hub.accounts)
    hub.fail("POST", "/commit/", revoke=True)
    with pytest.raises(PublishError, match="expired or revoked"):
        sent(hub, run)
    hub.accounts.update(accounts)
    sent(hub, run)
    assert len(hub.requests("PUT", "/lfs/")) == 1


def test_an_interrupted_family_goes_on_where_it_stopped(hub: Server, run: Path, naps: list[float]) -> None:
    api = HfApi(endpoint=hub.url, token=TOKEN)
    hub.fail("POST", "demo-judge/commit/", 403, times=99)
    with pytest.raises(PublishError):
        publish(run, api=api)
    hub.faults.clear()
    by_stage = {one.stage: one for one in publish(run, api=api)}
    assert not by_stage["base"].sent
    assert not by_stage["chat"].sent
    assert by_stage["judge"].sent
    assert by_stage["policy"].sent


def test_somebody_who_writes_at_the_same_time_is_noticed(
    hub: Server, run: Path, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, other = (HfApi(endpoint=hub.url, token=TOKEN) for _ in range(2))
    upload = api.upload_folder

    def late(**arguments: Any) -> Any:
        other.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="me/demo-chat")
        return upload(**arguments)

    monkeypatch.setattr(api, "upload_folder", late)
    with pytest.raises(PublishError, match="somebody else changed"):
        publish(run, ["chat"], api=api)


def test_a_hub_that_holds_other_bytes_than_were_sent_is_found_out(hub: Server, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.hub.repository import Blob, Repository

    commit = Repository.commit

    def corrupt(self: Repository, *arguments: Any, **how: Any) -> Any:
        made, number = commit(self, *arguments, **how)
        made.files["config.json"] = Blob.regular(b"{}")
        return made, number

    monkeypatch.setattr(Repository, "commit", corrupt)
    with pytest.raises(PublishError, match=r"does not hold what was sent: config\.json"):
        sent(hub, run)
    assert not (run / "published.json").exists()


def test_xet_that_loses_its_token_half_way_is_explained(xet_hub: Server, run: Path, naps: list[float]) -> None:
    xet_hub.fail("GET", "/xet-write-token/", 401, times=99)
    with pytest.raises(PublishError):
        sent(xet_hub, run)
    xet_hub.faults.clear()
    sent(xet_hub, run)
    assert xet_hub.content("me/demo-chat", "model.safetensors") == weights(run)
