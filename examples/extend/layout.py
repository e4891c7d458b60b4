"""A layout of one's own: turns in tags. Its entry goes into LAYOUTS in index/rendering.py."""

from index.rendering import TextLayout

TAGS = TextLayout(
    "tags",
    system="<system>",
    user="<user>",
    assistant="<assistant>",
    gap="\n",
    answer_begins_with_gap=False,
)
