from stages.arithmetic.config import Arithmetic
from stages.arithmetic.run import run
from tests.stages.tiny import job_of


def test_the_stage_leaves_a_data_set_of_the_sizes_asked_for(tmp_path):
    job = job_of(tmp_path / "sums", "arithmetic", {"chats": 30, "exam": 6, "documents": 5, "prompts": 7}, inputs={}, files={})
    result = run(job, Arithmetic.model_validate(job.config), job.hardware)
    assert result.metrics["rows"] == 48
    assert (job.artifact / "exam.jsonl").read_text().count('"group": "new"') == 3
