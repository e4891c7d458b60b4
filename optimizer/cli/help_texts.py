"""The texts that --help of drpo-optimizer prints below the flags."""

from typing import Final

RUN_TOML: Final = """\
A run.toml with its required keys:

  [models.task]                   # the model to write a bundle for
  base_url = "http://127.0.0.1:8000/v1"
  model = "google/gemma-3-270m"
  kind = "completion"             # "completion" for a base model, "chat" for a chat model

  [data]                          # JSONL files. A row has query, and optionally reference, tag, split
  train = "rows.jsonl"            # if one file has all rows, each row needs a "split": train, validation or sealed
  validation = "rows.jsonl"
  sealed = "rows.jsonl"

  [reward]                        # rules, reference, likelihood, taste, judge or MODULE:FUNCTION score answers
  weights = { rules = 0.5, reference = 0.5 }

  [bundle]
  name = "mine"

Other tables:

  [models.optimizer]              # the writer model, which rewrites prompts and answers
  [models.judge]                  # the model that scores answers
  [search]                        # recipe = "raced" or "drpo", beam, actions, depth and more
  [examples]                      # how examples are written
  [tune]                          # the settings that are tried after the search
  [budget]                        # limits of calls, tokens, money and minutes

docs/run-toml.md explains each key.
"""

SHIP: Final = """\
The new directory contains the files of the bundle, and:

  provenance.json   the models, the start, the rewards, the calls, the data files, the licence and the figures
  run.toml          the settings of the run
  journal.json      for each level of the search: the calls, what each proposer proposed, what was kept, the best mean

It contains no row, no answer and no prompt that was tried. docs/learned-bundles.md explains the figures.

  drpo-optimizer ship runs/mine --out mine --licence Apache-2.0 --texts "written by us" --figures validation.json
"""

HARVESTING: Final = """\
Examples:

  drpo-optimizer harvest --store sqlite:/var/lib/drpo/store.sqlite3 --out harvest
  drpo-optimizer harvest --experiment tone --since 2026-11-01 --yes --out harvest     # the store is in DRPO_STORE
  drpo-optimizer harvest --metric stars --at-least 4 --at-most 2 --out harvest

The store needs the texts of requests and replies. drpo-proxy keeps them only with --store-content, which also works
without an experiment. Feedback comes from POST /v1/feedback. The command only reads the store.

  liked answers      become candidate examples: scrubbed, checked, without duplicates. You accept, edit or reject each
  disliked answers   become training rows, with the comments of users
  pairs of answers   become preference pairs. They come from regenerated, corrected and reworded turns, from ratings,
                     and from the shadow judge

DIR contains these files:

  report.txt          what was taken, what was not taken, and why
  candidates.jsonl    the candidate examples
  examples.jsonl      the examples that you accepted, for drpo-index build --examples
  rows.jsonl          the training rows, for train in [data] of run.toml
  preferences.jsonl   the preference pairs, for preferences in [data] of run.toml

Ctrl-C or q ends the review. The same command continues it. --yes accepts the candidates without cautions. It leaves a
candidate undecided if private data was replaced in it, or if it is near harmful questions. Rules find patterns of
private data, not every name. docs/harvest.md says what they find.
"""

IMPROVING: Final = """\
Examples:

  drpo-optimizer improve --store sqlite:/var/lib/drpo/store.sqlite3 --bundle bundles/now --out improve-2026-11-30 \\
      --base-url http://127.0.0.1:8000/v1    # the model server, or drpo-proxy if it serves an embedded model
  drpo-optimizer improve --bundle bundles/now --out improve-2026-11-30 --config run.toml    # the store is in DRPO_STORE

The command has these steps. Each step leaves its result in DIR:

  harvest/         what the feedback gives, as drpo-optimizer harvest writes it. The command accepts the candidates
                   without cautions. With --review, it asks you about each candidate
  inputs/          the run's rows, examples, preference pairs and run.toml
  run/             the run, with the recipe "raced", a budget and a sealed evaluation. report.html shows the run
  bundle/          the new bundle, if it is better than the current one on sealed rows
  experiment.toml  an experiment with the current bundle as the control and the new bundle as the treatment. It has
                   guardrails, and says how many users it needs. Without a new bundle, there is no experiment
  summary.html     what changed and why, and what to do next

Nothing is served until you give experiment.toml to drpo-proxy. Ctrl-C is safe: the same command continues, and repeats
no step and no paid call. DIR belongs to one store, one bundle and one choice of feedback. Name a new DIR each week.

--config names a run.toml, as for drpo-optimizer run. Every table of it is optional:

  [models]            a writer model and a judge, which improve the search
  [data]              rows of your own, which are added to those of the harvest
  [reward], [search]  how answers are scored, and how the search works
  [budget]            the limits of the run. Without this table, the limit is 5,000 calls

The command sets [bundle] start, and names the rows of the harvest in [data]. docs/improving.md explains more.
"""
