"""The command `drpo-proxy`: parses the command line, prints progress and results, and starts the server."""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import uvloop
from rich.console import Console

from index.errors import DrpoError
from proxy.api.auth import new_key
from proxy.core.log import log_lines
from proxy.core.malloc import return_large_blocks_to_system
from proxy.core.progress import ProgressCallback
from proxy.core.settings_reader import build_settings, process_environment, read_flags
from proxy.core.variant_names import RAW
from proxy.server.lifecycle import Announce, serve
from proxy.server.service import Status

_ADMIN: Final = """
Page      {0}/ui     (try it, experiments, bundles, live numbers)
Admin     {0}     (POST /admin/reload reads bundles and keys again)"""
_DESCRIPTION = """\
Serve a base language model as an aligned chat model, to any OpenAI client.

  drpo-proxy                                        try it: a small base model runs inside
  drpo-proxy --model-file model.gguf                any other model in a GGUF file runs inside
  drpo-proxy --backend http://127.0.0.1:8000/v1 --bundle MODEL=DIR
                                                    in front of your own vLLM
  drpo-proxy check --backend URL                    do backends, models and bundles fit?
  drpo-proxy fit --backend URL                      does the bundle help the model? 120 questions, without a judge
  drpo-proxy new-key NAME                           make a key for a client, and its line for --api-keys-file
  drpo-proxy experiment --help                      A/B tests: check, report, export, stop

Ask for a variant with the model's name (MODEL@aligned, MODEL@raw) or the header x-drpo-variant.
Every flag can be given as an environment variable, shown beside its default.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its exit code (see `run`)."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command.

    Returns:
        The exit code. 0: the command succeeded, or a signal stopped the server after its start. 1: an error
        occurred, a check found problems, or the process that reads the output ended. 130: SIGINT ended the start of
        the server or another command. 143: SIGTERM ended the start of the server.

    Raises:
        SystemExit: The command line is wrong (exit code 2), or asks for help (exit code 0).
    """
    console = Console(stderr=True, highlight=False)
    try:
        if arguments[:1] == ["experiment"]:
            # Imported here, because a server does not need this module, which takes 2 MB of memory.
            from proxy.experiments.command import run_experiment_command

            output = Console(highlight=False)
            return run_experiment_command(arguments[1:], process_environment(), output)
        if arguments[:1] == ["fit"]:
            from proxy.fit.command import run_fit_command  # imported here, as a server does not need it

            output = Console(highlight=False)
            return run_fit_command(arguments[1:], process_environment(), output, console)
        values, command, name = _parse(arguments)
        if command == "new-key":  # uses no settings, so it works even if a setting is wrong
            return _new_key(name, Console(highlight=False), console)
        settings = build_settings(values, process_environment())
        with log_lines(settings.log.log_format):
            if command == "check":
                from proxy.server.check import check  # imported here, as a server does not need it

                return asyncio.run(check(settings, _progress(console), Console(highlight=False)))
            return_large_blocks_to_system()
            uvloop.run(serve(settings, _progress(console), _announcer(Console(highlight=False))))
    except DrpoError as error:
        console.print(f"drpo-proxy: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except asyncio.CancelledError:  # SIGTERM before the server answered requests
        return 143
    except BrokenPipeError:  # the process that reads the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parse(arguments: Sequence[str]) -> tuple[Mapping[str, Any], str, str]:
    parser = argparse.ArgumentParser(
        "drpo-proxy", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("serve", "check", "fit", "new-key"),
        default="serve",
        help="what to do, as shown above [serve]",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the client that gets the key (only for new-key)")
    values, namespace = read_flags(arguments, process_environment(), parser)
    if namespace.command == "fit":
        parser.error("Write fit before all flags: drpo-proxy fit --backend URL ...")
    if (namespace.command == "new-key") != bool(namespace.name):
        parser.error("new-key needs a NAME. The other commands take no NAME.")
    return values, namespace.command, namespace.name or ""


def _new_key(name: str, output: Console, console: Console) -> int:
    """Make a new API key. Print its line for the keys file on standard output, and the key on standard error."""
    key, line = new_key(name)
    console.print(f"The key, shown only now: {key}\nIts line for --api-keys-file:", markup=False, soft_wrap=True)
    output.print(line, markup=False, soft_wrap=True)
    return 0


def _progress(console: Console) -> ProgressCallback:
    return lambda text: console.print(f"... {text}", style="dim", markup=False)


def _announcer(console: Console) -> Announce:
    return lambda base_url, admin_url, status: _announce(console, base_url, admin_url, status)


def _announce(console: Console, base_url: str, admin_url: str | None, status: Status) -> None:
    """Print which models are served and how to call them.

    Print a warning if the kind of a model is doubtful, and if no backend lists the model of a bundle.

    If no model is served, print only which backends the server waits for.
    """
    for warning in status.warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    if not status.models:
        waiting = f"Listening on {base_url}, waiting for a backend: {', '.join(status.problems)}"
        console.print(waiting, markup=False, soft_wrap=True)
        return
    for name in sorted(set(status.bundled) - set(status.models)):
        listed = ", ".join(status.models)
        warning = f"A bundle is for {name}, but backends list only {listed}. Choose one with --bundle MODEL=DIR."
        console.print(warning, style="yellow", markup=False, soft_wrap=True)
    console.print(_snippets(base_url, admin_url, status), markup=False, soft_wrap=True)


def _snippets(base_url: str, admin_url: str | None, status: Status) -> str:
    """Return a text with the server's addresses, and with example calls that a user can copy.

    The calls name a served model that has a bundle. If no served model has a bundle, they name the first served model.
    """
    aligned = next((name for name in status.bundled if name in status.models), None)
    model = aligned or status.models[0]
    raw = f"or {model}@{RAW} (without injection)" if aligned else "(without injection: it has no bundle)"
    keys = "a key of --api-keys-file" if status.keyed else "any API key"
    admin = _ADMIN.format(admin_url) if admin_url else ""
    return f"""
drpo-proxy is {"ready" if aligned or not status.bundled else "up"}.

Base URL  {base_url}     (any OpenAI client; {keys})
Models    {model}  {raw}{admin}

curl {base_url}/chat/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "What is a rainbow?"}}]}}'

from openai import OpenAI   # pip install openai
client = OpenAI(base_url="{base_url}", api_key="any")
question = [{{"role": "user", "content": "What is a rainbow?"}}]
print(client.chat.completions.create(model="{model}", messages=question).choices[0].message.content)

Stop with Ctrl-C."""


if __name__ == "__main__":
    main()
