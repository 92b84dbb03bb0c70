"""Questions of real files in the SQuAD format, and of files that are not quite in it."""

import json
from pathlib import Path

import pytest

from handscroll.text.chronicle import estimate_tokens
from handscroll.text.tasks import write_sample

QUESTIONS_OF_OTHERS = Path(__file__).parents[4] / "shared" / "data" / "qa"


@pytest.mark.parametrize(("name", "lang"), [("xquad_en", "en"), ("xquad_zh", "zh"), ("cmrc2018_dev", "zh")])
def test_real_question_files(name: str, lang: str) -> None:
    file = QUESTIONS_OF_OTHERS / f"{name}.json"
    if not file.exists():
        pytest.skip(f"{file.name} is not in shared/data/qa beside the repository")
    sample = write_sample("qa_1", tokens=20_000, lang=lang, questions=20, options={"files": str(file)})
    assert 0.95 * 20_000 <= estimate_tokens(sample.context) <= 20_000
    for asked in sample.asked:
        ((start, end),) = asked.spans
        assert all(answer in sample.context[start:end] for answer in asked.answers)


def test_answers_that_no_paragraph_holds_are_left_out(tmp_path: Path) -> None:
    qas = [
        {"question": "Where?", "answers": [{"text": "in Rome"}, {"text": "Rome"}, {"text": "in Paris"}]},
        {"question": "When?", "answers": [{"text": "in May"}]},
        {"question": "Why?", "answers": [], "is_impossible": True},
    ]
    file = tmp_path / "asked.json"
    file.write_text(json.dumps({"data": [{"paragraphs": [{"context": "It was in Rome. " * 20, "qas": qas}]}]}))
    (asked,) = write_sample("qa", tokens=103, lang="en", options={"files": str(file)}).asked
    assert (asked.question, asked.answers, asked.wanted) == ("Where?", ("in Rome", "Rome"), "any")


@pytest.mark.parametrize("content", ["[]", '{"data": [{"paragraphs": [{"qas": []}]}]}', "not json"])
def test_a_file_of_another_format(tmp_path: Path, content: str) -> None:
    file = tmp_path / "asked.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"asked.json is not in the SQuAD format"):
        write_sample("qa", tokens=1000, lang="en", options={"files": str(file)})
    with pytest.raises(ValueError, match="can't be read"):
        write_sample("qa", tokens=1000, lang="en", options={"files": str(tmp_path / "none.json")})
