"""A layout: turns in tags. Add its entry to LAYOUTS in index/rendering.py."""

from index.rendering import TextLayout

TAGS = TextLayout(
    "tags",
    system="<system>",
    user="<user>",
    assistant="<assistant>",
    gap="\n",
    answer_begins_with_gap=False,
)
