"""A layout in which each turn begins with a tag. To use it, add it to LAYOUTS in index/layouts.py."""

from index.layouts import TextLayout

TAGS = TextLayout(
    "tags",
    system="<system>",
    user="<user>",
    assistant="<assistant>",
    gap="\n",
    answer_begins_with_gap=False,
)
