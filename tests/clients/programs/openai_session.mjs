// A session of a user of OpenAI's package for JavaScript: several turns, one of them cancelled, and an edited history.
//
// Usage: node openai_session.mjs BASE_URL MODEL; prints one JSON object (see tests/clients/test_sessions.py).

import OpenAI from 'openai';
import { PICTURE, QUESTIONS } from './session_texts.mjs';

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'any', maxRetries: 0 });
const told = { model, temperature: 0, max_tokens: 3800 };
const tools = [{ type: 'function', function: { name: 'weather', parameters: { type: 'object', properties: {} } } }];
let messages = [{ role: 'system', content: 'Answer in one sentence.' }];

const asked = (content) => [...messages, { role: 'user', content }];

async function answer(conversation, more = {}) {
  const { choices: [choice], usage } = await client.chat.completions.create({ ...told, messages: conversation, ...more });
  return { text: choice.message.content, input: usage.prompt_tokens, ended: choice.finish_reason };
}

async function streamed(conversation) {
  const options = { stream_options: { include_usage: true } };
  const stream = client.chat.completions.stream({ ...told, messages: conversation, ...options });
  const pieces = [];
  stream.on('content', (piece) => pieces.push(piece));
  const { choices: [choice], usage } = await stream.finalChatCompletion();
  return { text: choice.message.content, input: usage.prompt_tokens, ended: choice.finish_reason, pieces };
}

async function turn(question, ask = answer) {
  const conversation = asked(question);
  const found = await ask(conversation);
  messages = [...conversation, { role: 'assistant', content: found.text }];
  return found;
}

// Reads the first text of a stream, and aborts it.
async function cancelled(conversation) {
  const stream = await client.chat.completions.create({ ...told, messages: conversation, stream: true });
  for await (const { choices } of stream) {
    if (choices[0]?.delta.content) {
      stream.controller.abort();
      return choices[0].delta.content;
    }
  }
  return '';
}

// Changes the first question, and asks the last one again.
async function edited(content) {
  const [system, first, ...later] = messages.slice(0, -1);
  return answer([system, { ...first, content }, ...later]);
}

async function image() {
  const picture = { type: 'image_url', image_url: { url: PICTURE } };
  const shown = asked([{ type: 'text', text: 'What is this?' }, picture]);
  const conversation = [...shown, { role: 'assistant', content: 'A dot.' }, { role: 'user', content: 'Red?' }];
  return answer(conversation).catch(({ status, message }) => ({ status, message }));
}

const turns = [];
for (const [number, question] of QUESTIONS.entries()) turns.push(await turn(question, number === 1 ? streamed : answer));
console.log(JSON.stringify({
  turns,
  no_tools: await answer(asked('And Lisbon?'), { tools, tool_choice: 'none' }),
  cancelled: [await cancelled(asked('Which country is Vienna in?'))],
  repeated: await turn('Which country is Vienna in?', streamed),
  edited: await edited('What is the capital of Spain?'),
  image: await image(),
}));
