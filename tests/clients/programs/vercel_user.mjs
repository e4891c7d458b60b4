// What a user of the Vercel AI SDK does, with its provider for OpenAI-compatible servers and with its OpenAI provider
// (which speaks the Responses API). Runs in a Node environment of its own.
//
// Usage: node vercel_user.mjs BASE_URL MODEL; prints one JSON object.

import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, Output, streamText } from 'ai';
import { z } from 'zod';

const [baseURL, model] = process.argv.slice(2);
const told = { temperature: 0, maxOutputTokens: 40, maxRetries: 0 };
const prompt = 'What is the capital of France?';
const longer = 'In which country is the city of Paris?'; // its answer has pieces enough to be a stream

const options = { name: 'drpo', baseURL, apiKey: 'any', includeUsage: true, supportsStructuredOutputs: true };
const provider = createOpenAICompatible(options);
const raw = createOpenAICompatible({ ...options, headers: { 'x-drpo-variant': 'raw' } });
const openai = createOpenAI({ baseURL, apiKey: 'any' });

function answer({ text, usage, finishReason, response }) {
  const variant = response.headers?.['x-drpo-variant'];
  return { text, usage, finishReason, model: response.modelId, variant };
}

async function generated(languageModel, request = { prompt }) {
  return answer(await generateText({ ...told, model: languageModel, ...request }));
}

async function streamed(languageModel) {
  const result = streamText({ ...told, model: languageModel, prompt: longer, onError: () => {} });
  const pieces = [];
  for await (const piece of result.textStream) pieces.push(piece);
  const [text, usage, finishReason, response] = await Promise.all(
    [result.text, result.usage, result.finishReason, result.response]);
  return { ...answer({ text, usage, finishReason, response }), pieces };
}

async function structured() {
  const schema = z.object({ city: z.string().max(40), country: z.string().max(40) });
  const output = Output.object({ schema });
  const request = { prompt: `${prompt} Answer as JSON.`, output, maxOutputTokens: 100 };
  return (await generateText({ ...told, model: provider(model), ...request })).output;
}

// The error of a request, whole or in a stream: there the SDK hands it to onError instead of throwing it.
function described(error) {
  const known = APICallError.isInstance(error);
  return { type: error.name, known, status: error.statusCode, retryable: error.isRetryable, text: error.message };
}

async function errorOf(languageModel) {
  return generateText({ ...told, model: languageModel, prompt }).then(() => ({ type: 'no error' }), described);
}

async function streamErrorOf(languageModel) {
  let found = { type: 'no error' };
  const onError = ({ error }) => { found = described(error); };
  await streamText({ ...told, model: languageModel, prompt, onError }).consumeStream();
  return found;
}

const conversation = [
  { role: 'user', content: 'What is the capital of Italy?' },
  { role: 'assistant', content: 'The capital of Italy is Rome.' },
  { role: 'user', content: 'And of France?' },
];

console.log(JSON.stringify({
  generated: await generated(provider(model)),
  conversation: await generated(provider(model), { system: 'Answer in one sentence.', messages: conversation }),
  streamed: await streamed(provider(model)),
  structured: await structured(),
  completed: await generated(provider.completionModel(model), { prompt: 'The capital of France is' }),
  raw: await generated(provider(`${model}@raw`)),
  rawByHeader: await generated(raw(model)),
  responses: await generated(openai(model)),
  responsesStreamed: await streamed(openai(model)),
  openaiChat: await generated(openai.chat(model)),
  unknownModel: await errorOf(provider('no-such-model')),
  unknownModelStreamed: await streamErrorOf(provider('no-such-model')),
}));
