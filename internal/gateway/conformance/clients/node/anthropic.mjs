// Anthropic's SDK for Node, below /anthropic.
import Anthropic from '@anthropic-ai/sdk';
import { assert, at, auth, check, failure, key, token, tool } from './lib.mjs';

const make = (more) => new Anthropic({ apiKey: key, baseURL: at('main', 'anthropic'), defaultHeaders: auth, ...more });
const client = make();
const ask = (content, more) => ({ model: 'claude-sonnet-5-5', max_tokens: 64, messages: [{ role: 'user', content }], ...more });
const text = (message) => message.content.map((b) => b.text ?? '').join('');
const one = (name, run) => check(`anthropic/${name}`, run);

await one('messages', async (headers) => {
  const { data, response } = await client.messages.create(ask('Grüße, 你好'), { headers }).withResponse();
  assert.equal(text(data), 'you said: Grüße, 你好');
  assert.deepEqual([data.usage.input_tokens, data.usage.output_tokens, data.stop_reason], [13, 5, 'end_turn']);
  assert.equal(data._request_id, 'req_stand_in');
  assert.equal(response.headers.get('cf-aig-cache-status'), 'MISS');
});
await one('stream', async (headers) => {
  const stream = client.messages.stream(ask('a stream: ü'), { headers });
  let heard = '';
  stream.on('text', (t) => { heard += t; });
  const message = await stream.finalMessage();
  assert.equal(text(message), 'you said: a stream: ü');
  assert.equal(heard, 'you said: a stream: ü');
  assert.equal(message.usage.output_tokens, 5);
});
await one('tools', async (headers) => {
  const tools = [{ name: tool.name, description: tool.description, input_schema: tool.schema }];
  const first = await client.messages.create(ask('Weather in Oslo?', { tools }), { headers });
  assert.equal(first.stop_reason, 'tool_use');
  const call = first.content.find((b) => b.type === 'tool_use');
  assert.deepEqual(call.input, { city: 'Oslo' });
  const second = await client.messages.create(ask('Weather in Oslo?', { tools, messages: [
    { role: 'user', content: 'Weather in Oslo?' }, { role: 'assistant', content: first.content },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: call.id, content: 'rain in Oslo' }] }] }), { headers });
  assert.equal(text(second), 'the tool said: rain in Oslo');
});
await one('tools-stream', async (headers) => {
  const message = await client.messages.stream(ask('Weather in Oslo?', { tools: [{ name: tool.name, input_schema: tool.schema }] }), { headers }).finalMessage();
  assert.deepEqual(message.content[0].input, { city: 'Oslo' });
});
await one('count-tokens', async (headers) => {
  const { max_tokens: _, ...body } = ask('count');
  assert.equal((await client.messages.countTokens(body, { headers })).input_tokens, 13);
});
await one('bad-request', async (headers) => {
  const e = await failure(client.messages.create(ask('x', { model: 'fail-400' }), { headers }));
  assert.ok(e instanceof Anthropic.BadRequestError);
  assert.equal(e.error.error.type, 'invalid_request_error');
  assert.equal(e.requestID, 'req_stand_in');
});
await one('bad-key', async (headers) => {
  const e = await failure(client.messages.create(ask('x', { model: 'fail-401' }), { headers }));
  assert.ok(e instanceof Anthropic.AuthenticationError);
});
await one('sdk-retries-529', async (headers) => {
  assert.equal(text(await client.messages.create(ask('again', { model: 'flaky-529' }), { headers })), 'you said: again');
});
await one('sdk-waits-429', async (headers) => {
  const began = Date.now();
  assert.equal(text(await client.messages.create(ask('later', { model: 'flaky-429' }), { headers })), 'you said: later');
  assert.ok(Date.now() - began >= 1000, 'Retry-After was not heeded');
});
await one('error-in-stream', async (headers) => {
  const e = await failure(client.messages.stream(ask('x', { model: 'breaks' }), { headers }).finalMessage());
  assert.match(String(e.message), /overloaded_error/);
});
await one('cut-stream', async (headers) => { // the connection to the provider breaks in the middle
  const e = await failure(make({ maxRetries: 0 }).messages.stream(ask('x', { model: 'cut' }), { headers }).finalMessage());
  assert.ok(e instanceof Anthropic.AnthropicError, String(e));
});
await one('cache', async (headers) => {
  const status = async () => {
    const { data, response } = await client.messages.create(ask('the same'), { headers: { ...headers, 'cf-aig-cache-ttl': '300' } }).withResponse();
    assert.equal(text(data), 'you said: the same');
    return response.headers.get('cf-aig-cache-status');
  };
  assert.deepEqual([await status(), await status()], ['MISS', 'HIT']);
});
await one('no-token', async (headers) => {
  const e = await failure(make({ defaultHeaders: {} }).messages.create(ask('x'), { headers }));
  assert.ok(e instanceof Anthropic.AuthenticationError);
  assert.equal(e.error.error[0].code, 2009);
});
await one('stored-key', async (headers) => {
  const message = await make({ baseURL: at('stored', 'anthropic'), apiKey: token, defaultHeaders: {} }).messages.create(ask('stored'), { headers });
  assert.equal(text(message), 'you said: stored');
});
await one('models', async (headers) => {
  const ids = [];
  for await (const m of client.models.list({}, { headers })) ids.push(m.id);
  assert.deepEqual(ids, ['claude-sonnet-5-5']);
});
