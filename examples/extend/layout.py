"""A layout: turns in tags. Add its entry to LAYOUTS in index/layouts.py."""

from index.layouts import TextLayout

TAGS = TextLayout(
    "tags",
    system="<system>",
    user="<user>",
    assistant="<assistant>",
    gap="\n",
    answer_begins_with_gap=False,
)
