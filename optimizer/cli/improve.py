"""The command improve: harvests a store, runs the optimizer, and writes what is needed to test the new bundle."""

import argparse
import asyncio
import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any, Final

import orjson

from index.bundle.bundle import read_bundle
from index.bundle.differences import differences
from index.bundle.files import MANIFEST
from index.bundle.shipped import DEFAULT_BUNDLE, choose_shipped, find_bundle, read_shipped, shipped_names
from index.counted import counted
from index.store_address import StoreAddress, has_password
from optimizer.cli.harvest import feedback_of, run_harvest, store_of
from optimizer.cli.run_command import print_error_line, read_run_file, start_or_continue
from optimizer.core.errors import ConfigError, DataError
from optimizer.core.journal import EVENTS, Event, read_journal
from optimizer.core.run_file import BEGUN, begun_event
from optimizer.harvest.files import REPORT
from optimizer.harvest.harvest import TAG
from optimizer.harvest.store.reader import StoreQuery
from optimizer.harvest.store.session import read_session
from optimizer.improve.experiment_file import ExperimentPlan, experiment_name, experiment_text
from optimizer.improve.folder import ImproveFolder, write_file, writing
from optimizer.improve.inputs import POOL, Start, check_start, read_document, write_inputs
from optimizer.improve.planned_size import MetricFeedback, read_metric
from optimizer.improve.rows import MIN_TELLING_ROWS
from optimizer.improve.summary_page import Improvement, NextStep, summary_html, verdict_line
from optimizer.models.model_list import first_model
from optimizer.report.run_summary import summarize_run
from optimizer.stages.run import RUN_FILE

_UNDECIDED: Final = (
    "left out, because a person should look at {them} first. To decide about {them}, name a new --out and give "
    "--review."
)
_KEY_VARIABLE: Final = "DRPO_API_KEY"
_LIST_TIMEOUT: Final = 15.0  # seconds
_BETTER: Final = (
    NextStep("Read the new prompt and the new examples in the summary, because they come from the feedback of users."),
    NextStep(
        "Test the new bundle on users. Copy the experiment into the folder that --experiment of drpo-proxy names, and "
        "send SIGHUP to drpo-proxy:",
        "cp {experiment} EXPERIMENTS",
    ),
    NextStep("Or start drpo-proxy again, with the same --store:", "drpo-proxy --experiment {experiment} ..."),
    NextStep("Read the result:", "drpo-proxy experiment report {experiment}{store}"),
    NextStep("If the new bundle is better, serve it to all users:", "drpo-proxy --bundle {bundle} ..."),
)
_NO_BETTER: Final = (
    NextStep("Keep the current bundle. There is no experiment file, because there is nothing to test."),
    NextStep(
        "More feedback gives more rows, and a writer model ([models.optimizer] in run.toml) can use comments and pairs."
    ),
)


def run_improve(options: argparse.Namespace) -> int:
    """Make a better bundle from the feedback in a store, or continue after an interruption. Return the exit code.

    Raises:
        DataError: The store or the folder cannot be used, or there is too little feedback.
        ConfigError: A flag or run.toml is wrong.
        BundleError: The current bundle cannot be read.
        OptimizeError: The run fails.
    """
    place, query, folder = store_of(options), feedback_of(options), ImproveFolder(options.out)
    start, directory = _start(options)
    check_start(start)
    folder.begin(_identity(options, place, directory))
    try:
        _harvest(options, place, query, folder)
        _make_inputs(start, folder)
        asyncio.run(_run(start, folder))
    except KeyboardInterrupt:
        print_error_line("Every finished step is kept. To continue, give the same command again.")
        raise
    _finish(start, directory, query, options, folder)
    return 0


def _start(options: argparse.Namespace) -> tuple[Start, Path]:
    """Return what the improvement begins with, and the directory of the current bundle."""
    config: Path | None = options.config
    document = read_document(config)
    document["models"] = _with_server(document.get("models", {}), options, ImproveFolder(options.out).task_model)
    name, directory = _current_bundle(options.bundle, document["models"]["task"].get("model", ""))
    bundle = read_bundle(directory)
    folder = config.parent if config else Path()
    sys.path.insert(0, str(folder.resolve()))  # for reward modules of the user
    new_name = document.get("bundle", {}).get("name", experiment_name(options.out.resolve().name))
    return Start(document, folder.resolve(), name, bundle.manifest, new_name), directory


def _with_server(models: Any, options: argparse.Namespace, known: str) -> dict[str, Any]:
    """Return the tables [models]. What the flags say about the model and its server replaces keys of [models.task].

    Args:
        models: The tables [models] of the user's run.toml.
        options: The flags.
        known: The name of the task model if an earlier start of this improvement recorded it, else empty. If neither a
            flag nor [models.task] nor this name says which model to use, the server is asked for its first model.
    """
    if not isinstance(models, dict) or not isinstance(models.get("task", {}), dict):
        raise ConfigError("[models.task] must be a table")
    task = dict(models.get("task", {}))
    if options.base_url:
        task |= {"base_url": options.base_url} | ({"api_key_env": _KEY_VARIABLE} if _KEY_VARIABLE in os.environ else {})
    if options.model:
        task["model"] = options.model
    task["kind"] = options.kind or task.get("kind", "completion")
    if "base_url" not in task:
        raise ConfigError(
            "no model server is named. Give --base-url http://HOST:PORT/v1, or [models.task] in run.toml (--config)."
        )
    if "model" not in task and known:
        task["model"] = known
    if "model" not in task:
        key = os.environ.get(str(task.get("api_key_env")))
        task["model"] = asyncio.run(first_model(str(task["base_url"]), key, _LIST_TIMEOUT))
    return {**models, "task": task}


def _current_bundle(location: str, model: str) -> tuple[str, Path]:
    """Return the name or the path of the current bundle, and its directory. Raises BundleError."""
    if location == DEFAULT_BUNDLE:
        shipped = choose_shipped([model], read_shipped()).bundle
        return shipped.name, shipped.directory
    directory = find_bundle(location)
    return (location if location in shipped_names() else str(directory.resolve())), directory


def _identity(options: argparse.Namespace, place: StoreAddress, bundle: Path) -> Mapping[str, Any]:
    names = ("experiment", "since", "metric", "at_least", "at_most", "words", "per_user")
    digest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    return {
        "store": place.name,
        "bundle": f"{bundle.resolve()} ({digest[:12]})",
        "feedback": {name: getattr(options, name) for name in names},
    }


def _harvest(options: argparse.Namespace, place: StoreAddress, query: StoreQuery, folder: ImproveFolder) -> None:
    """Harvest the store, unless the inputs of the run exist. Measure the metric, unless its file exists."""
    if not (folder.inputs / RUN_FILE).exists():
        print_error_line("Step 1 of 4: harvest")
        flags = {**vars(options), "export": None, "out": folder.harvest, "yes": not options.review}
        run_harvest(argparse.Namespace(**flags), _UNDECIDED)
        if not folder.read["with_text"]:
            raise DataError(
                f"no request in {place.name} has texts, so there is nothing to learn from. Start drpo-proxy with "
                "--store-content, wait for feedback, and name a new folder with --out."
            )
    if not folder.metric.exists():
        with read_session(place) as session:
            write_file(folder.metric, orjson.dumps(read_metric(session, query).as_json))


def _make_inputs(start: Start, folder: ImproveFolder) -> None:
    if (folder.inputs / RUN_FILE).exists():
        return
    print_error_line("Step 2 of 4: rows, examples and pairs")
    counts = write_inputs(start, folder).counts
    print_error_line("  " + ", ".join(counted(count, f"{part} row") for part, count in counts.items()))
    if counts["sealed"] < MIN_TELLING_ROWS:
        print_error_line(
            f"  There are only {counts['sealed']} sealed rows. With fewer than {MIN_TELLING_ROWS}, even a clear "
            "improvement is hard to tell from chance. Add rows of your own ([data] sealed)."
        )


async def _run(start: Start, folder: ImproveFolder) -> None:
    """Begin or continue the run, unless it is finished."""
    events = read_journal(folder.run) if (folder.run / EVENTS).exists() else []
    if any(event.get("note") == "bundle" for event in events):
        return
    print_error_line("Step 3 of 4: run")
    copy = folder.run / RUN_FILE
    if not copy.exists():
        write_file(copy, (folder.inputs / RUN_FILE).read_bytes())
    else:
        print_error_line(f"  The settings are those of {copy}. Change [budget] and servers there.")
    begun: Event = next((one for one in events if one.get("note") == BEGUN), begun_event(folder.inputs / RUN_FILE))
    config = read_run_file(copy, Path(begun["folder"]))
    sys.path.insert(0, str(start.folder))
    await start_or_continue(
        config, folder.run, begun, f"the same command again, or `drpo-optimizer resume {quote(str(folder.run))}`"
    )


def _finish(start: Start, current: Path, query: StoreQuery, options: argparse.Namespace, folder: ImproveFolder) -> None:
    """Write the summary and print the verdict. If a better bundle was found, also write it and the experiment file."""
    store = f" --store {quote(options.store)}" if options.store and not has_password(options.store) else ""
    print_error_line("Step 4 of 4: experiment file and summary")
    run = summarize_run(read_journal(folder.run))
    is_found = run.is_found
    if is_found:
        _copy_bundle(folder)
        plan = ExperimentPlan(
            start.name, start.bundle, str(folder.bundle.resolve()), query, _metric(folder), options.difference
        )
        if not folder.experiment.exists():
            write_file(folder.experiment, experiment_text(plan).encode())
    values = {"experiment": quote(str(folder.experiment)), "bundle": quote(str(folder.bundle)), "store": store}
    steps = [NextStep(one.text, one.command.format(**values)) for one in (_BETTER if is_found else _NO_BETTER)]
    new = read_bundle(folder.bundle if is_found else folder.run / "bundle")
    improvement = Improvement(
        start.name,
        start.bundle,
        folder.read,
        (folder.harvest / REPORT).read_text(encoding="utf-8"),
        folder.row_counts,
        sum(TAG in one["tags"] for one in map(orjson.loads, (folder.inputs / POOL).read_bytes().splitlines())),
        list(differences(read_bundle(current), new)),
        run,
        folder.experiment.read_text(encoding="utf-8") if is_found else "",
        steps,
    )
    write_file(folder.summary, summary_html(improvement).encode())
    lines = [verdict_line(run), f"Summary:  {folder.summary}", "", "What to do next:"]
    lines += [part for one in steps for part in (f"- {one.text}", *([f"    {one.command}"] if one.command else []))]
    sys.stdout.write("\n".join(lines) + "\n")


def _metric(folder: ImproveFolder) -> MetricFeedback:
    return MetricFeedback(**orjson.loads(folder.metric.read_bytes()))


def _copy_bundle(folder: ImproveFolder) -> None:
    """Copy the bundle of the run, unless the copy exists. The copy is never incomplete, even after an interruption."""
    made = folder.run / "bundle"
    with writing(folder.bundle):
        if (folder.bundle / MANIFEST).exists():
            if (folder.bundle / MANIFEST).read_bytes() == (made / MANIFEST).read_bytes():
                return
            shutil.rmtree(folder.bundle)
        temporary = folder.bundle.with_name(".bundle")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(made, temporary)
        os.replace(temporary, folder.bundle)  # noqa: PTH105 - an atomic rename
