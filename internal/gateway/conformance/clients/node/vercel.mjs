// The Vercel AI SDK with Cloudflare's ai-gateway-provider. The provider's own address is fixed, so it gets a binding, which is
// what it talks to inside a Worker: something that posts the Universal array. Ours posts it to our server.
import { generateText, Output, streamText, tool as defineTool, jsonSchema, stepCountIs, APICallError } from 'ai';
import { createAiGateway, AiGatewayDoesNotExist, AiGatewayUnauthorizedError } from 'ai-gateway-provider';
import { createOpenAI } from 'ai-gateway-provider/providers/openai';
import { createAnthropic } from 'ai-gateway-provider/providers/anthropic';
import { createGoogleGenerativeAI } from 'ai-gateway-provider/providers/google';
import { assert, at, auth, check, failure, key, tool } from './lib.mjs';

let named; // the headers that name the case to the providers: they travel within each step
const one = (name, run) => check(`vercel/${name}`, (headers) => ((named = headers), run(headers)));
const openai = () => createOpenAI({ apiKey: key });
const anthropic = () => createAnthropic({ apiKey: key });
const google = () => createGoogleGenerativeAI({ apiKey: key });

/** A gateway whose binding notes what the answers' headers said. */
function open(headers, options, { gateway = 'main', token = auth } = {}) {
  const seen = [];
  const binding = {
    async run(body, { signal } = {}) {
      const response = await fetch(at(gateway), { method: 'POST', signal, body: JSON.stringify(body),
        headers: { 'content-type': 'application/json', ...token, ...headers } });
      seen.push({ step: response.headers.get('cf-aig-step'), cache: response.headers.get('cf-aig-cache-status') });
      return response;
    },
  };
  return Object.assign(createAiGateway({ binding, options }), { seen });
}
const ask = (model, prompt, more) => ({ model, prompt, maxRetries: 0, headers: named, ...more });

await one('chat', async (headers) => {
  const gw = open(headers);
  const r = await generateText(ask(gw([openai().chat('gpt-4o-mini')]), 'Grüße, 你好'));
  assert.equal(r.text, 'you said: Grüße, 你好');
  assert.equal(r.usage.totalTokens, 18);
  assert.deepEqual(gw.seen, [{ step: '0', cache: 'MISS' }]);
});
await one('responses', async (headers) => {
  assert.equal((await generateText(ask(open(headers)([openai()('gpt-4o-mini')]), 'respond'))).text, 'you said: respond');
});
await one('anthropic', async (headers) => {
  const r = await generateText(ask(open(headers)([anthropic()('claude-sonnet-5-5')]), 'hello'));
  assert.deepEqual([r.text, r.usage.inputTokens], ['you said: hello', 13]);
});
await one('google', async (headers) => {
  const r = await generateText(ask(open(headers)([google()('gemini-2.5-pro')]), 'hello'));
  assert.deepEqual([r.text, r.usage.inputTokens], ['you said: hello', 17]);
});
await one('fallback', async (headers) => { // the step that answered parses the body: another provider's form
  const gw = open(headers);
  const r = await generateText(ask(gw([openai().chat('busy-500'), anthropic()('claude-sonnet-5-5')]), 'second'));
  assert.equal(r.text, 'you said: second');
  assert.deepEqual(gw.seen, [{ step: '1', cache: 'MISS' }]);
  assert.equal(r.usage.inputTokens, 13);
});
await one('fallback-to-google', async (headers) => {
  const gw = open(headers);
  const r = await generateText(ask(gw([openai().chat('fail-400'), anthropic()('fail-401'), google()('gemini-2.5-pro')]), 'third'));
  assert.equal(r.text, 'you said: third');
  assert.equal(gw.seen[0].step, '2');
});
await one('fallback-after-retries', async (headers) => {
  const gw = open(headers, { retries: { maxAttempts: 3, retryDelayMs: 5, backoff: 'exponential' } });
  assert.equal((await generateText(ask(gw([openai().chat('busy-500'), anthropic()('claude-sonnet-5-5')]), 'patient'))).text, 'you said: patient');
  assert.equal(gw.seen[0].step, '1');
});
await one('fallback-on-timeout', async (headers) => {
  const gw = open(headers, { requestTimeoutMs: 300 });
  assert.equal((await generateText(ask(gw([openai().chat('silent'), anthropic()('claude-sonnet-5-5')]), 'quick'))).text, 'you said: quick');
  assert.equal(gw.seen[0].step, '1');
});
for (const [name, models] of Object.entries({
  'stream': () => [openai().chat('gpt-4o-mini')],
  'stream-responses': () => [openai()('gpt-4o-mini')],
  'stream-google': () => [google()('gemini-2.5-pro')],
  'stream-fallback': () => [openai().chat('busy-429'), anthropic()('claude-sonnet-5-5')],
})) {
  await one(name, async (headers) => {
    const gw = open(headers);
    const r = streamText(ask(gw(models()), 'a stream: ü', { onError: ({ error }) => { throw error; } }));
    let text = '';
    for await (const t of r.textStream) text += t;
    assert.equal(text, 'you said: a stream: ü');
    assert.ok((await r.usage).outputTokens > 0);
    assert.equal(gw.seen[0].step, String(models().length - 1));
  });
}
await one('tools', async (headers) => {
  const r = await generateText(ask(open(headers)([openai().chat('gpt-4o-mini')]), 'Weather in Oslo?', {
    stopWhen: stepCountIs(3),
    tools: { weather: defineTool({ description: tool.description, inputSchema: jsonSchema(tool.schema), execute: async ({ city }) => `rain in ${city}` }) } }));
  assert.equal(r.text, 'the tool said: rain in Oslo');
});
await one('object', async (headers) => {
  const r = await generateText(ask(open(headers)([openai().chat('json')]), 'Where?', { output: Output.object({ schema: jsonSchema(tool.schema) }) }));
  assert.deepEqual(r.output, { city: 'Oslo' });
});
await one('cache', async (headers) => {
  const gw = open(headers, { cacheTtl: 300 });
  for (const _ of [1, 2]) assert.equal((await generateText(ask(gw([openai().chat('gpt-4o-mini')]), 'the same'))).text, 'you said: the same');
  assert.deepEqual(gw.seen.map((s) => s.cache), ['MISS', 'HIT']);
});
await one('cache-key', async (headers) => { // a key alone switches caching on, and stands for any body
  const gw = open(headers, { cacheKey: 'vercel-own-key' });
  const texts = [];
  for (const prompt of ['one', 'two']) texts.push((await generateText(ask(gw([openai().chat('gpt-4o-mini')]), prompt))).text);
  assert.deepEqual([texts, gw.seen.map((s) => s.cache)], [['you said: one', 'you said: one'], ['MISS', 'HIT']]);
});
await one('skip-cache', async (headers) => {
  const gw = open(headers, { cacheTtl: 300, skipCache: true });
  for (const _ of [1, 2]) await generateText(ask(gw([openai().chat('gpt-4o-mini')]), 'fresh'));
  assert.deepEqual(gw.seen.map((s) => s.cache), ['MISS', 'MISS']);
});
await one('metadata', async (headers) => {
  await generateText(ask(open(headers, { metadata: { team: 'a', run: 7n, dry: false }, eventId: 'row-vercel' })([openai().chat('gpt-4o-mini')]), 'tagged'));
});
await one('no-log', async (headers) => {
  await generateText(ask(open(headers, { collectLog: false })([openai().chat('gpt-4o-mini')]), 'unseen'));
});
await one('stored-key', async (headers) => { // without keys of its own the provider leaves the credential to the gateway
  const gw = open(headers, undefined, { gateway: 'stored' });
  const r = await generateText(ask(gw([createOpenAI().chat('busy-500'), createAnthropic()('claude-sonnet-5-5')]), 'stored'));
  assert.equal(r.text, 'you said: stored');
});
await one('all-fail', async (headers) => {
  const gw = open(headers);
  const e = await failure(generateText(ask(gw([openai().chat('busy-500'), anthropic()('fail-400')]), 'x')));
  assert.ok(APICallError.isInstance(e), String(e));
  assert.deepEqual([e.statusCode, e.data.error.type, gw.seen[0].step], [400, 'invalid_request_error', '1']);
});
await one('no-gateway', async (headers) => {
  const e = await failure(generateText(ask(open(headers, undefined, { gateway: 'nowhere' })([openai().chat('gpt-4o-mini')]), 'x')));
  assert.ok(e instanceof AiGatewayDoesNotExist, String(e));
});
await one('no-token', async (headers) => {
  const e = await failure(generateText(ask(open(headers, undefined, { token: {} })([openai().chat('gpt-4o-mini')]), 'x')));
  assert.ok(e instanceof AiGatewayUnauthorizedError, String(e));
});
await one('abort', async (headers) => {
  const e = await failure(generateText(ask(open(headers)([openai().chat('silent')]), 'x', { abortSignal: AbortSignal.timeout(300) })));
  assert.match(e.name, /Abort|Timeout/);
});
