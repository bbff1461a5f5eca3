"""Laws of the page: it is whole, asks for nothing, tells everything, and nothing that a model says becomes markup."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from random import Random

import pytest

from pipeline.errors import RecipeError
from pipeline.report.catalogue import meaning
from pipeline.report.commands import report
from pipeline.report.costs import costs
from pipeline.report.page import SIZE_LIMIT, composition, render, section, write_report
from pipeline.report.reading import Tie, read_run
from tests.pipeline.report import pretend

POISON = (
    """<script>alert(1)</script></script><img src=x onerror="alert(2)">' onmouseover='alert(3) javascript:alert(4) {{ 7*7 }} ]]> \u2028"""
)
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Elements(HTMLParser):
    """Every element with its attributes, and the text of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_data(self, data: str) -> None:
        if self._open in self.inside:
            self.inside[self._open][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretend.make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return render(read_run(run))


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    for tag, attributes in Elements(page).found:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form", "audio", "video")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            assert name not in ("src", "srcset", "style", "action", "formaction", "xlink:href")
            if name == "href":
                assert str(value).startswith("#")
    assert "url(" not in page.replace("url(#clip-", "")
    assert not re.search(r"@import|https?://(?!www\.w3\.org/2000/svg)", page)


def test_the_content_policy_allows_exactly_our_style_and_script(page: str) -> None:
    elements = Elements(page)
    policy = next(str(a["content"]) for tag, a in elements.found if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    (style,), (data, script) = elements.inside["style"], elements.inside["script"]
    for text in (style, script):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert json.loads(data)


def test_every_series_and_every_metric_is_told(run: Path, page: str) -> None:
    told = read_run(run)
    for stage in told.stages:
        for name in stage.metrics:
            assert meaning(name).label in page or name in page
    data = json.loads(Elements(page).inside["script"][0])
    lines = sum(line["name"].endswith("smoothed") is False for chart in data.values() for line in chart["lines"])
    flat = page.count("<b>", page.index('<p class="constant">')) and sum(
        block.count("<span>") for block in re.findall(r'<p class="constant">.*?</p>', page, re.DOTALL)
    )
    assert lines + flat == sum(len(stage.curves.series) for stage in told.stages)


def test_every_stage_stands_in_the_tree_and_has_a_section(page: str) -> None:
    for name, fingerprint in pretend.PRINTS.items():
        assert f'id="stage-{name}"' in page
        assert page.count(f'href="#stage-{name}"') >= 3  # the bar, the wide tree and the tall one
        assert fingerprint in page


def test_what_models_say_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    samples = [{"prompt": POISON, "reference": POISON, "answers": {POISON: {"text": POISON, "reward": 1.0}}}]
    pretend.write(run / "exam" / "artifact" / "samples.json", samples)
    result = json.loads((run / "exam" / "result.json").read_text())
    result |= {"notes": [POISON], "tables": [{"title": POISON, "columns": [POISON, POISON], "rows": [[POISON, POISON]]}]}
    result["metrics"] |= {f"{POISON}.reward": 1.0, f"{POISON}.kl": 2.0}
    pretend.write(run / "exam" / "result.json", result)
    (run / "base" / "metrics.jsonl").write_text("".join(json.dumps({"step": i, POISON: i}) + "\n" for i in range(5)))
    job = json.loads((run / "base" / "job.json").read_text())
    pretend.write(run / "base" / "job.json", job | {"config": {"kind": "pretrain", POISON: POISON}})
    page = render(read_run(run))
    elements = Elements(page)
    assert [tag for tag, _ in elements.found].count("script") == 2
    assert not [tag for tag, attributes in elements.found if tag == "img" or any(name.startswith("on") for name in attributes)]
    assert not [a for _, a in elements.found if str(a.get("href", "#")).startswith("javascript")]
    assert "alert(1)" in page
    assert "{{ 7*7 }}" in page
    assert "</script>" not in elements.inside["script"][0]


def test_the_page_keeps_its_size_however_long_the_run_was(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    rows = ({"step": i, **{f"metric_{j}": Random(i * 97 + j).random() for j in range(40)}} for i in range(1_000))
    (run / "base" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = [
        {"prompt": f"{i} " + "word " * 2_000, "answers": {model: {"text": "said " * 3_000} for model in "abcdef"}} for i in range(200)
    ]
    pretend.write(run / "exam" / "artifact" / "samples.json", samples)
    assert len(render(read_run(run)).encode()) < SIZE_LIMIT


def test_a_run_that_only_began_has_a_page(tmp_path: Path) -> None:
    run = tmp_path / "young"
    run.mkdir()
    (run / "recipe.yaml").write_text(pretend.RECIPE)
    page = render(read_run(run))
    assert "0 of 7 stages done" in page
    assert "waiting" in page


def test_a_run_whose_files_are_damaged_still_has_a_page(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    for path in [*run.glob("*-*/*.json"), *run.glob("*-*/*.jsonl"), *run.glob("*-*/artifact/*.json")]:
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    (run / "recipe.yaml").write_text("stages: [")
    assert "world" in render(read_run(run))


def test_a_folder_that_is_no_run_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="name a run directory"):
        read_run(tmp_path)
    with pytest.raises(RecipeError, match="no such folder"):
        read_run(tmp_path / "nowhere")


def test_no_path_of_this_machine_stands_in_the_page(run: Path) -> None:
    job = json.loads((run / "chat" / "job.json").read_text())
    pretend.write(run / "chat" / "job.json", job | {"config": job["config"] | {"rules": ["/home/somebody/secret/place/rule.py:f"]}})
    page = write_report(run).read_text()
    assert "secret" not in page
    assert "…/place/rule.py:f" in page
    assert str(run.parent) not in page


def test_the_command_writes_the_page_beside_the_run_or_where_it_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report([str(run)]) == 0
    assert Path(capsys.readouterr().out.strip()) == run / "report.html"
    shutil.copy(run / "recipe.yaml", tmp_path / "recipe.yaml")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "chats.jsonl").write_text("{}\n")
    assert report([str(tmp_path / "recipe.yaml"), "--runs", str(run.parent)]) == 0  # of the recipe's own results, and these are others
    assert Path(capsys.readouterr().out.strip()) == run / "report-recipe.html"
    assert report([str(run), "--out", str(tmp_path / "x" / "page.html"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == Path(told["page"]).stat().st_size


def test_earlier_results_interrupted_and_failed_stages_are_told_apart(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    shutil.copytree(run / "chat", run / "chat-aaaaaaaaaaaa")
    shutil.copytree(run / "chat", run / f"chat-{pretend.PRINTS['chat']}.1")
    for name, code in (("judge", 130), ("policy", 1)):
        (run / name / "manifest.json").unlink()
        pretend.write(run / name / "attempts" / "1" / "exit.json", {"code": code, "seconds": 1.0, "how": f"ended so {code}"})
    (run / "policy" / "attempts" / "1" / "log.txt").write_text("began\npolicy: out of memory; lower hardware.micro_batch\n")
    told = read_run(run)
    assert set(told["chat"].earlier) == {"aaaaaaaaaaaa", f"{pretend.PRINTS['chat']}.1"}
    assert (told["chat"].state, told["judge"].state, told["policy"].state) == ("done", "interrupted", "failed")
    page = render(told)
    assert "lower hardware.micro_batch" in page
    assert "5 of 7 stages done" in page


def test_shares_of_data_are_bytes_times_weights_within_a_field() -> None:
    ties = [
        Tie("data.0", "a", is_data=True, weight=1.0, size=300),
        Tie("data.1", "b", is_data=True, weight=2.0, size=350),
        Tie("mix.data.0", "c", is_data=True, size=10),
        Tie("validation.0", "d", is_data=True),
    ]
    assert composition(ties) == {"data.0": 0.3, "data.1": 0.7, "mix.data.0": 1.0}


def test_time_throughput_and_memory_stand_side_by_side(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    lines = [
        {"step": n, "steps": 9, "seconds": n, "tokens": 100 * n, "tokens_per_second": n, "memory_bytes": 2**20 * n} for n in range(1, 10)
    ]
    (run / "base" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {cost.stage: cost for cost in costs(read_run(run))}
    assert (found["base"].tokens, found["base"].tokens_per_second, found["base"].memory) == (900, 5, 9 * 2**20)
    assert sum(cost.share for cost in found.values()) == pytest.approx(1)
    assert "9 MiB" in render(read_run(run))


def test_of_many_numbers_the_held_out_ones_stand_on_top_and_all_of_them_in_a_table(tmp_path: Path) -> None:
    run = pretend.make_run(tmp_path)
    many = (
        {f"reward_part{n}": 1.0 for n in range(20)} | {f"plain{n}": 2.0 for n in range(12)} | {"held_out_kl": 3.0, "held_out_reward": 4.0}
    )
    result = json.loads((run / "policy" / "result.json").read_text())
    pretend.write(run / "policy" / "result.json", result | {"metrics": many})
    stage = read_run(run)["policy"]
    assert stage is not None
    assert section(read_run(run), stage, 100).tiles == ["held_out_kl", "held_out_reward", *(f"plain{n}" for n in range(12))]
    assert "All 34 numbers" in write_report(run).read_text()
