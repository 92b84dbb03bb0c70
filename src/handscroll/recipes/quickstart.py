"""The main job: from text to a model that answers questions far past its window, and to the report that shows it.

The way: settings, tokenizer, the document to read, a plan of steps, training, the model's folder, one reading for each
policy, result and report. Each leaves files in the run's folder, whole or not at all, and is skipped where they are
there already; that is all that resuming is. Each step's own work is done elsewhere: `material.py`, `curriculum.py`,
`plan.py`, `comparison.py`, `findings.py`; what a run is asked for stands in `quickstart_options.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from handscroll.kvcache import BlockMemory
from handscroll.kvcache.block_memory import Sizes
from handscroll.measure import PolicyResult, write_report
from handscroll.model import Transformer
from handscroll.model.checkpoint import replacing
from handscroll.model.initialization import look_back
from handscroll.recipes import material as texts
from handscroll.recipes.comparison import Reading, compare
from handscroll.recipes.curriculum import Curriculum
from handscroll.recipes.events import Advance, Event, Finished, Said
from handscroll.recipes.findings import make_report, make_result, next_commands
from handscroll.recipes.folders import load_folder, save_folder
from handscroll.recipes.material import Material
from handscroll.recipes.plan import Plan, make_plan, measure_steps
from handscroll.recipes.quickstart_options import SETTINGS, QuickstartOptions, Scale, checked_corpus, settings
from handscroll.text import Tokenizer
from handscroll.text.files import write_files
from handscroll.training import SFT, train
from handscroll.training.log import LOG_NAME

PLAN, RESULT, REPORT, SECONDS = "plan.json", "result.json", "report.html", "seconds.json"
TOKENIZER, TRAINING, MODEL = "tokenizer", "training", "model"
# Of the chronicle that the vocabulary is learnt from, one part in so many is also read while training.
TEXT_SHARE = 4
# Below this share of the curriculum's steps some skill may not be learnt.
ENOUGH = 0.5


def quickstart(options: QuickstartOptions, *, scale: Scale | None = None) -> Iterator[Event]:
    """Runs the main job in `options.out`; the last event is `Finished` with what result.json holds.

    Checks at once, before anything is written; works while it is iterated. With `resume` a run that was interrupted or
    killed goes on to the same result. Raises ValueError for a mistake in the options, for a corpus that can't be
    used, and for an `out` that holds another run.
    """
    scale = scale or Scale()
    if options.tasks:
        scale = scale.with_tasks()
    return _Run(options, scale, checked_corpus(options, scale)).events()


class _Run:
    """One run in its folder."""

    def __init__(self, options: QuickstartOptions, scale: Scale, corpus: dict[str, str]):
        self.options, self.scale, self.corpus, self.out = options, scale, corpus, options.out

    def events(self) -> Iterator[Event]:
        self._write(SETTINGS, settings(self.options))
        tokenizer = yield from self._tokenizer()
        material = yield from self._material(tokenizer)
        plan = yield from self._plan(tokenizer, material)
        yield from self._train(tokenizer, material, plan)
        # Always the saved one, wherever its weights came from: tensors lie at the same places in memory then.
        model = load_folder(self.out / MODEL, device="cpu").model
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        reading = Reading.of(material.document, tokenizer, self.options.window, self.scale.questions, self.options.seed)
        yield from self._finish(
            model, reading, plan, (yield from compare(model, tokenizer, reading, self.out, full=self.options.full))
        )

    def _tokenizer(self) -> Generator[Event, None, Tokenizer]:
        folder = self.out / TOKENIZER
        if not folder.is_dir():
            yield Said("Learning a vocabulary.")
            with self._timed("tokenizer"):
                learnt = texts.learn_vocabulary(
                    self.options.seed,
                    self.corpus,
                    self.scale.vocabulary,
                    self.scale.vocabulary_tokens,
                    tasks=self.options.tasks,
                )
                with replacing(folder) as draft:
                    learnt.save(draft)
        # Always the saved one, so that a resumed run has the same in its hands.
        return Tokenizer.load(folder)

    def _material(self, tokenizer: Tokenizer) -> Generator[Event, None, Material]:
        options = self.options
        if (found := Material.load(self.out)) is not None:
            return found
        yield Said("Planting facts in your text." if options.corpus else "Writing a chronicle to read.")
        with self._timed("document"):
            if options.corpus:
                made = texts.corpus_material(self.corpus, options.seed, options.tokens, tokenizer)
            else:
                made = texts.chronicle_material(options.seed, options.tokens, tokenizer)
            made.save(self.out)
        for note in made.notes:
            yield Said(note)
        count = len(made.document.facts)
        yield Said(
            f"The document has {len(made.document.text):,} characters and {count:,} facts: {self.out}/document.txt"
        )
        return made

    def _plan(self, tokenizer: Tokenizer, material: Material) -> Generator[Event, None, Plan]:
        path = self.out / PLAN
        if not path.is_file():
            stages = [stage.fitted(self.options.window) for stage in self.scale.stages]
            curriculum = self._curriculum(stages, tokenizer, material)
            steps: list[float] = []
            with self._timed("plan"):
                for event in measure_steps(
                    curriculum, self._objective(tokenizer), self.scale.training, lambda: self._models(tokenizer)
                ):
                    if isinstance(event, Advance):
                        yield event
                    else:
                        steps = event
            self._write(PLAN, make_plan(curriculum.stages, steps, 60 * self.options.minutes).to_json())
        plan = Plan.from_json(json.loads(path.read_text(encoding="utf-8")))
        yield Said(f"Training takes {plan.steps} steps, about {plan.seconds / 60:.1f} minutes here.")
        if plan.factor < ENOUGH:
            enough = math.ceil(self.options.minutes / plan.factor)
            yield Said(
                f"That is {plan.factor:.0%} of the steps that the curriculum asks for, so recall may suffer; "
                f"--minutes {enough} is enough for all."
            )
        return plan

    def _train(self, tokenizer: Tokenizer, material: Material, plan: Plan) -> Iterator[Event]:
        if (self.out / MODEL).is_dir():
            return
        models, curriculum = self._models(tokenizer), self._curriculum(plan.stages, tokenizer, material)
        options = dataclasses.replace(self.scale.training, steps=curriculum.steps, seed=self.options.seed)
        folder = self.out / TRAINING
        for progress in train(models, self._objective(tokenizer), curriculum, options, folder, resume=True):
            stage, before = curriculum.place(progress.step - 1)
            speed, note = progress.tokens_per_second, f"loss {progress.loss:.3f}"
            yield Advance(f"Training: {stage.name}", before + 1, stage.steps, "steps", speed, note)
        save_folder(models["model"], tokenizer, self.out / MODEL)
        yield Said(f"The model is in {self.out / MODEL}")

    def _finish(self, model: Transformer, reading: Reading, plan: Plan, results: list[PolicyResult]) -> Iterator[Event]:
        log = texts.read_lines(self.out / TRAINING / LOG_NAME)
        seconds = self._seconds() | {"training": log[-1]["seconds"]}
        result = make_result(settings(self.options), model, reading, plan, results, seconds)
        write_report(self.out / REPORT, make_report(result, reading, plan, results, log))
        self._write(RESULT, result)
        yield Said(f"The report is {self.out / REPORT}: one page, open it in a browser.")
        document = self.out / texts.DOCUMENT
        yield Finished(result, next_commands(self.out, self.out / MODEL, document, result["settings"], results))

    def _curriculum(self, stages: Any, tokenizer: Tokenizer, material: Material) -> Curriculum:
        seed, own = self.options.seed, tuple(material.training.values())
        if not own:
            tokens = self.scale.vocabulary_tokens // TEXT_SHARE
            own = (texts.training_chronicle(seed, material.document.languages, tokens).text,)
        return Curriculum(stages, tokenizer, material.excerpts, seed, own)

    def _models(self, tokenizer: Tokenizer) -> dict[str, Transformer]:
        config = self.scale.config(tokenizer.vocab_size, self.options.window)
        model = Transformer(config, seed=self.options.seed)
        look_back(model)
        return {"model": model}

    def _objective(self, tokenizer: Tokenizer) -> SFT:
        """Full windows look across the batch in the middle layers, which find what is asked for."""
        middle, window = tuple(range(1, self.scale.layers - 1)), self.options.window
        distance = Sizes.of(BlockMemory(), window).window
        pad = tokenizer.id_of("<|pad|>")
        return SFT(pad, crossbatch=middle, crossbatch_distance=distance, crossbatch_from=window)

    def _write(self, name: str, values: Any) -> None:
        write_files(self.out, {name: [json.dumps(values, ensure_ascii=False, indent=2), "\n"]})

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Notes how long a phase took; a phase that was interrupted counts from its last beginning."""
        started = time.perf_counter()
        yield
        self._write(SECONDS, self._seconds() | {phase: time.perf_counter() - started})

    def _seconds(self) -> dict[str, float]:
        path = self.out / SECONDS
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
