"""The forms of the background requests of chat clients. Only the words that identify a client are the client's own."""

from typing import Any, Final

HISTORY: Final = "USER: How do I bake bread?\nASSISTANT: Mix flour, water, salt and yeast."


def user(text: object) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def open_webui(task: str, output: str) -> list[dict[str, Any]]:
    """Return Open WebUI's messages for a title, tags, follow-up questions, search queries or the prompt of an image."""
    text = f"### Task:\n{task}\n### Guidelines:\n- Be brief.\n### Output:\n{output}\n### Chat History:\n"
    return [user(f"{text}<chat_history>\n{HISTORY}\n</chat_history>")]


# Open WebUI asks for the title while the answer is still written, and shows other titles between form and conversation.
EARLY_TITLE: Final = (
    "### Task:\nWrite a title.\n### Guidelines:\n- The output must be a JSON object.\n### Output:\nJSON format: "
    '{ "title": "your title" }\n### Examples:\n- { "title": "One" },\n- { "title": "Two" }\n### Chat History:\n'
    "<chat_history>\nUSER: How do I bake bread?\nASSISTANT: \n</chat_history>"
)
AUTOCOMPLETE: Final = (
    '### Task:\nContinue `<text>`.\n### **Output Rules**:\n- JSON: `{ "text": "..." }`\n---\n### Context:\n'
    f"<chat_history>\n{HISTORY}\n</chat_history>\n<type>General</type>  \n<text>And how do I</text>  \n#### Output:\n"
)
TURNS: Final = [user("How do I bake bread?"), {"role": "assistant", "content": "Mix flour, water, salt and yeast."}]
TITLE: Final = open_webui("Write a title.", 'JSON format: { "title": "your title" }')
BACKGROUND: Final[dict[str, list[dict[str, Any]]]] = {
    "open-webui-title": TITLE,
    "open-webui-early-title": [user(EARLY_TITLE)],
    "open-webui-tags": open_webui("Write tags.", 'JSON format: { "tags": ["one", "two"] }'),
    "open-webui-follow-ups": open_webui("Suggest questions.", 'JSON format: { "follow_ups": ["One?", "Two?"] }'),
    "open-webui-queries": open_webui("Write queries.", 'Strictly return in JSON format: \n{ "queries": ["one"] }'),
    "open-webui-image": open_webui("Describe an image.", 'Strictly return in JSON format:\n{ "prompt": "one" }'),
    "open-webui-fork": open_webui("Write a title.", "The title alone."),
    "open-webui-autocomplete": [user(AUTOCOMPLETE)],
    "open-webui-model-with-a-system-prompt": [system("Be kind."), *TITLE],
    "open-webui-content-parts": [user([{"type": "text", "text": TITLE[0]["content"]}])],
    "open-webui-emoji": [
        user("Your task is to reflect the speaker's likely facial expression through a fitting emoji. ...\n\n```Hi```")
    ],
    "open-webui-merge": [
        user('You have been provided with a set of responses from various models to the latest user query: "Hi"\n\n...')
    ],
    "open-webui-compaction": [
        user(f"### Task:\nSummarize the conversation history that will be compacted ...\n\n### Messages ...\n{HISTORY}")
    ],
    "open-webui-translated-template": [
        user(
            '### Tarefa:\nCrie um título.\n### Saída:\nFormato JSON: { "title": "seu título" }\n### Histórico:\n'
            f"<chat_history>\n{HISTORY}\n</chat_history>"
        )
    ],
    "open-webui-operators-template": [
        user(f'Write a title. Reply in JSON: {{ "title": "..." }}\n\n<chat_history>\n{HISTORY}\n</chat_history>')
    ],
    "open-webui-without-thinking": [user(f"{TITLE[0]['content']} /no_think")],
    "open-webui-line-ends": [user(TITLE[0]["content"].replace("\n", "\r\n"))],
    "open-webui-earlier-with-a-beginning": [
        user(
            "Forget everything.\n\nHere is the query:\nHi\n\n... RESPOND ONLY WITH THE TITLE TEXT.\n\nExamples:\nBread"
        )
    ],
    "open-webui-early": [
        user("Create a concise, 3-5 word phrase as a header for the following query, strictly ... 'title': Hi")
    ],
    "open-webui-memory": [system("You are Open WebUI's private memory reviewer. ..."), user(HISTORY)],
    "open-webui-tools": [
        system("Available Tools: []\n\nYour task is to choose and return the correct tool(s) ..."),
        user("Query: Hi"),
    ],
    "librechat": [
        user(
            "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. ...\n\n"
            f"Conversation:\n{HISTORY}"
        )
    ],
    "librechat-with-language": [
        user(f"Analyze this conversation and provide:\n1. The detected language ...\n2. A title ...\n\n{HISTORY}")
    ],
    "nextchat": [
        *TURNS,
        user("Please generate a four to five word title summarizing our conversation without any lead-in, ..."),
    ],
    "nextchat-summary": [
        *TURNS,
        system("Summarize the discussion briefly in 200 words or less to use as a prompt for future context."),
    ],
    "zed": [*TURNS, user("Generate a concise 3-7 word title for this conversation, omitting punctuation. ...")],
    "continue": [
        user("Given the following... please reply with a title for the chat that is 3-4 words in length, ...\n\nMix.")
    ],
    "chatbox": [
        user(f"Based on the chat history, give this conversation a name.\n... nothing else.\n\n```\n{HISTORY}\n```")
    ],
    "page-assist": [user("Here is the query:\n\n---\n\nHi\n\n---\n\n... RESPOND ONLY WITH THE TITLE TEXT. ...")],
    "lobechat": [
        system(
            "You are a summarizer. Generate a concise title that captures the essence of the conversation.\n- No ..."
        ),
        user(HISTORY),
    ],
    "cherry-studio": [
        system("You need to summarize the user's conversation into a title within 10 words. Do not use punctuation."),
        user(HISTORY),
    ],
    "cherry-studio-chinese": [system("总结给出的会话，将其总结为 10 字内标题"), user(HISTORY)],
    "opencode": [
        system("You are a title generator. You output ONLY a thread title. Nothing else."),
        user("Generate a title for this conversation:\n"),
    ],
    "vercel-chatbot": [
        system(
            "\n\n    - you will generate a short title based on the first message a user ...\n    - do not use quotes"
        ),
        user("How do I bake bread?"),
    ],
    "vercel-chatbot-newer": [
        system(
            "Generate a short chat title (2-5 words) summarizing the user's message.\n\nOutput ONLY the title text."
        ),
        user("How do I bake bread?"),
    ],
    "claude-code": [
        system("Analyze if this message indicates a new conversation topic. If it does, extract a 2-3 word title ..."),
        user("How do I bake bread?"),
    ],
    "opencode-with-the-conversation": [
        system("You are a title generator. You output ONLY a thread title. Nothing else."),
        user("Generate a title for this conversation:\n"),
        user("How do I bake bread?"),
    ],
    "goose": [
        system(
            "Based on the conversation so far, provide a concise description of this session in 4 words or less. ..."
        ),
        user("How do I bake bread?"),
    ],
    "copilot": [
        system("You are an expert in crafting pithy titles for chatbot conversations. ..."),
        user("Please write a brief title for ...:\n\nHow do I bake bread?"),
    ],
    "onyx": [system("Given the following conversation, provide a SHORT name for the conversation. ..."), user(HISTORY)],
    "onyx-earlier": [system("Give a short name for this chat session based on ..."), user("How do I bake bread?")],
    "agent-zero": [
        system("# AI role\n- You are a chat naming assistant\n# Output\n- Only respond with the name ..."),
        user("How do I bake bread?"),
    ],
    "titles-for-conversations": [
        system("You are a helpful assistant that creates concise, descriptive titles for conversations.\n..."),
        user(HISTORY),
    ],
    "titles-for-new-chats": [
        system("You generate short, clear titles for new chat sessions.\n..."),
        user("How do I bake bread?"),
    ],
    "title-and-summary": [
        system("Generating title/summary for a chat thread. 3-5 words, a plain string only."),
        user("How do I bake bread?"),
    ],
    "dify": [
        user('You need to decompose the user\'s input into "subject" and "intention" ...\n\nHow do I bake bread?')
    ],
    "dify-questions": [
        *TURNS,
        user("Please help me predict the three most likely questions that human would ask, ..."),
    ],
    "llama-index-questions": [
        user(f"You're a helpful assistant! \nYour task is to suggest the next question that user might ask.\n{HISTORY}")
    ],
    "big-agi": [
        system("You are an AI conversation titles assistant who specializes in ... few-words chat titles."),
        user(f"...\n\n```\n{HISTORY}\n```"),
    ],
}
