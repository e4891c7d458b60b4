"""Defines the dashboards of deploy/grafana/dashboards. `python -m tests.deploy.dashboards` writes their files.

Grafana replaces $__rate_interval and $job in the queries.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.deploy.parts import DEPLOY

FOLDER: Final = DEPLOY / "grafana" / "dashboards"
_SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
_WIDTH, _HEIGHT = 12, 8  # of Grafana's 24 columns


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of a dashboard.

    Attributes:
        title: The heading.
        tells: What the panel shows.
        unit: The unit, as Grafana names it.
        queries: The PromQL expressions, by their legends.
    """

    title: str
    tells: str
    unit: str
    queries: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard.

    Attributes:
        name: The name of its file, and its uid.
        title: The heading.
        panels: The panels, in their order.
    """

    name: str
    title: str
    panels: Sequence[Panel]


def _rate(metric: str, by: str, where: str = "") -> str:
    return f'sum by ({by}) (rate({metric}{{job=~"$job"{where}}}[$__rate_interval]))'


def _quantiles(metric: str, by: str = "", where: str = "") -> dict[str, str]:
    legend = f" {{{{{by}}}}}" if by else ""
    inner = _rate(f"{metric}_bucket", f"le, {by}" if by else "le", where)
    return {f"p{share}{legend}": f"histogram_quantile(0.{share}, {inner})" for share in (50, 95, 99)}


TRAFFIC: Final = Dashboard(
    "drpo-traffic",
    "drpo: traffic and errors",
    (
        Panel(
            "Requests",
            "By how they ended, every second.",
            "reqps",
            {"{{outcome}}": _rate("drpo_requests_total", "outcome")},
        ),
        Panel(
            "Failed",
            "Share of requests answered with 5xx or cut off. A client's own mistakes are not among them.",
            "percentunit",
            {"{{job}}": 'job:drpo_requests_failed:ratio_rate5m{job=~"$job"}'},
        ),
        Panel(
            "By variant",
            "none: refused before a variant was chosen.",
            "reqps",
            {"{{variant}}": _rate("drpo_requests_total", "variant")},
        ),
        Panel("By status", "", "reqps", {"{{status}}": _rate("drpo_requests_total", "status")}),
        Panel(
            "In flight and waiting",
            "What waits is bounded by --max-queue; the rest is refused.",
            "short",
            {
                "in flight": 'sum(drpo_requests_in_flight{job=~"$job"})',
                "waiting": 'sum(drpo_requests_queued{job=~"$job"})',
            },
        ),
        Panel("Tokens", "As the backends count them.", "short", {"{{type}}": _rate("drpo_tokens_total", "type")}),
    ),
)
OVERHEAD: Final = Dashboard(
    "drpo-overhead",
    "drpo: time",
    (
        Panel("To the first byte", "", "s", _quantiles("drpo_first_byte_seconds")),
        Panel("To the last byte", "", "s", _quantiles("drpo_request_duration_seconds", where=',route!=""')),
        Panel(
            "To the first byte, by variant",
            "",
            "s",
            {"p99 {{variant}}": _quantiles("drpo_first_byte_seconds", "variant")["p99 {{variant}}"]},
        ),
        Panel(
            "Processor time for a request",
            "Of all processes of a proxy; only one with a single worker tells it.",
            "s",
            {
                "{{instance}}": 'rate(process_cpu_seconds_total{job=~"$job"}[$__rate_interval])'
                ' / on (instance) sum by (instance) (rate(drpo_requests_total{job=~"$job"}[$__rate_interval]))'
            },
        ),
        Panel("Memory", "", "bytes", {"{{instance}}": 'process_resident_memory_bytes{job=~"$job"}'}),
        Panel(
            "Log lines lost",
            "Since the start: nobody read them fast enough.",
            "short",
            {"{{instance}}": 'drpo_log_lines_lost{job=~"$job"}'},
        ),
    ),
)
RETRIEVAL: Final = Dashboard(
    "drpo-retrieval",
    "drpo: retrieval and degradation",
    (
        Panel("Finding the examples", "", "s", _quantiles("drpo_retrieval_seconds")),
        Panel(
            "Retrievals",
            "By whether the query was known.",
            "reqps",
            {"{{cache}}": _rate("drpo_retrieval_seconds_count", "cache")},
        ),
        Panel(
            "Without their examples",
            "Share of aligned requests.",
            "percentunit",
            {"{{job}}": 'job:drpo_requests_degraded:ratio_rate5m{job=~"$job"}'},
        ),
        Panel(
            "Why",
            "Why requests get fewer examples.",
            "reqps",
            {"{{reason}}": _rate("drpo_injection_reduced_total", "reason")},
        ),
        Panel(
            "Without the pinned refusal",
            "Requests that got none of the bundle's pinned refusals.",
            "reqps",
            {"{{job}}": _rate("drpo_refusal_left_out_total", "job")},
        ),
        Panel(
            "Unlike every example",
            "Requests whose query is below the similarity floor: they get the neutral set.",
            "reqps",
            {"{{job}}": _rate("drpo_retrieval_below_floor_total", "job")},
        ),
        Panel(
            "Turns not read",
            "Turns of conversations for which retrieval failed or was late: they do not choose the examples.",
            "ops",
            {"{{job}}": _rate("drpo_retrieval_unread_turns_total", "job")},
        ),
        Panel("Tokens injected", "Prompt and examples of a request.", "short", _quantiles("drpo_injected_tokens")),
    ),
)
PREFIX_CACHE: Final = Dashboard(
    "drpo-prefix-cache",
    "drpo: prefix cache",
    (
        Panel(
            "Share of prompt tokens found",
            "vLLM's own count.",
            "percentunit",
            {"{{job}}": "job:vllm_prefix_cache_hits:ratio_rate5m"},
        ),
        Panel(
            "By server",
            "A server far below the others is not sent what it knows.",
            "percentunit",
            {
                "{{instance}}": "sum by (instance) (rate(vllm:prefix_cache_hits_total[$__rate_interval]))"
                " / sum by (instance) (rate(vllm:prefix_cache_queries_total[$__rate_interval]))"
            },
        ),
        Panel(
            "Prompt tokens asked for",
            "",
            "short",
            {"{{instance}}": "sum by (instance) (rate(vllm:prefix_cache_queries_total[$__rate_interval]))"},
        ),
        Panel(
            "Sets sent in advance",
            "Example sets that were sent to warm the backends' caches, at a start, a reload or a recovery.",
            "short",
            {"{{result}}": _rate("drpo_warmed_prefixes_total", "result")},
        ),
        Panel(
            "Share of a prompt that drpo adds",
            "Injected tokens of all prompt tokens of aligned requests.",
            "percentunit",
            {
                "share": _rate("drpo_injected_tokens_sum", "job")
                + " / "
                + _rate("drpo_tokens_total", "job", ',variant="aligned",type="prompt"')
            },
        ),
    ),
)
EXPERIMENTS: Final = Dashboard(
    "drpo-experiments",
    "drpo: experiments",
    (
        Panel(
            "Requests by arm",
            "",
            "reqps",
            {"{{experiment}} {{arm}}": _rate("drpo_experiment_requests_total", "experiment, arm")},
        ),
        Panel(
            "Exposures",
            "Kept, or dropped because the store did not keep up.",
            "reqps",
            {"{{result}}": _rate("drpo_exposures_total", "result")},
        ),
        Panel("Feedback", "", "reqps", {"{{result}}": _rate("drpo_feedback_total", "result")}),
        Panel("Shadow judge", "", "reqps", {"{{result}}": _rate("drpo_judgements_total", "result")}),
        Panel(
            "The store",
            "1: exposures and feedback can be kept.",
            "short",
            {"{{instance}}": 'drpo_store_up{job=~"$job"}'},
        ),
        Panel(
            "Share of variants",
            "",
            "percentunit",
            {
                "{{variant}}": _rate("drpo_requests_total", "variant")
                + ' / scalar(sum(rate(drpo_requests_total{job=~"$job"}[$__rate_interval])))'
            },
        ),
        Panel(
            "Tokens in an answer, by variant",
            "Mean.",
            "short",
            {
                "{{variant}}": _rate("drpo_tokens_total", "variant", ',type="completion"')
                + " / "
                + _rate("drpo_first_byte_seconds_count", "variant")
            },
        ),
    ),
)
BACKENDS: Final = Dashboard(
    "drpo-backends",
    "drpo: backends",
    (
        Panel(
            "Answering",
            "1: it answers, as every worker sees it.",
            "short",
            {"{{instance}} {{backend}}": 'drpo_backend_up{job=~"$job"}'},
        ),
        Panel(
            "Set aside",
            "A backend that breaks three requests in a row rests, for ever longer.",
            "short",
            {"{{backend}}": _rate("drpo_backend_ejections_total", "backend")},
        ),
        Panel("Sent again", "", "reqps", {"{{reason}}": _rate("drpo_backend_retries_total", "reason")}),
        Panel(
            "Choice of a backend for an example set",
            "balanced: the preferred backend has its share. spilled: the backend had too many requests at that moment.",
            "reqps",
            {"{{choice}}": _rate("drpo_set_placements_total", "choice")},
        ),
        Panel(
            "Failures of backends",
            "",
            "reqps",
            {"{{outcome}}": _rate("drpo_requests_total", "outcome", ',outcome=~"backend_.*|truncated"')},
        ),
        Panel(
            "vLLM: running and waiting",
            "",
            "short",
            {"running {{instance}}": "vllm:num_requests_running", "waiting {{instance}}": "vllm:num_requests_waiting"},
        ),
        Panel("vLLM: cache in use", "", "percentunit", {"{{instance}}": "vllm:kv_cache_usage_perc"}),
    ),
)
DASHBOARDS: Final = (TRAFFIC, OVERHEAD, RETRIEVAL, PREFIX_CACHE, EXPERIMENTS, BACKENDS)


def written(dashboard: Dashboard) -> str:
    """Return the content of the dashboard's file: Grafana's JSON."""
    job = {"name": "job", "type": "query", "datasource": _SOURCE, "multi": True, "includeAll": True, "refresh": 2}
    job |= {"query": "label_values(drpo_requests_in_flight, job)", "current": {"text": "All", "value": "$__all"}}
    whole = {
        "uid": dashboard.name,
        "title": dashboard.title,
        "tags": ["drpo"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [job]},
        "links": [{"type": "dashboards", "tags": ["drpo"], "title": "drpo", "asDropdown": True, "includeVars": True}],
        "panels": [_panel(place, panel) for place, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(whole, indent=1) + "\n"


def _panel(place: int, panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + number), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
        for number, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.tells,
        "datasource": _SOURCE,
        "gridPos": {"x": place % 2 * _WIDTH, "y": place // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def queries(text: str) -> Iterator[tuple[str, str]]:
    """Yield the title and the expression of each query in a dashboard's file."""
    for panel in json.loads(text)["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']}: {target['legendFormat']}", target["expr"]


if __name__ == "__main__":
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.name}.json").write_text(written(dashboard), encoding="utf-8")
