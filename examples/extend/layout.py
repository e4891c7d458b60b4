"""A layout of one's own: turns in tags. Its entry goes into LAYOUTS in index/render.py."""

from index.render import TextLayout

TAGS = TextLayout(
    "tags",
    system="<system>",
    user="<user>",
    assistant="<assistant>",
    gap="\n",
    answer_begins_with_gap=False,
)
