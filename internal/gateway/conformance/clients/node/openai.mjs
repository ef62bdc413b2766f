// The OpenAI SDK for Node, below /openai and below /compat.
import OpenAI, { toFile } from 'openai';
import { assert, at, auth, check, failure, key, token, tool } from './lib.mjs';

for (const [slug, prefix] of [['openai', ''], ['compat', 'openai/']]) {
  const model = prefix + 'gpt-4o-mini';
  const make = (more) => new OpenAI({ apiKey: key, baseURL: at('main', slug), defaultHeaders: auth, ...more });
  const client = make();
  const ask = (content, more) => ({ model, messages: [{ role: 'user', content }], ...more });
  const one = (name, run) => check(`${slug}/${name}`, run);

  await one('chat', async (headers) => {
    const { data, response } = await client.chat.completions.create(ask('Grüße, 你好 & <b> \u2028'), { headers }).withResponse();
    assert.equal(data.choices[0].message.content, 'you said: Grüße, 你好 & <b> \u2028');
    assert.equal(data.usage.total_tokens, 18);
    assert.equal(data._request_id, 'req_stand_in');
    assert.equal(response.headers.get('cf-aig-cache-status'), 'MISS');
    assert.equal(response.headers.get('cf-aig-step'), '0');
    assert.match(response.headers.get('cf-aig-log-id'), /^[0-9a-f]{8}-[0-9a-f]{4}-7/);
  });
  await one('stream', async (headers) => {
    const stream = await client.chat.completions.create(ask('a stream, please: ü', { stream: true, stream_options: { include_usage: true } }), { headers });
    let text = '', pieces = 0, usage;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? '';
      pieces++;
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, 'you said: a stream, please: ü');
    assert.ok(pieces > 3);
    assert.equal(usage.completion_tokens, 7);
  });
  await one('stream-live', async (headers) => {
    // The stand-in holds the second half back until it is told that the first has arrived.
    const stream = await client.chat.completions.create(ask('live', { stream: true }), { headers });
    let text = '', released = false;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? '';
      if (text && !released) {
        released = true;
        await fetch(`${process.env.PROVIDER_ORIGIN}/release`, { method: 'POST', headers });
      }
    }
    assert.equal(text, 'you said: live');
  });
  await one('stream-abort', async (headers) => {
    const stream = await client.chat.completions.create(ask('live', { stream: true }), { headers });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta?.content) break; // leaves the stream and closes the connection
    }
  });
  await one('tools', async (headers) => {
    let asked;
    const runner = client.chat.completions.runTools(
      ask('Weather in Oslo?', { tools: [{ type: 'function', function: {
        name: tool.name, description: tool.description, parameters: tool.schema, parse: JSON.parse,
        function: ({ city }) => ((asked = city), `rain in ${city}`) } }] }), { headers });
    assert.equal(await runner.finalContent(), 'the tool said: rain in Oslo');
    assert.equal(asked, 'Oslo');
  });
  await one('tools-stream', async (headers) => {
    const runner = client.chat.completions.stream(
      ask('Weather in Oslo?', { tools: [{ type: 'function', function: { name: tool.name, parameters: tool.schema } }] }), { headers });
    const [call] = (await runner.finalMessage()).tool_calls;
    assert.equal(call.function.name, 'weather');
    assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Oslo' });
  });
  await one('bad-request', async (headers) => {
    const e = await failure(client.chat.completions.create(ask('x', { model: prefix + 'fail-400' }), { headers }));
    assert.ok(e instanceof OpenAI.BadRequestError);
    assert.deepEqual([e.status, e.code, e.type, e.param], [400, 'context_length_exceeded', 'invalid_request_error', 'messages']);
    assert.equal(e.requestID, 'req_stand_in');
  });
  await one('bad-key', async (headers) => {
    const e = await failure(client.chat.completions.create(ask('x', { model: prefix + 'fail-401' }), { headers }));
    assert.ok(e instanceof OpenAI.AuthenticationError);
    assert.equal(e.code, 'invalid_api_key');
  });
  await one('sdk-retries-500', async (headers) => {
    const data = await client.chat.completions.create(ask('again', { model: prefix + 'flaky-500' }), { headers });
    assert.equal(data.choices[0].message.content, 'you said: again');
  });
  await one('sdk-waits-429', async (headers) => {
    const began = Date.now();
    const data = await client.chat.completions.create(ask('later', { model: prefix + 'flaky-429' }), { headers });
    assert.equal(data.choices[0].message.content, 'you said: later');
    assert.ok(Date.now() - began >= 1000, 'Retry-After was not heeded');
  });
  await one('sdk-gives-up', async (headers) => {
    const e = await failure(make({ maxRetries: 1 }).chat.completions.create(ask('x', { model: prefix + 'busy-429' }), { headers }));
    assert.ok(e instanceof OpenAI.RateLimitError);
    assert.equal(e.headers.get('retry-after-ms'), '20');
  });
  await one('gateway-retries', async (headers) => {
    const { data, response } = await make({ maxRetries: 0 }).chat.completions.create(ask('again', { model: prefix + 'flaky-500' }),
      { headers: { ...headers, 'cf-aig-max-attempts': '3', 'cf-aig-retry-delay': '10', 'cf-aig-backoff': 'constant' } }).withResponse();
    assert.equal(data.choices[0].message.content, 'you said: again');
    assert.equal(response.headers.get('cf-aig-step'), '0');
  });
  await one('timeout', async (headers) => {
    const e = await failure(make({ maxRetries: 0, timeout: 300 }).chat.completions.create(ask('x', { model: prefix + 'silent' }), { headers }));
    assert.ok(e instanceof OpenAI.APIConnectionTimeoutError);
  });
  await one('cache', async (headers) => {
    const status = async (more) => {
      const { data, response } = await client.chat.completions.create(ask(`the same below ${slug}`), { headers: { ...headers, 'cf-aig-cache-ttl': '300', ...more } }).withResponse();
      assert.equal(data.choices[0].message.content, `you said: the same below ${slug}`);
      return response.headers.get('cf-aig-cache-status');
    };
    assert.deepEqual([await status(), await status({ 'cf-aig-skip-cache': 'true' }), await status()], ['MISS', 'MISS', 'HIT']);
  });
  await one('parallel', async (headers) => {
    const texts = await Promise.all(Array.from({ length: 24 }, async (_, i) => {
      const data = await client.chat.completions.create(ask(`number ${i}`), { headers });
      return data.choices[0].message.content;
    }));
    assert.deepEqual(texts, texts.map((_, i) => `you said: number ${i}`));
  });
  await one('no-token', async (headers) => {
    const e = await failure(make({ defaultHeaders: {} }).chat.completions.create(ask('x'), { headers }));
    assert.ok(e instanceof OpenAI.AuthenticationError);
    assert.deepEqual([e.status, e.error[0].code], [401, 2009]);
  });
  await one('no-gateway', async (headers) => {
    const e = await failure(make({ baseURL: at('nowhere', slug) }).chat.completions.create(ask('x'), { headers }));
    assert.ok(e instanceof OpenAI.BadRequestError);
    assert.equal(e.error[0].code, 2001);
  });
  await one('gateway-limit', async (headers) => {
    const limited = make({ baseURL: at(`limited-${slug}`, slug), maxRetries: 0 });
    await limited.chat.completions.create(ask('one'), { headers });
    const e = await failure(limited.chat.completions.create(ask('two'), { headers }));
    assert.ok(e instanceof OpenAI.RateLimitError);
    assert.equal(e.error[0].code, 2003);
    assert.ok(Number(e.headers.get('retry-after')) > 0);
  });
  await one('stored-key', async (headers) => { // the gateway's token in the provider's slot
    const data = await make({ baseURL: at('stored', slug), apiKey: token, defaultHeaders: {} }).chat.completions.create(ask('stored'), { headers });
    assert.equal(data.choices[0].message.content, 'you said: stored');
  });
  await one('metadata', async (headers) => {
    await client.chat.completions.create(ask('tagged'), { headers: { ...headers, 'cf-aig-event-id': `row-${slug}`,
      'cf-aig-metadata': JSON.stringify({ team: 'some', run: 7, dry: false }), 'cf-aig-custom-cost': '{"per_token_in":0.001,"per_token_out":0.002}' } });
  });
}

const native = new OpenAI({ apiKey: key, baseURL: at('main', 'openai'), defaultHeaders: auth, organization: 'org-1', project: 'proj-1' });

await check('openai/responses', async (headers) => {
  const r = await native.responses.create({ model: 'gpt-4o-mini', input: 'respond' }, { headers });
  assert.equal(r.output_text, 'you said: respond');
  assert.equal(r.usage.total_tokens, 23);
});
await check('openai/responses-stream', async (headers) => {
  const stream = native.responses.stream({ model: 'gpt-4o-mini', input: 'respond' }, { headers });
  let text = '';
  for await (const event of stream) if (event.type === 'response.output_text.delta') text += event.delta;
  assert.equal(text, 'you said: respond');
  assert.equal((await stream.finalResponse()).usage.output_tokens, 4);
});
await check('openai/responses-tools', async (headers) => {
  const r = await native.responses.create({ model: 'gpt-4o-mini', input: 'Weather in Oslo?',
    tools: [{ type: 'function', name: tool.name, parameters: tool.schema, strict: true }] }, { headers });
  assert.deepEqual(JSON.parse(r.output[0].arguments), { city: 'Oslo' });
});
await check('openai/with-v1', async (headers) => { // the longer path is understood as well
  const data = await native.withOptions({ baseURL: at('main', 'openai/v1') }).chat.completions.create(
    { model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'v1' }] }, { headers });
  assert.equal(data.choices[0].message.content, 'you said: v1');
});
await check('openai/embeddings', async (headers) => {
  const r = await native.embeddings.create({ model: 'text-embedding-3-small', input: ['a', 'b'] }, { headers });
  assert.deepEqual(r.data.map((d) => [...d.embedding]), [[0.5, -1], [0.5, -1]]); // the SDK asks for base64 and undoes it
});
await check('openai/models', async (headers) => {
  const ids = [];
  for await (const m of native.models.list({ headers })) ids.push(m.id);
  assert.deepEqual(ids, ['gpt-4o-mini']);
});
await check('openai/files', async (headers) => {
  const file = await native.files.create({ file: await toFile(Buffer.from('{"custom_id":"1"}\n'), 'in.jsonl'), purpose: 'batch' }, { headers });
  assert.deepEqual([file.id, file.bytes], ['file-1', 18]);
  const content = await native.files.content('file-1', { headers });
  assert.equal(Buffer.from(await content.arrayBuffer()).toString('hex'), '00ff0a7b7d0a80');
  assert.equal((await native.files.delete('file-1', { headers })).deleted, true);
});

const unified = new OpenAI({ apiKey: key, baseURL: at('main', 'compat'), defaultHeaders: auth });

await check('compat/anthropic', async (headers) => {
  const data = await unified.chat.completions.create({ model: 'anthropic/claude-sonnet-5-5', messages: [{ role: 'user', content: 'other' }] }, { headers });
  assert.equal(data.choices[0].message.content, 'you said: other');
});
await check('compat/google', async (headers) => {
  const data = await unified.chat.completions.create({ model: 'google-ai-studio/gemini-2.5-pro', messages: [{ role: 'user', content: 'third' }] }, { headers });
  assert.equal(data.choices[0].message.content, 'you said: third');
});
await check('compat/dynamic', async (headers) => { // the route's first model fails, its second answers
  const { data, response } = await unified.withOptions({ baseURL: at('stored', 'compat'), apiKey: token, defaultHeaders: {} }).chat.completions.create(
    { model: 'dynamic/careful', messages: [{ role: 'user', content: 'route' }] }, { headers }).withResponse();
  assert.equal(data.choices[0].message.content, 'you said: route');
  assert.equal(response.headers.get('cf-aig-model'), 'gpt-4o-mini');
  assert.equal(response.headers.get('cf-aig-provider'), 'openai');
});
await check('compat/no-prefix', async (headers) => {
  const e = await failure(unified.chat.completions.create({ model: 'gpt-4o-mini', messages: [{ role: 'user', content: 'x' }] }, { headers }));
  assert.deepEqual([e.status, e.error[0].code], [400, 2019]);
});
await check('compat/models', async (headers) => {
  const ids = [];
  for await (const m of unified.models.list({ headers })) ids.push(m.id);
  assert.ok(ids.includes('openai/gpt-4o-mini'), ids.join());
});
