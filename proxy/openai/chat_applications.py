"""Recognizes the texts that chat applications put around a conversation. The module does no I/O.

A background request is one that an application sends on its own, for a title, tags or a suggestion. The user does not
see the answer as a message. The answer has a special form, such as a JSON object or a few words. Examples of a
conversation would keep the model from using this form. Each rule requires several signs at once, so that no question of
a user is taken for a background request.

An application may also put documents before the user's question. The function `question` removes them.
"""

import re
from dataclasses import dataclass
from typing import Final

from proxy.core.json_types import JsonDict

_MAX_HEAD: Final = 400  # an instruction must begin within this many characters of a text
_MAX_SYSTEM: Final = 4000  # characters of a system message that are read
_MAX_TAIL: Final = 80  # the last tag of a text must be within this many characters of its end
_HEADING: Final = "###"
_HISTORY: Final = "<chat_history>"
_DOCUMENTS_END: Final = "</context>"
_OUTPUT_HEADING: Final = re.compile(r"^#{2,4} *\**output\b", re.IGNORECASE | re.MULTILINE)
_TASK_HEADING: Final = re.compile(r"#{2,4} *\**task\b", re.IGNORECASE)
_INSTRUCTION: Final = re.compile(
    r"(?:create|generate|write|suggest|summarize|analyze|propose|return|provide) ", re.IGNORECASE
)
"""The beginning of a template that an operator has written, without headings."""
_OUTPUT_FORM: Final = re.compile(r'\{\s*"([a-z_]{1,40})"\s*:\s*(\[|")')
_MAX_TEXT: Final = 200  # characters of a text in the answer to a background request
_MAX_TEXTS: Final = 5  # of such an answer, if it is a list
_TASK_END: Final = re.compile(
    r"(?:</chat_history>|</text>\s*#{2,4} *output:?)[\s\"'`]*(?:/no_?think\s*)?\Z", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Template:
    """The fixed words of one client's instruction, in lower case.

    Attributes:
        start: The words at the beginning.
        contains: Other words of the instruction; empty if `start` is long enough to be unmistakable.
    """

    start: str
    contains: str = ""

    def matches(self, text: str) -> bool:
        """Return whether a text in lower case is an instruction of this template."""
        return text.startswith(self.start) and self.contains in text


_LAST_TEMPLATES: Final = (
    _Template("your task is to reflect the speaker's likely facial expression through a fitting emoji"),  # Open WebUI
    _Template(
        "you have been provided with a set of responses from various models to the latest user query"
    ),  # Open WebUI
    _Template("### task:\nsummarize the conversation history that will be compacted"),  # Open WebUI
    _Template("provide a concise, 5-word-or-less title for the conversation, using title case"),  # LibreChat
    _Template("please generate a concise, 5-word-or-less title for the conversation"),  # LibreChat
    _Template("analyze this conversation and provide:", "detected language"),  # LibreChat
    _Template("please generate a four to five word title summarizing our conversation without any lead-in"),  # NextChat
    _Template("使用四到五个字直接返回这句话的简要主题"),  # NextChat
    _Template("summarize the discussion briefly in 200 words or less to use as a prompt for future"),  # NextChat
    _Template("generate a concise 3-7 word title for this conversation, omitting punctuation"),  # Zed
    _Template("given the following... please reply with a title for the chat that is"),  # Continue
    _Template("based on the chat history, give this conversation a name", "nothing else"),  # Chatbox
    _Template("here is the query:", "respond only with the title text"),  # Page Assist
    _Template("summarize in a ", "-word title. give the title only"),  # Jan
    _Template("create a concise, 3-5 word phrase as a ", " for the following query"),  # early versions of Open WebUI
    _Template("please help me predict the three most likely questions that human would ask"),  # Dify
    _Template("you need to decompose the user's input into", "intention"),  # Dify
    _Template(
        "you're a helpful assistant! \nyour task is to suggest the next question that user might ask"
    ),  # LlamaIndex
)
"""Instructions in the last message. A user could write similar words, so whole clauses of the clients are compared."""
_TITLE_ONLY: Final = "respond only with the title text"
"""A clause of Open WebUI's earlier template for titles. Operators put other instructions before this template."""
_SYSTEM_TEMPLATES: Final = (
    _Template("available tools:", "choose and return the correct tool"),  # Open WebUI
    _Template("you are open webui's private memory reviewer"),
    _Template("analyze if this message indicates a new conversation topic"),  # Claude Code
    _Template("你是一名擅长会话的助理", "标题"),  # Cherry Studio, LobeChat
    _Template("总结给出的会话", "标题"),  # Cherry Studio
)
_LAST_STARTS: Final = tuple(template.start for template in _LAST_TEMPLATES)
_SYSTEM_STARTS: Final = tuple(template.start for template in _SYSTEM_TEMPLATES)
_TALK: Final = r"(?:conversation|chat|thread|session|dialogue|discussion)s?"
_TALKS: Final = r"(?:conversations|chats|threads|sessions)"
_NAME: Final = r"(?:title|(?:short|concise|brief|descriptive)(?: chat)? name)s?"
_TITLE_INSTRUCTION: Final = re.compile(
    r"\b(?:generat|creat|writ|provid|produc|summari[sz]|extract|output|craft|giv|suggest|return)(?:e|es|ing|s)?\b"
    r"(?:[ ,]+[\w'’()–-]+){0,6}? (?:"
    rf"{_TALK}(?:['’]s)? titles?\b"  # create a chat title
    rf"|{_NAME}(?:/\w+)?(?: \([^)\n]{{0,40}}\))?"
    r" (?:for|of|about|summari[sz]ing|based on|that [\w ]{1,40}|which [\w ]{1,40}) "
    rf"(?:the|this|a|our|user['’]s)(?: [\w'’]+)? (?:{_TALK}|messages?|query)\b(?! (?:app|bot|partner|room|server))"
    rf"|titles for (?:[\w-]+ ){{0,2}}{_TALKS}(?=[.,:;\n]|$)"  # create titles for new chats
    rf"|(?:concise|short|brief) description of (?:the|this) {_TALK}\b"
    r")"
    rf"|\bsummari[sz]e\b[^.\n]{{0,60}}\b{_TALK} into an? (?:[\w-]+ ){{0,3}}title\b"
    rf"|\b{_TALK} (?:titles?|titling|naming) (?:assistant|generator)\b"
)
"""An instruction in a system message to write the title of a conversation."""
_TITLE_SIGN: Final = re.compile(r"titl|\bname|description of")  # each such instruction has one of these
_SHORT_FORM: Final = re.compile(
    r"\bonly\b|\bnothing else\b|\bwithout\b|\bno\b|\bnot\b|\bfew|\d+[- ](?:words?|characters)\b"
    r"|\bconcise\b|\bshort\b|\bbrief\b|\bpithy\b"
)
"""A limit on the form of the title, which every such instruction has."""


def is_background(system: str, last: str, *, is_single: bool, is_first_turn: bool) -> bool:
    """Return whether a request is a background request of a chat client.

    Args:
        system: The text of the system message; empty if there is none.
        last: The text of the last message.
        is_single: Whether the last message is the only message besides the system message.
        is_first_turn: Whether there are only system and user messages.
    """
    head = last[:_MAX_HEAD].lstrip().lower()
    if head.startswith(_LAST_STARTS):
        text = last.strip().lower()
        return any(template.matches(text) for template in _LAST_TEMPLATES)
    if is_single and (_is_task(head, last) or ("query" in head and _TITLE_ONLY in last[-_MAX_SYSTEM:].lower())):
        return True
    return is_first_turn and bool(system) and _asks_for_title(system[:_MAX_SYSTEM])


def _is_task(head: str, text: str) -> bool:
    """Return whether a text is made by Open WebUI or a similar client, from its own template or from an operator's.

    The conversation stands in a tag at the end. Before it, the client's own template has a heading for the task and one
    for the output. A template of an operator, which may be in any language, has an example of the JSON object. A
    question about documents also begins with the heading for the task, but it ends with the question.

    Args:
        head: The beginning of the text.
        text: The text.
    """
    if not (head.startswith(_HEADING) or _INSTRUCTION.match(head)) or not _TASK_END.search(text[-_MAX_TAIL:]):
        return False
    instruction, history, _ = text.partition(_HISTORY)
    has_headings = _TASK_HEADING.match(head) and _OUTPUT_HEADING.search(instruction)
    return bool(history and (has_headings or _OUTPUT_FORM.search(instruction)))


def answer_form(text: str) -> JsonDict | None:
    """Return the `response_format` of the JSON object that a background request asks for; None if it asks for none.

    Such a request shows an example of the object: one field with a text, or with a list of texts. Open WebUI cannot
    read any other answer. A base model seldom writes such an object if the server does not enforce it.

    Args:
        text: The text of the message.
    """
    instruction, history, _ = text.partition(_HISTORY)
    heading = _OUTPUT_HEADING.search(instruction)
    if heading is None and not history:
        return None
    form = _OUTPUT_FORM.search(instruction, heading.end() if heading else 0)
    if form is None:
        return None
    value: JsonDict = {"type": "string", "maxLength": _MAX_TEXT}
    if form[2] == "[":
        value = {"type": "array", "items": value, "minItems": 1, "maxItems": _MAX_TEXTS}
    schema = {"type": "object", "properties": {form[1]: value}, "required": [form[1]], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _asks_for_title(system: str) -> bool:
    """Return whether the first sentences of a system message ask for the title of a conversation, and nothing else."""
    head = system.lstrip()[:_MAX_HEAD].lower()
    if not head.startswith(_SYSTEM_STARTS) and not _TITLE_SIGN.search(head):  # the usual case
        return False
    text = system.strip().lower()
    if any(template.matches(text) for template in _SYSTEM_TEMPLATES):
        return True
    return bool(_TITLE_INSTRUCTION.search(text[:_MAX_HEAD]) and _SHORT_FORM.search(text))


def question(text: str) -> str:
    """Return the user's part of a message to which Open WebUI has added documents; the whole text of other messages.

    Open WebUI sends the documents only with the latest message. Without the documents, the first message of a
    conversation is therefore the same in all requests.
    """
    if not text.startswith("### Task:"):
        return text
    return text.rpartition(_DOCUMENTS_END)[2].strip() or text
