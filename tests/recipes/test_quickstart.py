"""The main job end to end on a tiny scale, in both modes; interrupted and resumed; and what it refuses.

This file is also the program that is killed: `python test_quickstart.py FOLDER` runs and prints its tasks.
"""

import dataclasses
import json
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file

from handscroll.cli import app
from handscroll.recipes import comparison, material, quickstart
from handscroll.recipes.curriculum import STAGES, Curriculum, Stage
from handscroll.recipes.events import Advance, Event, Finished, Said
from handscroll.recipes.folders import load_folder
from handscroll.recipes.plan import make_plan
from handscroll.recipes.quickstart_options import QuickstartOptions, Scale
from handscroll.text import Tokenizer
from handscroll.text.chronicle import (
    LANGUAGES,
    RELATIONS,
    Names,
    answer_sentence,
    draw_fact,
    filler,
    question,
)

DATA = Path(__file__).parents[3] / "shared" / "data" / "text"
POLICIES = ("full", "sliding_window", "block_memory")
SCALE = Scale(
    stages=tuple(dataclasses.replace(stage, steps=2, windows=3) for stage in STAGES if stage.name != "rewording"),
    vocabulary=1200,
    vocabulary_tokens=20_000,
    width=16,
    layers=2,
    heads=2,
    head_width=8,
    questions=4,
    training=dataclasses.replace(Scale().training, checkpoint_every=5),
)
OPTIONS = QuickstartOptions(minutes=60.0, window=128, tokens=2500, seed=3)


def run(out: Path, **changes: Any) -> Iterator[Event]:
    return quickstart.quickstart(dataclasses.replace(OPTIONS, out=out, **changes), scale=SCALE)


def timeless(value: Any) -> Any:
    """A result without what speaks of time."""
    if isinstance(value, dict):
        timed = ("seconds", "cpu_seconds", "tokens_per_second", "extrapolated")
        return {key: timeless(item) for key, item in value.items() if key not in timed}
    return value


def outcome(out: Path) -> tuple[dict[str, bytes], Any, Any]:
    """Weights, result.json and each policy's replies."""
    weights = {name: each.numpy().tobytes() for name, each in load_file(out / "model" / "model.safetensors").items()}
    result = timeless(json.loads((out / "result.json").read_text(encoding="utf-8")))
    replies = [json.loads((out / "policies" / f"{name}.json").read_text("utf-8"))["outcomes"] for name in POLICIES]
    return weights, result, replies


@pytest.fixture(scope="module")
def events_and_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    """An uninterrupted run; for reading only."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("whole") / "run"
    events = list(run(out))
    torch.set_num_threads(threads)
    return events, out


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, Path]:
    """A small English and a small Chinese book."""
    rng = random.Random(0)
    files = []
    for lang, joint, sentences in (("en", " ", 900), ("zh", "", 700)):
        path = tmp_path / f"{lang}.txt"
        path.write_text(joint.join(filler(lang, rng) for _ in range(sentences)), encoding="utf-8")
        files.append(path)
    return files[0], files[1]


def test_events_show_every_long_step(events_and_folder: tuple[list[Event], Path]) -> None:
    events, _ = events_and_folder
    advances = [event for event in events if isinstance(event, Advance)]
    last = {event.task: event for event in advances}
    assert all(event.done == event.total for event in last.values())
    expected = ["Measuring", *(f"Training: {stage.name}" for stage in SCALE.stages)]
    for name in POLICIES:
        expected += [f"Reading: {name}", f"Asking: {name}"]
    assert list(last) == expected
    for event in advances:
        assert event.tokens_per_second or event.task.startswith("Asking")
        assert event.note.startswith("loss ") == event.task.startswith("Training")
    assert isinstance(events[-1], Finished)
    assert any(isinstance(event, Said) and "report.html" in event.text for event in events)


def test_files_and_figures(events_and_folder: tuple[list[Event], Path]) -> None:
    events, out = events_and_folder
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert events[-1].result == result  # type: ignore[union-attr]
    assert tuple(result["policies"]) == POLICIES
    keys = {"recall", "recall_beyond_window", "perplexity", "device_bytes", "host_bytes", "seconds", "tokens"}
    for figures in result["policies"].values():
        assert keys <= figures.keys()
        assert figures["recall_by_lang"].keys() == {"en", "zh"}
        assert figures["tokens"] == result["document"]["tokens"] > OPTIONS.tokens
        assert figures["questions"] == 2 * SCALE.questions
    text = (out / "document.txt").read_text(encoding="utf-8")
    assert result["document"]["characters"] == len(text)
    for line in (out / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        asked = json.loads(line)
        assert asked["answers"][0] in text[asked["fact_start"] : asked["fact_end"]]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "retrieved blocks" in page
    assert {"tokenizer", "document", "plan", "training", *POLICIES} == result["seconds"].keys()
    model, tokenizer = load_folder(out / "model")
    assert model.config.max_positions == OPTIONS.window
    assert tokenizer.opening_ids == [tokenizer.bos_id]
    names = {path.name for path in out.rglob("*")}
    assert not [name for name in names if name.startswith(".") or name.endswith(".tmp")]


def test_next_commands_are_commands(events_and_folder: tuple[list[Event], Path]) -> None:
    commands = events_and_folder[0][-1].next_commands  # type: ignore[union-attr]
    group = typer.main.get_command(app)
    verbs = []
    for command in commands:
        program, verb, *arguments = shlex.split(command)
        assert program == "handscroll"
        group.commands[verb].make_context(verb, arguments)  # type: ignore[attr-defined]
        verbs.append(verb)
    assert verbs == ["generate", "eval", "quickstart"]


STOPS: dict[str, Callable[[Event], bool]] = {
    "vocabulary": lambda event: isinstance(event, Said) and "vocabulary" in event.text,
    "document": lambda event: isinstance(event, Said) and "facts" in event.text,
    "training": lambda event: isinstance(event, Advance) and event.task == "Training: questions" and event.done == 2,
    "model": lambda event: isinstance(event, Said) and "The model is" in event.text,
    "asking": lambda event: isinstance(event, Advance) and event.task == "Asking: sliding_window" and event.done == 2,
    "report": lambda event: isinstance(event, Said) and "report" in event.text,
}


def test_resumed_equals_uninterrupted(events_and_folder: tuple[list[Event], Path], tmp_path: Path) -> None:
    """One run that is stopped at each place in turn."""
    out = tmp_path / "run"
    for number, (place, is_there) in enumerate(STOPS.items()):
        events = run(out, resume=number > 0)
        for event in events:
            if is_there(event):
                break
        else:
            raise AssertionError(f"the run ended before {place}")
        events.close()  # type: ignore[attr-defined]
    resumed = list(run(out, resume=True))
    assert not [event for event in resumed if isinstance(event, Advance)]
    assert outcome(out) == outcome(events_and_folder[1])
    assert timeless(resumed[-1].result) == outcome(out)[1]  # type: ignore[union-attr]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_run_goes_on_to_the_same_result(events_and_folder: tuple[list[Event], Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with subprocess.Popen([sys.executable, __file__, str(out)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline().strip()) != "Training: full windows":
            assert line, "the run ended before it could be killed"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert isinstance(list(run(out, resume=True))[-1], Finished)
    assert outcome(out) == outcome(events_and_folder[1])


def test_resume_without_a_run_begins_one(tmp_path: Path) -> None:
    assert isinstance(next(run(tmp_path / "new", resume=True)), Said)


@pytest.fixture
def texts_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The plain texts of every curriculum that is made, in order."""
    texts: list[tuple[str, ...]] = []

    class Noted(Curriculum):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            texts.append(self.texts)

    monkeypatch.setattr(quickstart, "Curriculum", Noted)
    return texts


def test_without_a_corpus_another_chronicle_is_trained_on(texts_read: list[tuple[str, ...]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    next(event for event in run(out) if isinstance(event, Advance) and event.task.startswith("Training"))
    found = material.Material.load(out)
    assert found is not None
    assert len(set(texts_read)) == 1
    [text] = texts_read[0]
    assert len(text) > 5000
    assert not [placed for placed in found.document.facts if placed.fact.subject in text]


def test_a_corpus_is_trained_on_and_read(
    corpus: tuple[Path, Path], texts_read: list[tuple[str, ...]], tmp_path: Path
) -> None:
    out = tmp_path / "own"
    events = list(run(out, corpus=corpus))
    result = events[-1].result  # type: ignore[union-attr]
    assert result["document"]["languages"] == ["en", "zh"]
    assert result["policies"]["block_memory"]["recall_by_lang"].keys() == {"en", "zh"}
    assert result["document"]["tokens"] > OPTIONS.tokens
    found = material.Material.load(out)
    assert found is not None
    assert set(texts_read) == {tuple(found.training.values())}
    assert any(stage.texts for stage in SCALE.stages)
    for placed in found.document.facts:
        assert found.document.text[placed.answer_start : placed.answer_end] == placed.fact.answer
        assert placed.fact.subject not in "".join(found.training.values())
    for file, lang in zip(corpus, ("en", "zh"), strict=True):
        text = file.read_text(encoding="utf-8")
        assert text.startswith(found.training[lang])
        assert found.training[lang][-40:] not in found.document.text
    # The corpus is read once: what is trained on and read is kept.
    for file in corpus:
        file.unlink()
    assert isinstance(list(run(out, corpus=corpus, resume=True))[-1], Finished)


def test_facts_of_both_languages_are_spread_over_the_depth(corpus: tuple[Path, Path]) -> None:
    tokenizer = Tokenizer.train([path.read_text(encoding="utf-8") for path in corpus], 1200, han="isolated")
    made = material.corpus_material(material.read_corpus(corpus), 0, 6000, tokenizer)
    length = len(made.document.text)
    for lang in ("en", "zh"):
        depths = [placed.fact_start / length for placed in made.document.facts if placed.fact.lang == lang]
        assert depths == sorted(depths)
        assert depths[0] < 0.2
        assert depths[-1] > 0.8


def test_a_short_corpus_is_trained_on_as_a_whole(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    tokenizer = Tokenizer.train([path.read_text(encoding="utf-8") for path in corpus], 1200, han="isolated")
    made = material.corpus_material(material.read_corpus(corpus[:1]), 0, 100_000, tokenizer)
    assert made.training == {"en": corpus[0].read_text(encoding="utf-8")}
    assert len(made.notes) == 2
    assert "trains on all of it" in made.notes[0]
    assert "fewer than the 100,000 asked for" in made.notes[1]


@pytest.mark.parametrize(("name", "lang"), [("en_war_and_peace.txt", "en"), ("zh_hongloumeng.txt", "zh")])
def test_novels_are_long_enough_to_read_and_to_train_on(name: str, lang: str) -> None:
    if not (DATA / name).is_file():
        pytest.skip("the novels are not here")
    corpus = material.read_corpus([DATA / name])
    assert list(corpus) == [lang]
    tokenizer = Tokenizer.train([corpus[lang][:300_000]], 2048, han="isolated")
    made = material.corpus_material(corpus, 0, 131_072, tokenizer)
    assert made.notes == ()
    tokens = len(tokenizer.encode(made.document.text))
    assert len(made.document.text) >= 400_000
    assert tokens >= 131_072
    assert len(made.training[lang]) >= 0.2 * len(corpus[lang])
    expected = min(tokens / 128, material.MOST_FACTS)
    assert len(made.document.facts) == pytest.approx(expected, rel=0.2)


def test_languages_are_seen_by_their_characters() -> None:
    assert material.language_of("天地玄黄，宇宙洪荒。") == "zh"
    assert material.language_of("He said 你好 and nothing more to anybody.") == "en"
    assert material.language_of("123 ...") == "en"


def test_a_budget_becomes_steps_once() -> None:
    stages = [dataclasses.replace(stage, steps=100) for stage in STAGES[:2]]
    assert make_plan(stages, [0.1, 0.3], 60.0).stages == tuple(stages)
    half = make_plan(stages, [0.1, 0.3], 20.0)
    assert (half.factor, half.steps, half.seconds) == (0.5, 100, 20.0)
    assert make_plan(stages, [0.1, 0.3], 0.01).steps == 2
    assert type(half).from_json(json.loads(json.dumps(half.to_json()))) == half


def test_short_of_time_the_skills_keep_their_steps_and_the_questions_get_fewer() -> None:
    stages = [Stage("skill", "spans", 100, 4, 32), Stage("ask", "questions", 100, 4, 64, 2)]
    plan = make_plan(stages, [0.1, 0.3], 25.0)
    assert [stage.steps for stage in plan.stages] == [100, 50]
    assert plan.factor == 0.5
    assert plan.seconds == 25.0
    assert [stage.steps for stage in make_plan(stages, [0.1, 0.3], 4.0).stages] == [10, 10]


def test_too_little_time_is_said(tmp_path: Path) -> None:
    for event in run(tmp_path / "run", minutes=1e-4):
        if isinstance(event, Said) and "recall may suffer" in event.text:
            return
    raise AssertionError("nobody said so")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": True}, "window=128: long-context tasks are taught in windows of at least 256 tokens"),
        ({"window": 63}, "window=63: .* at least 64"),
        ({"tokens": 511}, "tokens=511: .* 512 tokens here"),
        ({"tokens": -5}, "tokens=-5"),
        ({"minutes": 0}, "minutes=0"),
        ({"minutes": float("nan")}, "minutes=nan"),
        ({"seed": -1}, "seed=-1 is negative"),
        ({"corpus": (Path("missing.txt"),)}, "missing.txt does not exist"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the corpus is empty"),
        (b"\x00\x01\x02", "binary file"),
        ("天地玄黄。".encode("gb18030"), "not UTF-8"),
        (b"One is here. Two is there. Six is near. " * 4, "fewer than 4 windows of 128"),
        (b"no sentence ends here " * 500, "0 places where a sentence ends"),
    ],
)
def test_corpora_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "own.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", corpus=(path,))
    assert not (tmp_path / "run").exists()


def test_tasks_are_in_the_vocabulary_and_in_the_plan(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, out=tmp_path / "run", tasks=True, window=256)
    events = quickstart.quickstart(options, scale=dataclasses.replace(SCALE, vocabulary=Scale().vocabulary))
    while not (tmp_path / "run" / "plan.json").is_file():
        next(events)
    assert len(Tokenizer.load(tmp_path / "run" / "tokenizer").encode(" brave-teacher is 123")) == 4
    stages = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))["stages"]
    assert [stage["tasks"] for stage in stages if stage["length"] == 256] == [1, 1, 1]
    assert {stage["tasks"] for stage in stages if stage["kind"] == "spans"} == {0}


def test_folders_of_other_runs_are_refused(events_and_folder: tuple[list[Event], Path], tmp_path: Path) -> None:
    out = events_and_folder[1]
    with pytest.raises(ValueError, match=r"holds a run already: go on with it \(--resume\), or give another --out"):
        run(out)
    with pytest.raises(ValueError, match=r"seed was 3 in .* and is 4 now"):
        run(out, resume=True, seed=4)
    with pytest.raises(ValueError, match="full was False"):
        run(out, resume=True, full=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        run(tmp_path / "file")


def test_full_stops_early_unless_told_otherwise(
    events_and_folder: tuple[list[Event], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = events_and_folder[1]
    model, tokenizer = load_folder(out / "model")
    found = material.Material.load(out)
    assert found is not None
    monkeypatch.setattr(comparison, "FULL_LIMIT", 512)
    monkeypatch.setattr(comparison, "EARLY_POINTS", (256, 512))
    monkeypatch.setattr(comparison, "POLICIES", {"full": comparison.POLICIES["full"]})
    reading = comparison.Reading.of(found.document, tokenizer, 128, 2, 0)
    total = len(reading.ids)
    assert {256, 512, total // 4, total // 2, total} <= reading.probes.keys()
    between = reading.probes.keys() - {256, 512, total // 4, total // 2, total}
    assert between <= {total * number // comparison.PAUSES for number in range(comparison.PAUSES)}
    assert all(probe.is_extra for point in between for probe in reading.probes[point])
    for full, tokens in ((False, 512), (True, total)):
        steps = comparison.compare(model, tokenizer, reading, tmp_path / str(full), full=full)
        try:
            while True:
                next(steps)
        except StopIteration as stopped:
            [result] = stopped.value
        assert result.tokens == tokens
        assert (result.extrapolated is None) == full
        assert full or result.extrapolated.tokens == total
        assert result.recall_inside_window.asked + result.recall_beyond_window.asked == len(result.outcomes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for event in run(Path(sys.argv[1])):
        if isinstance(event, Advance):
            print(event.task, flush=True)
            time.sleep(0.03)


def test_the_vocabulary_has_every_word_that_answers_hang_on() -> None:
    """A relation, a name or an answer in several pieces is out of reach of the heads that look a few tokens back."""
    scale = Scale()
    learnt = material.learn_vocabulary(1, {}, scale.vocabulary, scale.vocabulary_tokens)
    assert learnt.vocab_size <= scale.vocabulary
    rng, broken = random.Random(0), set()
    for lang in LANGUAGES:
        names = Names(lang, "read", 1)
        for fact in (draw_fact(rng.choice(list(RELATIONS)), names.draw(rng), rng, names) for _ in range(1500)):
            for sentence in (question(fact, rng), answer_sentence(fact)):
                for word in re.findall(r"^\w+| \w+|\W", sentence) if lang == "en" else sentence:
                    if len(learnt.encode(word)) != 1 and not word.strip().isdigit():
                        broken.add(word)
            if lang == "zh" and fact.relation not in ("teacher", "birth_year"):
                assert len(learnt.encode(fact.answer)) == 1
    assert not broken
