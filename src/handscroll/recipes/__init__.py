"""Recipes: whole runs, wired from the rooms below. A recipe knows what follows what; every step is some room's own.

- `quickstart.py`: from text to a model that answers questions far past its window, and to the report; its parts are
  `material.py` (what is read, what is trained on), `curriculum.py` and `windows.py` (what is taught), `plan.py` (a time
  budget as steps), `comparison.py` (the policies, one after the other) and `findings.py` (result and report)
- `train.py`: any training run that a YAML file describes; `schema.py` says what such a file may hold,
  `model_section.py` of a model,
  `data.py` keeps its corpus as tokens, which `documents.py` makes of rows
- `compare.py`: variants of such a run (`variants.py`) under one budget, each in its own process (`variant_run.py`)
- `inspection.py`: the rows of a corpus as a model sees them
- `extend.py`: a trained model under a longer window, tuned there on request
- `convert.py`: one with fewer heads for keys and values; `tuning.py`: what `extend` and `convert` share
- `embed.py`, `fill.py`: texts as vectors, masked tokens; `blanks.py`: what a GLM fills
- `generate.py`: a prompt's continuation as text; `decoding.py`: the options of it; `memory_needs.py`: what can't fit
- `chat.py`: a conversation whose memory goes on; `chat_commands.py`: lines with a slash; `chat_file.py`: saved ones
- `read.py`: a text that is read once, and whose memory is saved; `ask.py`: questions about it
- `evaluate.py`: several suites at several lengths, with results on disk after every cell
- `results.py`: the file by which `evaluate.py` and `compare.py` go on; `events.py`: what a long run tells its caller

What it promises: a run is a generator that never prints; a user's mistake is a ValueError before anything is written;
a run that was killed goes on with `resume`
(`evaluate` and `compare` by themselves).

To add a key to training recipes: add a field to a section in `schema.py` and use it in `train.py`. The options of a new
optimizer or schedule need neither: sections are made from the training room's dicts.

Nothing is imported here, so that naming one recipe loads what that one needs.
"""
