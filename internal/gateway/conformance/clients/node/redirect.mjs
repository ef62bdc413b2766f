// Preloaded before promptfoo: its provider cloudflare-gateway has Cloudflare's public host fixed in its code. This changes
// the base URL and nothing else: requests for that host go to ours, and requests for any other are refused.
const { GATEWAY_ORIGIN } = process.env;
const original = globalThis.fetch;

globalThis.fetch = function fetch(input, init) {
  const from = new URL(input instanceof Request ? input.url : input);
  if (from.origin === GATEWAY_ORIGIN) return original.call(this, input, init);
  if (from.origin !== 'https://gateway.ai.cloudflare.com') throw new Error(`a request to ${from.origin}`);
  const to = GATEWAY_ORIGIN + from.pathname + from.search;
  return original.call(this, input instanceof Request ? new Request(to, input) : to, init);
};
