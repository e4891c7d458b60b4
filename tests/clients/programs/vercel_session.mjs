// A session of a user of the Vercel AI SDK, with each of its providers for OpenAI's APIs.
//
// Usage: node vercel_session.mjs BASE_URL MODEL; prints one JSON object: a session (see tests/clients/test_sessions.py) for
// each provider, and the error of the provider for the Responses API with its default options.

import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, streamText, tool } from 'ai';
import { z } from 'zod';
import { PICTURE, QUESTIONS } from './session_texts.mjs';

const [baseURL, model] = process.argv.slice(2);
const told = { temperature: 0, maxOutputTokens: 3800, maxRetries: 0, system: 'Answer in one sentence.' };
const compatible = createOpenAICompatible({ name: 'drpo', baseURL, apiKey: 'any', includeUsage: true });
const openai = createOpenAI({ baseURL, apiKey: 'any' });
const tools = { weather: tool({ description: 'The weather', inputSchema: z.object({}) }) };

const described = (error) => APICallError.isInstance(error)
  ? { status: error.statusCode, message: error.message } : { status: 0, message: String(error) };
const user = (content) => ({ role: 'user', content });

class Session {
  messages = [];

  constructor(languageModel, options = {}) {
    this.told = { ...told, ...options, model: languageModel };
  }

  // The messages of a reply are kept as the SDK gives them, with its own metadata.
  async turn(question, ask = this.answer) {
    const messages = [...this.messages, user(question)];
    const { reply, ...found } = await ask.call(this, messages);
    this.messages = [...messages, ...reply];
    return found;
  }

  async answer(messages, more = {}) {
    const { text, usage, finishReason, response } = await generateText({ ...this.told, messages, ...more });
    return { text, input: usage.inputTokens, ended: finishReason, reply: response.messages };
  }

  async streamed(messages) {
    const result = streamText({ ...this.told, messages, onError: () => {} });
    const pieces = [];
    for await (const piece of result.textStream) pieces.push(piece);
    const [text, usage, finishReason, response] = await Promise.all(
      [result.text, result.usage, result.finishReason, result.response]);
    return { text, input: usage.inputTokens, ended: finishReason, pieces, reply: response.messages };
  }

  // Reads the first text of a stream, and aborts it.
  async cancelled(question) {
    const controller = new AbortController();
    const messages = [...this.messages, user(question)];
    const result = streamText({ ...this.told, messages, abortSignal: controller.signal, onError: () => {} });
    for await (const piece of result.textStream) {
      controller.abort();
      return piece;
    }
    return '';
  }

  // Changes the first question, and asks the last one again.
  async edited(question) {
    const last = this.messages.findLastIndex(({ role }) => role === 'user');
    const { reply, ...found } = await this.answer([user(question), ...this.messages.slice(1, last + 1)]);
    return found;
  }

  async withoutTools(question) {
    const { reply, ...found } = await this.answer([...this.messages, user(question)], { tools, toolChoice: 'none' });
    return found;
  }

  async image() {
    const shown = user([{ type: 'text', text: 'What is this?' }, { type: 'image', image: PICTURE }]);
    const answered = { role: 'assistant', content: 'A dot.' };
    return this.answer([...this.messages, shown, answered, user('Red?')]).catch(described);
  }
}

async function session(languageModel, options) {
  const one = new Session(languageModel, options);
  const turns = [];
  for (const [number, question] of QUESTIONS.entries()) {
    turns.push(await one.turn(question, number === 1 ? one.streamed : one.answer));
  }
  return {
    turns,
    no_tools: await one.withoutTools('And Lisbon?'),
    cancelled: [await one.cancelled('Which country is Vienna in?')],
    repeated: await one.turn('Which country is Vienna in?', one.streamed),
    edited: await one.edited('What is the capital of Spain?'),
    image: await one.image(),
  };
}

// With its default options, the provider refers to its earlier answers by their ids.
async function referring() {
  const one = new Session(openai(model));
  await one.turn(QUESTIONS[0]);
  return one.turn(QUESTIONS[1]).catch(described);
}

const stateless = { providerOptions: { openai: { store: false } } };
console.log(JSON.stringify({
  compatible: await session(compatible(model)),
  chat: await session(openai.chat(model)),
  responses: await session(openai(model), stateless),
  referring: await referring(),
}));
