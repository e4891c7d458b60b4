"""The command `drpo-proxy`: parses the command line, prints progress and results, and starts the server."""

import argparse
import asyncio
import gc
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from index.errors import DrpoError
from index.standard_output import OutputConsole, discard_rest, escape_unprintable
from index.version import add_version_flag
from proxy.core.log import log_lines
from proxy.core.malloc import set_malloc_thresholds
from proxy.core.progress import ProgressCallback
from proxy.core.settings import Settings
from proxy.core.settings_reader import build_settings, process_environment, read_flags

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
        occurred, a check found problems, or the process that reads the output ended. 130: SIGINT interrupted a command,
        or the server before it answered requests. 143: SIGTERM ended the server before it answered requests.

    Raises:
        SystemExit: The command line is wrong (exit code 2), or asks for help (exit code 0).
    """
    escape_unprintable()
    console = Console(stderr=True, highlight=False, markup=False)
    try:
        if arguments[:1] == ["experiment"]:
            # Imported here, because a server does not need this module, which takes 2 MB of memory.
            from proxy.experiments.command import run_experiment_command

            output = OutputConsole(highlight=False)
            return run_experiment_command(arguments[1:], process_environment(), output)
        if arguments[:1] == ["fit"]:
            from proxy.fit.command import run_fit_command  # imported here, as a server does not need it

            output = OutputConsole(highlight=False)
            return run_fit_command(arguments[1:], process_environment(), output, console)
        values, command, name = _parse(arguments)
        if command == "new-key":  # uses no settings, so it works even if a setting is wrong
            return _new_key(name, OutputConsole(highlight=False), console)
        return _serve_or_check(command, build_settings(values, process_environment()), console)
    except DrpoError as error:
        console.print(f"drpo-proxy: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except asyncio.CancelledError:  # SIGTERM before the server answered requests
        return 143
    except BrokenPipeError:  # the process that reads the output has ended
        return discard_rest()


def _serve_or_check(command: str, settings: Settings, console: Console) -> int:
    """Serve, or check the settings and the backends. Returns the exit code."""
    with log_lines(settings.log.log_format):
        if command == "check":
            from proxy.server.check import check

            return asyncio.run(check(settings, _progress(console), OutputConsole(highlight=False)))
        # Imported here, because these imports take half a second, which help texts and error messages do not need.
        gc.disable()  # imports create almost no garbage, so a collection would only take time
        import uvloop

        from proxy.server.announcement import announcer
        from proxy.server.lifecycle import serve

        gc.enable()
        set_malloc_thresholds()
        console_out = OutputConsole(highlight=False)
        announce = announcer(console_out, settings.injection.bundle, settings.experiments.store)
        uvloop.run(serve(settings, _progress(console), announce))
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
    add_version_flag(parser)
    values, namespace = read_flags(arguments, process_environment(), parser)
    if namespace.command == "fit":
        parser.error("Write fit before all flags: drpo-proxy fit --backend URL ...")
    if (namespace.command == "new-key") != bool(namespace.name):
        parser.error("new-key needs a NAME. The other commands take no NAME.")
    return values, namespace.command, namespace.name or ""


def _new_key(name: str, output: Console, console: Console) -> int:
    """Make a new API key. Print its line for the keys file on standard output, and the key on standard error."""
    from proxy.api.auth import new_key  # imported here, because it imports numpy

    key, line = new_key(name)
    where = ":" if output.file.isatty() else " was written to standard output."
    console.print(f"The key, shown only now: {key}\nIts line for --api-keys-file{where}", markup=False, soft_wrap=True)
    output.print(line, markup=False, soft_wrap=True)
    return 0


def _progress(console: Console) -> ProgressCallback:
    return lambda text: console.print(f"... {text}", style="dim", markup=False)


if __name__ == "__main__":
    main()
