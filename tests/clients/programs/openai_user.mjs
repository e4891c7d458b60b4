// What a user of OpenAI's own package for JavaScript does. Runs in a Node environment of its own.
//
// Usage: node openai_user.mjs BASE_URL MODEL; prints one JSON object.

import OpenAI from 'openai';

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'any', maxRetries: 0 });
const told = { model, temperature: 0, max_tokens: 40 };
const messages = [{ role: 'user', content: 'What is the capital of France?' }];
const longer = [{ role: 'user', content: 'In which country is the city of Paris?' }]; // its answer has pieces enough to be a stream

async function chat() {
  const asked = client.chat.completions.create({ ...told, messages });
  const { data, response } = await asked.withResponse();
  const { message, finish_reason: finishReason } = data.choices[0];
  return { ...message, finishReason, usage: data.usage, variant: response.headers.get('x-drpo-variant') };
}

async function streamed(options = {}) {
  const pieces = [];
  let usage = null;
  for await (const chunk of await client.chat.completions.create({ ...told, messages: longer, stream: true, ...options })) {
    if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
    usage = chunk.usage ?? usage;
  }
  return { pieces, usage };
}

// The package's own gathering of a stream with two choices; it throws where the chunks do not add up.
async function gathered() {
  const final = await client.chat.completions.stream({ ...told, messages, n: 2, temperature: 1 }).finalChatCompletion();
  return final.choices.map(({ index, message }) => ({ index, ...message }));
}

async function response() {
  const request = { model, temperature: 0, max_output_tokens: 40, input: messages[0].content };
  const whole = await client.responses.create(request);
  const final = await client.responses.stream(request).finalResponse();
  return { text: whole.output_text, streamed: final.output_text, status: final.status, usage: final.usage };
}

async function completed() {
  const { choices, usage } = await client.completions.create({ ...told, prompt: 'The capital of France is' });
  return { text: choices[0].text, usage };
}

async function models() {
  const ids = [];
  for await (const { id } of client.models.list()) ids.push(id);
  return ids;
}

async function errorOf(request) {
  const describe = (error) => ({ type: error.constructor.name, status: error.status, code: error.code, text: error.message });
  return client.chat.completions.create({ ...told, messages, ...request }).then(() => ({ type: 'no error' }), describe);
}

console.log(JSON.stringify({
  chat: await chat(),
  streamed: await streamed(),
  streamedWithUsage: await streamed({ stream_options: { include_usage: true } }),
  gathered: await gathered(),
  response: await response(),
  completed: await completed(),
  models: await models(),
  model: (await client.models.retrieve(`${model}@raw`)).id,
  unknownModel: await errorOf({ model: 'no-such-model' }),
  unknownVariant: await errorOf({ model: `${model}@no-such-variant` }),
}));
